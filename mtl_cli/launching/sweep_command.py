"""`mtl train -m`: which jobs a sweep has, whether it is a new one or goes on, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_cli.errors import UserError
from mtl_cli.launching.composing import Words, compose_multirun, hydra_session, jobs_of, uses_another_sweeper
from mtl_cli.launching.launch import launch_jobs
from mtl_cli.launching.train_job import RunHere
from mtl_cli.overrides import force_values, groups_in, value_of

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from mtl_cli.sweeps import SweepFolder, SweepSettings

_DEFAULT_SUBDIR = "${hydra.job.num}"


def sweep_command(arguments: list[str], conf_dir: Path, run_here: RunHere) -> int | None:
    """`mtl train -m ...`: work out the jobs, run those that are not finished, show a table; return the exit code.

    None where the words ask Hydra for something else, or for a sweeper of its own.
    """
    from rich.console import Console

    from mtl_cli.check_config import ConfigError
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
    is_new = not (sweep.path / "sweep.json").exists()
    try:
        launched = launch_jobs(sweep, words, conf_dir, run_here=run_here, isolate=settings.isolate)
    except ConfigError:
        if is_new:
            _remove_if_nothing_ran(sweep)
        raise
    Console().print(outcome_table(launched.outcomes))
    print("\n".join(closing_lines(sweep, launched.outcomes)), flush=True)
    return exit_code(launched.outcomes, launched.interrupted)


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
        found = [[word.lstrip("+") for word in job] for job in jobs_of(hydra, config, overrides, groups)]
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
    from mtl_cli.tracking.masking import mask_argument

    there = SweepFolder.read(sweep.path)
    if not settings.skip_finished:
        raise UserError(
            f"hydra.sweep.dir: {sweep.path} holds a sweep already. Go on with it by sweep.resume={sweep.path}, or "
            "choose another folder."
        )
    before, now = ({job.name: job for job in of.jobs} for of in (there, sweep))
    gone = [name for name in before if name not in now]
    if gone:
        raise UserError(
            f"sweep.skip_finished: the sweep in {sweep.path} has other jobs ({', '.join(gone[:3])}, ...). Give "
            "all of its values and any new ones, or choose another hydra.sweep.dir."
        )
    differing = {
        word.partition("=")[0]
        for name, job in before.items()
        for word in set(job.overrides) ^ {mask_argument(word) for word in now[name].overrides}
    }
    if differing:
        raise UserError(
            f"sweep.skip_finished: the sweep in {sweep.path} was started with another {', '.join(sorted(differing))}. "
            "Give the same values, or choose another hydra.sweep.dir."
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
    from mtl_cli.tracking.run_folder import remove_if_empty

    if any(outcome.status != "not started" for outcome in sweep.outcomes()):
        return
    for name in ("sweep.json", ".sweep.lock"):
        (sweep.path / name).unlink(missing_ok=True)
    remove_if_empty(sweep.path)
