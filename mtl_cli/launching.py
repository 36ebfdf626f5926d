"""Many runs through Hydra's launchers: one after the other, side by side (joblib), or on a cluster (submitit, SLURM).

Hydra's own multirun starts every job anew, stops where it is stopped, and knows its jobs by numbers. Here the jobs are
worked out first, named, checked and written down; the launcher that the user chose then gets those that are not
finished. An unfinished run goes on from its checkpoint.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mtl_cli.errors import UserError
from mtl_cli.overrides import force_values, groups_in, value_of

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

    from mtl_cli.sweeps import Job, JobOutcome, Launch, SweepFolder, SweepSettings

RunHere = Callable[[dict[str, Any], Path, list[str]], int]
"""Trains in this process: configuration, run folder, overrides -> exit code."""

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_DEFAULT_SUBDIR = "${hydra.job.num}"


@dataclass(frozen=True)
class Words:
    """A command line after the command's name, sorted by what Hydra does with each word."""

    overrides: list[str]
    config_dir: Path | None = None
    config_name: str | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Words | None:
        """Return None where Hydra is asked for something else than to run: --help, --cfg, --info, ..."""
        from hydra._internal.utils import get_args_parser

        found = get_args_parser().parse_args(list(arguments))
        if (
            found.help or found.hydra_help or found.cfg or found.info is not None or found.shell_completion
            or found.experimental_rerun or found.config_path
        ):  # fmt: skip
            return None
        return cls(list(found.overrides), Path(found.config_dir) if found.config_dir else None, found.config_name)

    @property
    def config_arguments(self) -> list[str]:
        """The words about where the configuration lies: the same for every job."""
        directory = ["--config-dir", str(self.config_dir.resolve())] if self.config_dir else []
        return [*directory, *(["--config-name", self.config_name] if self.config_name else [])]


@contextmanager
def hydra_session(conf_dir: Path, config_dir: Path | None) -> Iterator[Hydra]:
    """Hydra over the shipped configuration and the user's, as its own command line makes it."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    search_path = create_config_search_path(str(conf_dir.resolve()))
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{config_dir.resolve()}", SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2(task_name="mtl train", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = outer


def compose_multirun(hydra: Hydra, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration that a sweep starts from; swept overrides are left out of it."""
    from hydra.types import RunMode

    return hydra.compose_config(
        config_name=config_name, overrides=list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )


def uses_another_sweeper(config: DictConfig) -> bool:
    """Whether the user chose a sweeper that decides by itself which jobs there are."""
    return bool(config.hydra.sweeper._target_ != _BASIC_SWEEPER)


