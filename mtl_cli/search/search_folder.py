"""The folder of a search: what is searched, Optuna's storage, and a run folder a trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from mtl_cli.errors import UserError
from mtl_cli.search.settings import SearchSettings
from mtl_cli.search.space import Space
from mtl_cli.sweeps import Job, SweepFolder
from mtl_cli.tracking.json_files import write_json

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is, as search.json keeps it: all that a worker needs to know.

    Attributes:
        fixed: overrides that all trials have.
        config_arguments: words for all trials, such as --config-dir DIR.
        working_folder: where the search was started; relative paths of the overrides count from there.
        command: the words after `mtl search`.
    """

    settings: SearchSettings
    space: Space
    fixed: tuple[str, ...] = ()
    config_arguments: tuple[str, ...] = ()
    working_folder: str = "."
    command: tuple[str, ...] = ()

    def overrides(self, point: Mapping[str, Any]) -> tuple[str, ...]:
        """All overrides of a trial: the fixed ones, then those that were drawn."""
        return (*self.fixed, *self.space.overrides(point))


@dataclass(frozen=True)
class SearchFolder:
    """Paths and files of one search."""

    path: Path
    locks: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.absolute())
        object.__setattr__(self, "locks", self.path / ".locks")

    @property
    def plan_file(self) -> Path:
        """search.json."""
        return self.path / "search.json"

    @property
    def journal_file(self) -> Path:
        """Optuna's storage: one JSON object a line."""
        return self.path / "optuna_journal.jsonl"

    def trial_folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / trial_name(number)

    def claiming(self) -> FileLock:
        """The lock under which a worker looks at all trials and takes one."""
        self.locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.locks / "claim.lock")

    def write_plan(self, plan: Plan) -> None:
        """Write search.json."""
        record = {
            "format_version": FORMAT_VERSION,
            "settings": asdict(plan.settings),
            "space": plan.space.to_dict(),
            "fixed": plan.fixed,
            "config_arguments": plan.config_arguments,
            "working_folder": plan.working_folder,
            "command": plan.command,
        }
        write_json(self.plan_file, record)

    def read_plan(self) -> Plan:
        """Read search.json; a UserError says what is wrong with it."""
        if not self.plan_file.is_file():
            raise UserError(
                f"search.resume: {self.path} is not the folder of a search: it holds no {self.plan_file.name}. Give "
                "the folder that `mtl search` printed."
            )
        try:
            record = json.loads(self.plan_file.read_text(encoding="utf-8"))
            version = record["format_version"]
            if not isinstance(version, int) or version > FORMAT_VERSION:
                raise UserError(
                    f"{self.plan_file} has format_version {version!r}; this mtl reads versions up to {FORMAT_VERSION}. "
                    "Install the version of mtl that wrote it, or a newer one."
                )
            return Plan(
                settings=SearchSettings(**record["settings"]),
                space=Space.from_dict(record["space"]),
                fixed=tuple(record["fixed"]),
                config_arguments=tuple(record["config_arguments"]),
                working_folder=record["working_folder"],
                command=tuple(record["command"]),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(f"{self.plan_file} is not what mtl writes: {error!r}. See docs/search.md.") from error

    def write_jobs(self, plan: Plan, jobs: Sequence[Job]) -> None:
        """Write sweep.json, by which `mtl compare` knows the folder."""
        SweepFolder(self.path, tuple(jobs), plan.command, "search").write()


def trial_name(number: int) -> str:
    """The name of a trial and of its folder, counted from 0 as Optuna does."""
    return f"trial-{number:03d}"
