"""Hand those jobs that are not finished to the launcher that the user chose, and say where all of them stand."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mtl_cli.launching.composing import Words, check_jobs, compose_multirun, hydra_session
from mtl_cli.launching.train_job import RunHere, TrainJob
from mtl_cli.overrides import force_values, groups_in, value_of
from mtl_cli.quoting import quoted

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

    from mtl_cli.sweeps import Job, JobOutcome, Launch, SweepFolder

_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True)
class Launched:
    """Where all jobs of a sweep stand after a launch, and the signal that ended it early, if one did."""

    outcomes: list[JobOutcome]
    interrupted: KeyboardInterrupt | None = None


def launch_jobs(
    sweep: SweepFolder,
    words: Words,
    conf_dir: Path,
    *,
    run_here: RunHere | None = None,
    isolate: bool | None = None,
) -> Launched:
    """Write sweep.json, run all jobs that are not finished, and say where each of them stands.

    Jobs that another process trains at the moment are left to it.

    Args:
        sweep: finished jobs are passed over, unfinished ones go on from their checkpoints.
        words: whatever else stands on the command line: the launcher and its settings, the user's configuration.
        conf_dir: the shipped configuration.
        run_here: trains in this process, for launchers that do one job after the other.
        isolate: see `SweepSettings`.

    Raises:
        ConfigError: no job's configuration is sound.
        UserError: another process works on the sweep.
    """
    from mtl_cli.sweeps.progress import JobWatch
    from mtl_cli.sweeps.resources import visible_gpus
    from mtl_cli.tracking.run_folder import RunFolder

    groups = groups_in([conf_dir, *([words.config_dir] if words.config_dir else [])])
    errors: dict[str, str] = {}
    interrupted: KeyboardInterrupt | None = None
    with sweep.alone(), hydra_session(conf_dir, words.config_dir) as hydra:
        sweep.write()
        before = sweep.outcomes()
        todo = [
            outcome.job
            for outcome in before
            if outcome.status != "finished" and not RunFolder(outcome.folder).is_in_use()
        ]
        overrides = [*force_values(words.overrides, groups), f"hydra.sweep.dir={quoted(str(sweep.path.resolve()))}"]
        config = compose_multirun(hydra, words.config_name or "train", overrides)
        errors |= check_jobs(hydra, config, todo, groups)
        todo = [job for job in todo if job.name not in errors]
        one_after_the_other = config.hydra.launcher._target_ == _BASIC_LAUNCHER
        if run_here is not None and (isolate or (isolate is None and not one_after_the_other)):
            run_here = None
        num_slots = _num_slots(config.hydra.launcher, len(todo))
        task = TrainJob(
            config_arguments=words.config_arguments,
            run_here=run_here,
            num_slots=num_slots,
            slots=sweep.path.resolve() / ".slots",
            gpus=visible_gpus() if run_here is None else [],
            # Jobs of a cluster's queue go on when whoever waits for them is stopped.
            stop_file=sweep.stop_file.resolve() if num_slots and run_here is None else None,
            total=len(todo),
        )
        with JobWatch(sweep, errors, announce=run_here is None) as watch:
            try:
                with _stopping(task.stop_file):
                    if todo:
                        watch.begin(todo)
                        _launch(hydra, config, task, sweep, todo, groups, errors)
            except KeyboardInterrupt as signal_:
                interrupted = signal_
                if task.stop_file is not None:
                    watch.wait_for_running()
    finished = {outcome.job.name for outcome in before if outcome.status == "finished"}
    outcomes = [replace(outcome, skipped=outcome.job.name in finished) for outcome in sweep.outcomes(errors)]
    return Launched(outcomes, interrupted)


def launcher_of(kind: str, arguments: Sequence[str], conf_dir: Path, run_here: RunHere) -> Launch:
    """Return what runs the jobs of a command that works them out itself, with the launcher that the user chose.

    Where its folder holds sweep.json already, what that command line said of the user's configuration and of the
    launcher goes on to count, unless it is given anew.

    Args:
        kind: study or search.
        arguments: the command line after the command's name.
        conf_dir: the shipped configuration.
        run_here: trains in this process, for launchers that do one job after the other.
    """
    from mtl_cli.sweeps import SweepFolder

    given = Words.parse(arguments)
    assert given is not None, "Hydra answers --help and the like itself"

    def launch(folder: Path, jobs: Sequence[Job]) -> list[JobOutcome]:
        words, command = given, tuple(arguments)
        if (folder / "sweep.json").is_file():
            before = SweepFolder.read(folder)
            former = Words.parse(before.command) or Words([])
            overrides = given.overrides
            if not any(word.startswith("hydra/launcher=") for word in overrides):
                overrides = [*(word for word in former.overrides if _is_about_launching(word)), *overrides]
            words = Words(overrides, given.config_dir or former.config_dir, given.config_name)
            if value_of(f"{kind}.resume", arguments):
                command = before.command
        sweep = SweepFolder(folder, tuple(jobs), command, kind=kind)
        words = Words([word for word in words.overrides if _is_about_launching(word)], words.config_dir)
        launched = launch_jobs(sweep, words, conf_dir, run_here=run_here)
        if launched.interrupted is not None:
            raise launched.interrupted
        return launched.outcomes

    return launch


def _is_about_launching(word: str) -> bool:
    return word.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.max_batch_size"))


def _launch(
    hydra: Hydra,
    config: DictConfig,
    task: TrainJob,
    sweep: SweepFolder,
    jobs: Sequence[Job],
    groups: dict[str, list[str]],
    errors: dict[str, str],
) -> None:
    """Hand jobs to the launcher, in batches where hydra.sweeper.max_batch_size says so; add errors by job's name."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=config.hydra.job.config_name)
    launcher: Launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=task,
        config=config,
    )
    size = config.hydra.sweeper.get("max_batch_size") or len(jobs)
    for begin in range(0, len(jobs), size):
        batch = jobs[begin : begin + size]
        words = [
            [*force_values(list(job.overrides), groups), f"hydra.sweep.subdir={quoted(job.name)}"] for job in batch
        ]
        try:
            returned: Sequence[JobReturn] = launcher.launch(words, initial_job_idx=begin)
        except Exception as error:  # of the launcher: a worker that was killed, a job that the queue has lost
            errors |= _errors_of_lost_jobs(sweep, batch, type(launcher).__name__, error)
            continue
        for job, found in zip(batch, returned, strict=True):
            if (problem := _problem_of(found)) is not None:
                errors[job.name] = problem
    callbacks.on_multirun_end(config=config, config_name=config.hydra.job.config_name)