def jobs_of(hydra: Hydra, config: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job: the product of all swept values, those of hydra.sweeper.params included."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = config.hydra.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    words = [word for word in words if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return jobs


@dataclass
class TrainJob:
    """What a launcher calls for each job, in whatever process it starts: trains, or goes on training.

    Attributes:
        config_arguments: words for all jobs, see `Words`.
        run_here: trains in the launcher's own process; None: in a process of the job's own.
        num_slots: how many jobs go on at the same time on this machine; 0: the launcher sees to each job's share.
        slots: folder of the places that they take turns in.
        stop_file: once it is there, the jobs that go on are asked to stop, and no others begin; None: nobody asks.
        total: number of jobs to say in headings.
    """

    config_arguments: list[str] = field(default_factory=list)
    run_here: RunHere | None = None
    num_slots: int = 0
    slots: Path = Path()
    stop_file: Path | None = None
    total: int = 0

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
        from mtl_cli.sweeps.resources import free_slot, usable_cores, visible_gpus

        def asked_to_stop() -> bool:
            return self.stop_file is not None and self.stop_file.exists()

        def run(share: Mapping[str, str]) -> str | None:
            return run_job_process(
                job, folder, config_arguments=self.config_arguments, environment=share, should_stop=asked_to_stop
            ).error

        if asked_to_stop():
            return None
        if self.stop_file is not None and threading.current_thread() is threading.main_thread():
            # A terminal sends Ctrl-C to this process, too: the one that launched it decides what to do.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not self.num_slots:
            return run({})
        with free_slot(self.slots, self.num_slots) as slot:
            return run(environment_of_slot(slot, self.num_slots, cores=usable_cores(), gpus=visible_gpus()))

    def _here(self, job: Job, folder: Path, config: DictConfig, run_here: RunHere, number: int) -> str | None:
        from mtl_cli.sweeps import job_outcome

        print(f"\njob {number + 1} of {self.total}: {job.name}", flush=True)
        plain = plain_config(config)
        if job_outcome(job, folder).can_be_resumed:
            code = run_here({**plain, "resume": str(folder)}, folder, [f"resume={folder}"])
        else:
            code = run_here(plain, folder, list(job.overrides))
        return None if code == 0 else job_outcome(job, folder).error or f"exit code {code}"


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration, without what only sweeps look at."""
    from omegaconf import OmegaConf

    # Hydra's own node is left out before: what it says of a job is not known before the job runs.
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("sweep", "study", "hydra")])
    resolved = OmegaConf.to_container(kept, resolve=True, throw_on_missing=False)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def check_jobs(hydra: Hydra, config: DictConfig, jobs: Sequence[Job], groups: dict[str, list[str]]) -> dict[str, str]:
    """Compose and check every job's configuration; return the first problem of each that has one, by name.

    Raises:
        ConfigError: no job is sound; all problems, each once.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mtl_cli.check_config import ConfigError, check_config

    problems: dict[str, list[str]] = {}
    for job in jobs:
        try:
            composed = plain_config(
                hydra.config_loader.load_sweep_config(config, force_values(list(job.overrides), groups))
            )
            check_config(composed, composed.get("allow_targets"))
        except ConfigError as error:
            problems[job.name] = error.problems
        except (HydraException, OmegaConfBaseException) as error:
            problems[job.name] = [" ".join(str(error).split())]
    if jobs and len(problems) == len(jobs):
        raise ConfigError(list(dict.fromkeys(problem for found in problems.values() for problem in found)))
    return {name: found[0] for name, found in problems.items()}


def launch_jobs(
    sweep: SweepFolder,
    words: Words,
    conf_dir: Path,
    *,
    run_here: RunHere | None = None,
    isolate: bool | None = None,
) -> list[JobOutcome]:
    """Run all jobs of a sweep that are not finished, and say where each of them stands.

    Args:
        sweep: written down already; finished jobs are passed over, unfinished ones go on from their checkpoints.
        words: whatever else stands on the command line: the launcher and its settings, the user's configuration.
        conf_dir: the shipped configuration.
        run_here: trains in this process, for launchers that do one job after the other.
        isolate: see `SweepSettings`.

    Raises:
        ConfigError: no job's configuration is sound.
        Interrupted: after a signal, once the runs that were going on have written their checkpoints.
    """
    from mtl_cli.sweeps.progress import JobWatch

    groups = groups_in([conf_dir, *([words.config_dir] if words.config_dir else [])])
    before = sweep.outcomes()
    todo = [outcome.job for outcome in before if outcome.status != "finished"]
    errors: dict[str, str] = {}
    with sweep.alone(), hydra_session(conf_dir, words.config_dir) as hydra:
        overrides = [*force_values(words.overrides, groups), f"hydra.sweep.dir={_quoted(sweep.path.resolve())}"]
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
            # Jobs of a cluster's queue go on when whoever waits for them is stopped.
            stop_file=sweep.stop_file.resolve() if num_slots and run_here is None else None,
            total=len(todo),
        )
        with JobWatch(sweep, errors, announce=run_here is None) as watch, _stopping(task.stop_file):
            try:
                if todo:
                    watch.begin(todo)
                    errors |= _launch(hydra, config, task, todo, groups)
            except KeyboardInterrupt:
                watch.wait_for_running()
                raise
    finished = {outcome.job.name for outcome in before if outcome.status == "finished"}
    return [replace(outcome, skipped=outcome.job.name in finished) for outcome in sweep.outcomes(errors)]


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
        sweep.write()
        words = Words([word for word in words.overrides if _is_about_launching(word)], words.config_dir)
        return launch_jobs(sweep, words, conf_dir, run_here=run_here)

    return launch


def _is_about_launching(word: str) -> bool:
    return word.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.max_batch_size"))


