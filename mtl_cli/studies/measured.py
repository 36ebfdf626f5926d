"""What the runs of a study gave, as far as they are finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtl_cli.errors import UserError
from mtl_cli.studies.plan import Kind, RunKey, StudyPlan
from mtl_cli.tracking.results import Results
from mtl_cli.tracking.run_folder import RunFolder


@dataclass(frozen=True)
class Measured:
    """The finished runs of a study.

    Attributes:
        plan: of the study.
        results: job -> results.json of its run.
        folders: job -> its run folder, of the finished ones.
        missing: job -> why there is nothing of it.
    """

    plan: StudyPlan
    results: dict[str, Results] = field(default_factory=dict)
    folders: dict[str, RunFolder] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def run(self, kind: Kind, name: str, seed: int, size: int | None = None) -> Results | None:
        """Return the results of a run; None where it is not finished."""
        job = self.plan.runs.get(RunKey(kind, name, size, seed))
        return None if job is None else self.results.get(job)

    def folder(self, kind: Kind, name: str, seed: int, size: int | None = None) -> RunFolder | None:
        """Return the folder of a finished run."""
        job = self.plan.runs.get(RunKey(kind, name, size, seed))
        return None if job is None else self.folders.get(job)

    def values(self, kind: Kind, name: str, task: str, split: str, size: int | None = None) -> dict[int, float]:
        """Return the main metric of a task by seed, of the finished runs whose split has labels."""
        metric = self.plan.tasks[task].metric
        found = {}
        for seed in self.plan.settings.seeds:
            results = self.run(kind, name, seed, size)
            value = None if results is None else results.tasks.get(task, {}).get(split, {}).get(metric)
            if value is not None:
                found[seed] = value
        return found

    def has_values(self, task: str, split: str) -> bool:
        """Return whether any run has figures of a task on a split."""
        return any(split in results.tasks.get(task, {}) for results in self.results.values())

    def splits(self) -> list[str]:
        """Return the splits that any task has figures of, the one that the report is about first."""
        with_labels = {
            split for results in self.results.values() for splits in results.tasks.values() for split in splits
        }
        return [split for split in self.plan.settings.split_order if split in with_labels]


def read_measured(folder: Path, plan: StudyPlan, errors: Mapping[str, str] | None = None) -> Measured:
    """Read the runs below a study's folder; one that cannot be read is missing, with the reason.

    Args:
        folder: of the study.
        plan: of the study.
        errors: job -> why its run failed, where a launcher knows more than the folder says.
    """
    measured = Measured(plan)
    for job in plan.jobs:
        try:
            run = RunFolder.open(folder / job.name)
            results = run.read_results()
        except UserError as error:
            known = (errors or {}).get(job.name)
            measured.missing[job.name] = known or (
                "not started" if not (folder / job.name).exists() else str(error).splitlines()[0]
            )
            continue
        if results.status == "finished":
            measured.results[job.name], measured.folders[job.name] = results, run
        else:
            reason = results.error or (errors or {}).get(job.name)
            measured.missing[job.name] = f"{results.status}{f': {reason}' if reason else ''}"
    return measured
