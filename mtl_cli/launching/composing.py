"""Hydra as a library: the words of a command line, and the configurations that they compose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_cli.overrides import force_values, users_files_first

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from mtl_cli.sweeps import Job

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


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
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    with users_files_first(config_dir):
        search_path = create_config_search_path(str(conf_dir.resolve()))
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


def jobs_of(
    hydra: Hydra, config: DictConfig, overrides: Sequence[str], groups: dict[str, list[str]]
) -> list[list[str]]:
    """Return the overrides of each job: the product of all swept values.

    Those of hydra.sweeper.params are included; what the command line says of the same setting counts instead.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = config.hydra.sweeper.get("params") or {}
    # With the same prefix as those of the command line, by which the sweeper tells settings apart.
    words = [*force_values([f"{key}={value}" for key, value in params.items()], groups), *overrides]
    words = [word for word in words if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return jobs


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