def _problem_of(returned: JobReturn) -> str | None:
    from hydra.core.utils import JobStatus

    if returned.status != JobStatus.FAILED:
        return None if returned.return_value is None else str(returned.return_value)
    problem: Any = returned._return_value
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _errors_of_lost_jobs(sweep: SweepFolder, batch: Sequence[Job], launcher: str, error: Exception) -> dict[str, str]:
    """Say which jobs a launcher that gave up has left without an end; those that still train are waited for."""
    from mtl_cli.sweeps import job_outcome
    from mtl_cli.tracking.run_folder import RunFolder

    while any(RunFolder(sweep.folder_of(job)).is_in_use() for job in batch):
        time.sleep(1.0)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    lost = [job for job in batch if job_outcome(job, sweep.folder_of(job)).status in ("running", "not started")]
    return {job.name: f"{launcher} lost a job ({reason}); this one may still wait in the queue" for job in lost}


def _num_slots(launcher: Mapping[str, Any], num_jobs: int) -> int:
    """How many jobs share this machine; 0 where the launcher gives each its own part."""
    from mtl_cli.sweeps.resources import usable_cores

    target = str(launcher["_target_"])
    if target == _BASIC_LAUNCHER:
        return 1
    if target.endswith("JoblibLauncher"):
        asked = int(launcher["n_jobs"])
        return max(1, min(num_jobs, asked if asked > 0 else usable_cores() + 1 + asked))
    if target.endswith("LocalLauncher"):  # submitit's: all jobs at once
        return max(1, num_jobs)
    return 0


@contextmanager
def _stopping(stop_file: Path | None) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an `Interrupted` that leaves no run without a checkpoint.

    Jobs in this process see to that themselves. Others are asked by the stop file, and waited for; a second signal
    ends the wait.
    """
    from mtl_cli.stopping import Interrupted

    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if stop_file is None or received:
            raise Interrupted(number)
        received.append(number)
        stop_file.touch()
        print("stopping: the runs write a checkpoint each (once more: stop at once)", file=sys.stderr, flush=True)

    if stop_file is not None:
        stop_file.unlink(missing_ok=True)
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if received:
            raise Interrupted(received[0])
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        if stop_file is not None:
            stop_file.unlink(missing_ok=True)
