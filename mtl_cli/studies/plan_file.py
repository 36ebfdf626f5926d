"""plan.json: what a study is made of, kept in its folder so that it can be gone on with and reported on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtl_cli.errors import UserError
from mtl_cli.studies.plan import RunKey, StudyPlan, TaskInfo
from mtl_cli.studies.settings import StudySettings
from mtl_cli.sweeps import Job
from mtl_cli.tracking.json_files import write_json
from mtl_cli.tracking.masking import mask_argument

FORMAT_VERSION = 1
PLAN_FILE = "plan.json"


def write_plan(folder: Path, plan: StudyPlan) -> None:
    """Write plan.json; secrets in overrides are masked."""
    write_json(folder / PLAN_FILE, _record(plan))


def _record(plan: StudyPlan) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "settings": asdict(plan.settings),
        "tasks": {name: asdict(task) for name, task in plan.tasks.items()},
        "variants": {name: [mask_argument(o) for o in overrides] for name, overrides in plan.variants.items()},
        "runs": [asdict(key) | {"job": job} for key, job in plan.runs.items()],
        "jobs": [
            {"name": job.name, "steps": plan.steps[job.name], "overrides": [mask_argument(o) for o in job.overrides]}
            for job in plan.jobs
        ],
        "notes": plan.notes,
    }


def read_plan(folder: Path) -> StudyPlan:
    """Return what `write_plan` wrote.

    Raises:
        UserError: there is none, or it is not what mtl writes.
    """
    file = folder / PLAN_FILE
    if not file.is_file():
        raise UserError(f"study.resume: {folder} is not the folder of a study: it holds no {PLAN_FILE}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version = record["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(f"{file} has format_version {version!r}; this mtl reads version {FORMAT_VERSION}")
        return StudyPlan(
            settings=StudySettings(**record["settings"]),
            tasks={name: TaskInfo(**task) for name, task in record["tasks"].items()},
            variants={name: tuple(overrides) for name, overrides in record["variants"].items()},
            runs={RunKey(run["kind"], run["name"], run["size"], run["seed"]): run["job"] for run in record["runs"]},
            jobs=tuple(Job(name=job["name"], overrides=tuple(job["overrides"])) for job in record["jobs"]),
            steps={job["name"]: job["steps"] for job in record["jobs"]},
            notes=list(record["notes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not what mtl writes: {error!r}") from error


def is_same_study(folder: Path, plan: StudyPlan) -> bool:
    """Whether the study in a folder has the same runs."""
    found = read_plan(folder)
    names = {job.name: [mask_argument(o) for o in job.overrides] for job in plan.jobs}
    return names == {job.name: list(job.overrides) for job in found.jobs}
