"""What a sweep has still to do: jobs of its sweep.json that no run belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtl_cli.report.run_record import RunRecord
from mtl_cli.report.run_records import find_runs, sweep_of

_KINDS = ("sweep", "study", "search")


def jobs_not_begun(runs: Iterable[RunRecord]) -> list[str]:
    """Return a line for each sweep, study or search of these runs whose jobs have not all begun."""
    sweeps = {sweep: run.group for run in runs if run.group and (sweep := sweep_of(run.path)) is not None}
    lines = []
    for sweep, group in sweeps.items():
        record = _record(sweep)
        jobs = _jobs(record)
        waiting = [job for job in jobs if not _has_begun(sweep, job)]
        if waiting:
            some = f"{', '.join(waiting[:3])}{', ...' * (len(waiting) > 3)}"
            lines.append(f"{_title(record, group)}: {len(waiting)} of {len(jobs)} jobs have not begun ({some})")
    return lines


def _title(record: dict[str, Any], group: str) -> str:
    """What it is, its name, and its folder's where that is another: "study sharing (2026-01-31)"."""
    kind, name = record.get("kind"), record.get("name")
    kind = kind if kind in _KINDS else "sweep"
    if not isinstance(name, str) or not name:
        return f"{kind} {group}"
    is_its_folders = group == name or set(group.split("/")) <= set(name.split())  # "2026-01-31 12-00-00"
    return f"{kind} {name}" if is_its_folders else f"{kind} {name} ({group})"


def _record(sweep: Path) -> dict[str, Any]:
    """The content of sweep.json; nothing where it cannot be read."""
    try:
        record = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _jobs(record: dict[str, Any]) -> list[str]:
    """Names of the jobs; none where there is no list of them, and none that leads out of the sweep's folder."""
    try:
        names = [str(job["name"]) for job in record["jobs"]]
    except (KeyError, TypeError):
        return []
    return [name for name in names if name != ".." and Path(name).name == name]


def _has_begun(sweep: Path, job: str) -> bool:
    try:
        return bool(find_runs([sweep / job]))
    except ValueError:  # of a name that no file system has
        return False
