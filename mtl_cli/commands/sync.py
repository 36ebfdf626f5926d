"""`mtl sync`: write runs into a dashboard that was not on at the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtl_cli.build import instantiate
from mtl_cli.check_config import check_loggers, check_settings
from mtl_cli.commands.compare import folders_of, runs_in
from mtl_cli.report.run_records import RunRecord
from mtl_cli.report.table_formats import printable
from mtl_cli.sweeps.sweep_folder import group_of_run
from mtl_cli.tracking.logger_files import OFFLINE, LoggerName, logger_files, remove
from mtl_cli.tracking.masking import mask_text
from mtl_cli.tracking.replay import replay
from mtl_cli.tracking.run_folder import RunFolder

Outcome = Literal["written", "there already", "passed over", "failed"]


@dataclass(kw_only=True)
class SyncSettings:
    """Settings of `mtl sync`.

    Args:
        to: the dashboard.
        runs: run folders, or folders with runs in them; None: outputs and multirun.
        all: write interrupted and failed runs, too.
        again: write runs that are there already anew.
        wandb: settings of W&B that take the place of the run's own, or of conf/logger/wandb.yaml.
        tensorboard: the same for TensorBoard.
        debug: show the traceback of an error.
    """

    to: LoggerName
    runs: str | list[str] | None = None
    all: bool = False
    again: bool = False
    wandb: dict[str, Any] = field(default_factory=dict)
    tensorboard: dict[str, Any] = field(default_factory=dict)
    debug: bool = False


def sync(config: Mapping[str, Any], config_dirs: Sequence[Path]) -> int:
    """Write runs into a dashboard as `config` (conf/sync.yaml) says; return 1 where one failed.

    Args:
        config: the settings.
        config_dirs: where logger/<to>.yaml may lie; the last one that has it counts.
    """
    settings = check_settings(SyncSettings, config)
    runs = runs_in(folders_of(settings.runs))
    usual = _usual_settings(settings.to, config_dirs)
    check_loggers({settings.to: usual | _changes(settings)})
    writer = _Writer(settings, usual)
    outcomes: Counter[Outcome] = Counter()
    with _progress(len(runs)) as (say, advance):
        for run in runs:
            outcome, reason = writer.write(run)
            outcomes[outcome] += 1
            say(f"{printable(run.name)}: {outcome}{f' ({printable(reason)})' if reason else ''}")
            advance()
    counts = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    print(f"{len(runs)} run{'s' * (len(runs) != 1)}: {counts}")
    for line in _what_next(settings.to, runs, writer.written):
        print(line)
    return 1 if outcomes["failed"] else 0


class _Writer:
    """Writes one run after the other.

    Attributes:
        written: files and folders of the runs written so far.
    """

    def __init__(self, settings: SyncSettings, usual: Mapping[str, Any]) -> None:
        self.written: list[Path] = []
        self._settings = settings
        self._usual = usual
        self._offline_modes: set[str] = set()

    def write(self, run: RunRecord) -> tuple[Outcome, str]:
        """Write a run; return what came of it, and why."""
        settings = self._settings
        if run.status == "broken":
            return "passed over", run.problem or ""
        if run.status == "running":
            return "passed over", "running, or killed"
        if run.status != "finished" and not settings.all:
            return "passed over", f"{run.status}; all=true takes it, too"
        folder = RunFolder(run.path)
        before = logger_files(folder, settings.to)
        if before and not settings.again:
            return "there already", "again=true writes it anew"
        try:
            self._replay(folder, before)
        except Exception as error:  # whatever a dashboard's library raises; the other runs go on
            if settings.debug:
                raise
            lines = str(error).strip().splitlines()
            return "failed", mask_text(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
        remove(before)  # only now: what was there stays until the new is whole
        return "written", ""

    def _replay(self, folder: RunFolder, before: set[Path]) -> None:
        """Write a run whole or not at all: half of one must not pass for one that is there already."""
        identity = folder.path / "wandb_id.txt"
        had_identity = identity.exists()
        node = self._node(folder)
        try:
            # Where only W&B's own folder was cleared away, the server has the run of this id and would append to it.
            replaces = self._settings.again or had_identity
            replay(folder, instantiate(node), group=group_of_run(folder.path.resolve()), replaces=replaces)
            new = logger_files(folder, self._settings.to) - before
            if not new:
                raise RuntimeError("the logger wrote nothing; does its mode, or WANDB_MODE, say disabled?")
        except BaseException:
            remove(logger_files(folder, self._settings.to) - before)
            if not had_identity:
                identity.unlink(missing_ok=True)
            raise
        self.written += sorted(new)
        if all(path.name.startswith(OFFLINE) for path in new):
            # Where the server did not answer for one run, hundreds of others do not wait for it.
            self._offline_modes.add(node.get("mode", "auto"))

    def _node(self, folder: RunFolder) -> dict[str, Any]:
        """The run's own settings of the logger, where it has some, and those of the command line."""
        to = self._settings.to
        own = (folder.read_config().get("loggers") or {}).get(to)
        node = {**(own if isinstance(own, Mapping) else self._usual)}
        if node.get("mode") == "disabled":  # at the time
            node["mode"] = "auto"
        node |= _changes(self._settings)
        check_loggers({to: node})
        if node.get("mode", "auto") in self._offline_modes:
            node["mode"] = "offline"
        return node


def _changes(settings: SyncSettings) -> dict[str, Any]:
    return settings.wandb if settings.to == "wandb" else settings.tensorboard


def _usual_settings(name: str, config_dirs: Sequence[Path]) -> dict[str, Any]:
    """The content of the last logger/<name>.yaml."""
    files = [file for folder in config_dirs if (file := folder / "logger" / f"{name}.yaml").is_file()]
    return dict(yaml.safe_load(files[-1].read_text(encoding="utf-8")))


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """A bar on a terminal; the lines stand above it."""
    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("runs", total=total)
        yield lambda line: console.print(line, markup=False), lambda: bar.advance(task)


def _what_next(to: str, runs: Sequence[RunRecord], written: Sequence[Path]) -> list[str]:
    if to == "tensorboard":
        return [f"look at them with: tensorboard --logdir {_common(runs)}"] if written else []
    offline = [str(path) for path in written if path.name.startswith(OFFLINE)]
    if not offline:
        return []
    return [
        f"{len(offline)} written offline; upload with: wandb sync {' '.join(offline[:3])}{' ...' * (len(offline) > 3)}"
    ]


def _common(runs: Sequence[RunRecord]) -> Path:
    """The folder that all runs lie in."""
    first, *others = [run.path.resolve() for run in runs]
    for folder in (first, *first.parents):
        if all(other.is_relative_to(folder) for other in others):
            return folder
    return first