def _launch(
    hydra: Hydra, config: DictConfig, task: TrainJob, jobs: Sequence[Job], groups: dict[str, list[str]]
) -> dict[str, str]:
    """Hand jobs to the launcher, in batches where hydra.sweeper.max_batch_size says so; return errors by job's name."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.core.utils import JobReturn, JobStatus
    from hydra.types import HydraContext

    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=config.hydra.job.config_name)
    launcher: Launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=task,
        config=config,
    )
    size = config.hydra.sweeper.get("max_batch_size") or len(jobs)
    errors: dict[str, str] = {}
    for begin in range(0, len(jobs), size):
        batch = jobs[begin : begin + size]
        words = [
            [*force_values(list(job.overrides), groups), f"hydra.sweep.subdir={_quoted(job.name)}"] for job in batch
        ]
        try:
            returned: Sequence[JobReturn] = launcher.launch(words, initial_job_idx=begin)
        except Exception as error:  # of the launcher: a worker that was killed, a queue that refuses
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            errors |= {job.name: f"{type(launcher).__name__}: {reason}" for job in batch}
            continue
        for job, found in zip(batch, returned, strict=True):
            if found.status == JobStatus.FAILED:
                problem: Any = found._return_value
                errors[job.name] = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            elif found.return_value is not None:
                errors[job.name] = str(found.return_value)
    callbacks.on_multirun_end(config=config, config_name=config.hydra.job.config_name)
    return errors


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


def _quoted(value: object) -> str:
    from mtl_cli.sweeps.process import quoted

    return quoted(str(value))


# The command


def sweep_command(arguments: list[str], conf_dir: Path, run_here: RunHere) -> int | None:
    """`mtl train -m ...`: work out the jobs, run those that are not finished, show a table; return the exit code.

    None where the words ask Hydra for something else, or for a sweeper of its own.
    """
    from rich.console import Console

    from mtl_cli.sweeps.progress import closing_lines, exit_code, outcome_table

    words = Words.parse(arguments)
    if words is None:
        return None
    if value_of("sweep.resume", words.overrides):
        sweep, words, settings = _reopen(words, conf_dir)
        console = Console(stderr=True)
        console.print(f"going on with {sweep.path}", soft_wrap=True, highlight=False)
    else:
        planned = _plan(words, conf_dir)
        if planned is None:
            return None
        sweep, settings = planned
        sweep.write()
    interrupted: KeyboardInterrupt | None = None
    try:
        outcomes = launch_jobs(sweep, words, conf_dir, run_here=run_here, isolate=settings.isolate)
    except KeyboardInterrupt as signal_:
        interrupted, outcomes = signal_, sweep.outcomes()
    except UserError:
        _remove_if_nothing_ran(sweep)
        raise
    Console().print(outcome_table(outcomes))
    print("\n".join(closing_lines(sweep, outcomes)), flush=True)
    return exit_code(outcomes, interrupted)


def _plan(words: Words, conf_dir: Path) -> tuple[SweepFolder, SweepSettings] | None:
    """Work out the jobs of a new sweep, or of the one that the same words have started before."""
    from mtl_cli.sweeps import Job, SweepFolder
    from mtl_cli.sweeps.sweep_folder import find_same_command

    groups = groups_in([conf_dir, *([words.config_dir] if words.config_dir else [])])
    with hydra_session(conf_dir, words.config_dir) as hydra:
        overrides = force_values(words.overrides, groups)
        config = compose_multirun(hydra, words.config_name or "train", overrides)
        if uses_another_sweeper(config):
            return None
        settings = _settings(config)
        found = [[word.lstrip("+") for word in job] for job in jobs_of(hydra, config, overrides)]
        found = [[word for word in job if not word.startswith("sweep.")] for job in found]
        path = Path(str(config.hydra.sweep.dir))
        names = _names(hydra, config, found, groups)
    if settings.resume:
        raise UserError("sweep.resume: is given on the command line, with nothing but a launcher beside it")
    command = (*words.config_arguments, *words.overrides)
    if settings.skip_finished and not (path / "sweep.json").is_file():
        same = _without(command, "sweep.skip_finished")
        path = find_same_command([path.absolute().parent, *path.absolute().parent.parent.glob("*")], same) or path
    jobs = tuple(Job(name=name, overrides=tuple(job)) for name, job in zip(names, found, strict=True))
    sweep = SweepFolder(path, jobs, _without(command, "sweep.skip_finished"), name=settings.name or "")
    if (path / "sweep.json").is_file():
        _refuse_other_jobs(sweep, settings)
    return sweep, settings


def _without(command: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(word for word in command if word.partition("=")[0] != key)


def _settings(config: DictConfig) -> SweepSettings:
    from omegaconf import OmegaConf

    from mtl_cli.check_config import check_settings
    from mtl_cli.sweeps import SweepSettings

    node = OmegaConf.to_container(config.get("sweep") or OmegaConf.create({}), resolve=True)
    assert isinstance(node, dict)
    return check_settings(SweepSettings, {str(key): value for key, value in node.items()}, prefix="sweep.")


def _names(hydra: Hydra, config: DictConfig, jobs: Sequence[list[str]], groups: dict[str, list[str]]) -> list[str]:
    """Name the jobs; a hydra.sweep.subdir of the user's own is asked for each of them."""
    from omegaconf import OmegaConf, open_dict

    from mtl_cli.sweeps import job_names

    own = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(own, dict)
    if own["subdir"] == _DEFAULT_SUBDIR:
        return job_names(jobs)
    names = []
    for number, job in enumerate(jobs):
        composed = hydra.config_loader.load_sweep_config(config, force_values(job, groups))
        with open_dict(composed):
            composed.hydra.job.num = number
        names.append(str(composed.hydra.sweep.subdir))
    if len(set(names)) < len(names):
        raise UserError(
            f"hydra.sweep.subdir: gives several jobs the same folder ({names[0]}, ...); add ${{hydra.job.num}}"
        )
    return names


