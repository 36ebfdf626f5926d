"""Many runs through Hydra's launchers: one after the other, side by side (joblib), or on a cluster (submitit, SLURM).

Hydra's own multirun starts every job anew, stops where it is stopped, and knows its jobs by numbers. Here the jobs are
worked out first, named, checked and written down; the launcher that the user chose then gets those that are not
finished. An unfinished run goes on from its checkpoint.
"""

from mtl_cli.launching.composing import Words, hydra_session, plain_config
from mtl_cli.launching.launch import launch_jobs, launcher_of
from mtl_cli.launching.sweep_command import sweep_command
from mtl_cli.launching.train_job import RunHere, TrainJob

__all__ = [
    "RunHere",
    "TrainJob",
    "Words",
    "hydra_session",
    "launch_jobs",
    "launcher_of",
    "plain_config",
    "sweep_command",
]
