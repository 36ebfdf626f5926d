"""One of many runs: what it is to do, and what has come of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mtl_cli.errors import UserError
from mtl_cli.tracking.run_folder import RunFolder

JobStatus = Literal["finished", "failed", "interrupted", "running", "not started"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: its folder below the sweep's: readable, safe as a file name, and no other job's.
        overrides: of `mtl train`, in order, without sweep syntax.
    """

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """Where a job stands.

    Attributes:
        status: running is also what a run that was killed says of itself, until it is resumed.
        error: the first line of what stopped it, where it failed.
        score: of a finished run, the mean of the tasks' main metrics on validation.
        seconds: in training and validation, summed over interruptions.
        skipped: it was finished before this launch.
    """

    job: Job
    folder: Path
    status: JobStatus
    error: str | None = None
    score: float | None = None
    seconds: float = 0.0
    skipped: bool = False

    @property
    def can_be_resumed(self) -> bool:
        """Whether its folder holds a run that has not come to its end."""
        return self.status in ("failed", "interrupted", "running") and (self.folder / "results.json").is_file()


Launch = Callable[[Path, Sequence[Job]], list[JobOutcome]]
"""Runs the jobs that are not finished yet, each in a folder of its name below the given one; says where all stand."""


def job_outcome(job: Job, folder: Path, error: str | None = None) -> JobOutcome:
    """Read from a job's run folder where it stands.

    Args:
        job: the job.
        folder: its run folder, whether or not it is there.
        error: what is known of its failure where the folder does not say: it never came to write one, say.
    """
    nothing = JobOutcome(job=job, folder=folder, status="failed" if error else "not started", error=error)
    run = RunFolder(folder)
    if not run.results_file.is_file():
        return nothing
    try:
        results = run.read_results()
    except (UserError, json.JSONDecodeError) as problem:
        return replace(nothing, status="failed", error=str(problem).splitlines()[0])
    status: JobStatus = results.status
    if error is not None and status != "finished":
        status = "failed"
    return JobOutcome(
        job=job,
        folder=folder,
        status=status,
        error=(results.error or error) if status == "failed" else None,
        score=results.score,
        seconds=results.training.seconds,
    )