def _refuse_other_jobs(sweep: SweepFolder, settings: SweepSettings) -> None:
    """Of a folder that holds a sweep already, go on only with the same jobs, and only if asked to."""
    from mtl_cli.sweeps import SweepFolder

    there = SweepFolder.read(sweep.path)
    if not settings.skip_finished:
        raise UserError(
            f"hydra.sweep.dir: {sweep.path} holds a sweep already. Go on with it by sweep.resume={sweep.path}, or "
            "choose another folder."
        )
    other = {job.name for job in there.jobs} ^ {job.name for job in sweep.jobs}
    if not {job.name for job in there.jobs} <= {job.name for job in sweep.jobs}:
        raise UserError(
            f"sweep.skip_finished: the sweep in {sweep.path} has other jobs ({', '.join(sorted(other)[:3])}, ...). "
            "Give all of its values and any new ones, or choose another hydra.sweep.dir."
        )


def _reopen(words: Words, conf_dir: Path) -> tuple[SweepFolder, Words, SweepSettings]:
    """Open the sweep that `sweep.resume` names, with the words that it was started with and the new ones."""
    from mtl_cli.sweeps import SweepFolder

    given = value_of("sweep.resume", words.overrides)
    assert given is not None
    sweep = SweepFolder.read(Path(given.strip("'\"")))
    if sweep.kind != "sweep":
        raise UserError(
            f"sweep.resume: {sweep.path} is a {sweep.kind}; go on with `mtl {sweep.kind} {sweep.kind}.resume={given}`"
        )
    new = [word for word in words.overrides if not word.startswith("sweep.resume=")]
    masked = sweep.masked
    others = [
        word for word in new
        if not word.startswith(("hydra/launcher=", "hydra.launcher.", "sweep.isolate=", "debug="))
        and word.partition("=")[0] not in masked
    ]  # fmt: skip
    if others:
        raise UserError(
            f"sweep.resume: a sweep goes on with the settings it was started with; leave out {', '.join(others)}, or "
            "start a new sweep with them"
        )
    lost = [key for key in masked if value_of(key, new) is None]
    if lost:
        raise UserError(
            f"sweep.resume: secrets are not written down; give {', '.join(f'{key}=...' for key in lost)} again"
        )
    before = Words.parse([word for word in sweep.command if word.partition("=")[0].lstrip("+~") not in masked])
    assert before is not None
    again = {word.partition("=")[0]: word for word in new}
    if masked:
        jobs = tuple(
            replace(job, overrides=tuple(again.get(o.partition("=")[0], o) for o in job.overrides))
            for job in sweep.jobs
        )
        sweep = replace(sweep, jobs=jobs)
    new_launcher = any(word.startswith("hydra/launcher=") for word in new)
    kept = [
        word
        for word in before.overrides
        if not (new_launcher and word.startswith(("hydra/launcher=", "hydra.launcher.")))
    ]
    kept = [word for word in kept if word.partition("=")[0] not in again]
    together = Words([*kept, *new], words.config_dir or before.config_dir, words.config_name or before.config_name)
    with hydra_session(conf_dir, together.config_dir) as hydra:
        groups = groups_in([conf_dir, *([together.config_dir] if together.config_dir else [])])
        config = compose_multirun(hydra, together.config_name or "train", force_values(together.overrides, groups))
        return sweep, together, _settings(config)


def _remove_if_nothing_ran(sweep: SweepFolder) -> None:
    """Take back the folder of a sweep that never began."""
    if any(outcome.status != "not started" for outcome in sweep.outcomes()):
        return
    for name in ("sweep.json", ".sweep.lock"):
        (sweep.path / name).unlink(missing_ok=True)
    for folder in (sweep.path, *sweep.path.absolute().parents[:2]):
        if folder.is_dir() and folder.absolute() != Path.cwd() and not any(folder.iterdir()):
            folder.rmdir()
