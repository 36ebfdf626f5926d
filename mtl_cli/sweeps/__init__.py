"""Many runs as one thing: their names, the folder that holds them, how each is run, where all of them stand."""

from mtl_cli.sweeps.job import Job, JobOutcome, Launch, job_outcome
from mtl_cli.sweeps.names import job_names
from mtl_cli.sweeps.process import run_job_process
from mtl_cli.sweeps.resources import environment_of_slot
from mtl_cli.sweeps.settings import SweepSettings
from mtl_cli.sweeps.sweep_folder import SweepFolder, sweep_name

__all__ = [
    "Job",
    "JobOutcome",
    "Launch",
    "SweepFolder",
    "SweepSettings",
    "environment_of_slot",
    "job_names",
    "job_outcome",
    "run_job_process",
    "sweep_name",
]
