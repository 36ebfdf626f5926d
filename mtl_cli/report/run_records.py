"""Run folders, found below any folders and read: hundreds in seconds, whatever state each is in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mtl_cli.report.differing_settings import differing_settings, same_but_for_seed
from mtl_cli.report.run_record import RunRecord, RunStatus, read_run

__all__ = [
    "RunRecord",
    "RunStatus",
    "differing_settings",
    "find_runs",
    "read_run",
    "read_runs",
    "same_but_for_seed",
    "sweep_of",
]

_FILES_OF_A_RUN = frozenset({"config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl", "results.json"})
# Ours and Hydra's record of a sweep.
_FILES_OF_A_SWEEP = ("sweep.json", "multirun.yaml")
_LEVELS_TO_A_SWEEP = 4


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders in or below some folders, each once, in natural order below each.

    A folder is a run where it holds two or more of a run's five files, or one of them where it is itself among `paths`.
    Folders inside a run are not looked at, nor those whose name begins with a dot. What does not exist holds no runs.
    """
    found: dict[Path, Path] = {}
    seen: set[Path] = set()
    for path in paths:
        for run in _runs_below(path, seen, needed=1):
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read the runs in or below some folders, in the order of `find_runs`. Never raises for what it finds there."""
    runs = find_runs(paths)
    sweeps = [sweep_of(run) for run in runs]
    groups = _unique_names([sweep for sweep in dict.fromkeys(sweeps) if sweep is not None])
    names = _unique_names(runs)
    return [
        read_run(run, names[run], "" if sweep is None else groups[sweep])
        for run, sweep in zip(runs, sweeps, strict=True)
    ]


def _runs_below(folder: Path, seen: set[Path], needed: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: _natural(entry.name))
    except OSError:  # not there, not a folder, not ours to read
        return
    resolved = folder.resolve()
    if len(_FILES_OF_A_RUN.intersection(entry.name for entry in listed)) >= needed:
        yield folder
    elif resolved not in seen:  # links may lead in circles
        seen.add(resolved)
        for entry in listed:
            if not entry.name.startswith(".") and _is_folder(entry):
                yield from _runs_below(folder / entry.name, seen, needed=2)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that puts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def sweep_of(run: Path) -> Path | None:
    """Return the nearest folder above a run that holds the record of a sweep, a study or a search."""
    for folder in run.resolve().parents[:_LEVELS_TO_A_SWEEP]:
        if any((folder / name).is_file() for name in _FILES_OF_A_SWEEP):
            return folder
    return None


def _unique_names(folders: Iterable[Path]) -> dict[Path, str]:
    """Name each folder by the end of its path, as much of it as tells it from the others."""
    parts = {folder: folder.resolve().parts for folder in folders}
    lengths = dict.fromkeys(parts, 1)
    while True:
        taken: dict[tuple[str, ...], list[Path]] = {}
        for folder, length in lengths.items():
            taken.setdefault(parts[folder][-length:], []).append(folder)
        shared = [folder for same in taken.values() if len(same) > 1 for folder in same]
        if not shared:
            return {folder: "/".join(parts[folder][-length:]) or str(folder) for folder, length in lengths.items()}
        for folder in shared:
            lengths[folder] += 1
