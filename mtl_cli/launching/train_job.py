"""What a launcher calls for each job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_cli.launching.composing import plain_config

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mtl_cli.sweeps import Job

RunHere = Callable[[dict[str, Any], Path, list[str]], int]
"""Trains in this process: configuration, run folder, overrides -> exit code."""


def environment_of_task() -> dict[str, str]:
    """Return what torchrun would tell this process, where a cluster's job has several tasks: they train one model."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return {}
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks == 1:
        return {}
    place = TorchDistributedEnvironment()
    return {
        "MASTER_ADDR": place.master_addr,
        "MASTER_PORT": str(place.master_port),
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
    }


@dataclass
class TrainJob:
    """What a launcher calls for each job, in whatever process it starts: trains, or goes on training.

    Attributes:
        config_arguments: words for all jobs, see `Words`.
        run_here: trains in the launcher's own process; None: in a process of the job's own.
        num_slots: how many jobs go on at the same time on this machine; 0: the launcher sees to each job's share.
        slots: folder of the places that they take turns in.
        gpus: those that the jobs share, seen by the launching process; a launcher may hide them from its workers.
        stop_file: once it is there, the jobs that go on are asked to stop, and no others begin; None: nobody asks.
        total: number of jobs to say in headings.
        launching_process: its process id.
    """

    config_arguments: list[str] = field(default_factory=list)
    run_here: RunHere | None = None
    num_slots: int = 0
    slots: Path = Path()
    gpus: list[str] = field(default_factory=list)
    stop_file: Path | None = None
    total: int = 0
    launching_process: int = field(default_factory=os.getpid)

    def __call__(self, config: DictConfig) -> str | None:
        """Run the job that Hydra has composed; return what stopped it, where it failed."""
        from hydra.core.hydra_config import HydraConfig

        from mtl_cli.sweeps import Job

        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        overrides = tuple(override.lstrip("+") for override in hydra_config.overrides.task)
        job = Job(name=folder.name, overrides=overrides)
        if self.run_here is None:
            return self._in_its_own_process(job, folder)
        return self._here(job, folder, config, self.run_here, hydra_config.job.num)

    def _in_its_own_process(self, job: Job, folder: Path) -> str | None:
        from mtl_cli.sweeps import environment_of_slot, run_job_process
        from mtl_cli.sweeps.resources import free_slot, usable_cores

        def asked_to_stop() -> bool:
            return self.stop_file is not None and self.stop_file.exists()

        def run(share: Mapping[str, str]) -> str | None:
            return run_job_process(
                job,
                folder,
                config_arguments=self.config_arguments,
                environment={**share, **environment_of_task()},
                should_stop=asked_to_stop,
            ).error

        if asked_to_stop():
            return None
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self.stop_file is not None and in_main_thread and os.getpid() != self.launching_process:
            # A terminal sends Ctrl-C to this process, too: the one that launched it decides what to do.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not self.num_slots:
            return run({})
        with free_slot(self.slots, self.num_slots) as slot:
            return run(environment_of_slot(slot, self.num_slots, cores=usable_cores(), gpus=self.gpus))

    def _here(self, job: Job, folder: Path, config: DictConfig, run_here: RunHere, number: int) -> str | None:
        from mtl_cli.sweeps import job_outcome

        print(f"\njob {number + 1} of {self.total}: {job.name}", flush=True)
        plain = plain_config(config)
        if job_outcome(job, folder).can_be_resumed:
            code = run_here({**plain, "resume": str(folder)}, folder, [f"resume={folder}"])
        else:
            code = run_here(plain, folder, list(job.overrides))
        return None if code == 0 else job_outcome(job, folder).error or f"exit code {code}"
