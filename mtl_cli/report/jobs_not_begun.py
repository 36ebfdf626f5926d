"""What a sweep has still to do: jobs of its sweep.json that no run belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mtl_cli.report.run_record import RunRecord
from mtl_cli.report.run_records import find_runs, sweep_of


def jobs_not_begun(runs: Iterable[RunRecord]) -> list[str]:
    """Return a line for each sweep, study or search of these runs whose jobs have not all begun."""
    sweeps = {sweep: run.group for run in runs if run.group and (sweep := sweep_of(run.path)) is not None}
    lines = []
    for sweep, name in sweeps.items():
        jobs = _jobs(sweep)
        waiting = [job for job in jobs if not find_runs([sweep / job])]
        if waiting:
            some = f"{', '.join(waiting[:3])}{', ...' * (len(waiting) > 3)}"
            lines.append(f"{name}: {len(waiting)} of {len(jobs)} jobs have not begun ({some})")
    return lines


def _jobs(sweep: Path) -> list[str]:
    """Names of the jobs; none where there is no list of them that can be read."""
    try:
        record = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
        jobs = record["jobs"]
        return [str(job["name"]) for job in jobs]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
