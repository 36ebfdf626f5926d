"""Two runs of one seed compared over the examples of a split, from the predictions in their folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from mtl_cli.build import build_tasks
from mtl_cli.check_config import check_tasks
from mtl_cli.errors import UserError
from mtl_cli.studies.bootstrap import Bootstrap, paired_bootstrap
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.plan import Kind, RunKey
from mtl_cli.tracking.run_folder import RunFolder


def bootstrap_variants(
    measured: Measured, split: str, allow_targets: list[str] | None = None
) -> tuple[dict[tuple[str, str], Bootstrap], list[str]]:
    """Compare each variant with single-task training over the examples of a split, for the first seed of the study.

    Returns:
        (variant, task) -> the bootstrap; and why there is none of some.
    """
    plan, seed = measured.plan, measured.plan.settings.seeds[0]
    found: dict[tuple[str, str], Bootstrap] = {}
    problems: list[str] = []
    alone: dict[str, _Predicted] = {}
    for task, info in plan.tasks.items():
        if not measured.has_values(task, split):
            continue
        for variant in plan.variants:
            try:
                if task not in alone:
                    single = _finished(measured, "single", task, seed)
                    alone[task] = _Predicted(single, task, split, info.metric, allow_targets)
                folder = _finished(measured, "variant", variant, seed)
                together = _Predicted(folder, task, split, info.metric, allow_targets)
                found[variant, task] = _compare(
                    together, alone[task], plan.settings.resamples, seed, info.higher_is_better
                )
            except UserError as error:
                problems.append(f"{variant} on {task}, {split}: no bootstrap ({error})")
    return found, problems


def _finished(measured: Measured, kind: Kind, name: str, seed: int) -> RunFolder:
    folder = measured.folder(kind, name, seed)
    if folder is None:
        raise UserError(f"{measured.plan.runs[RunKey(kind, name, None, seed)]} is not finished")
    return folder


class _Predicted:
    """The metric of a run's predictions on a split, as a function of how often each example counts."""

    def __init__(self, folder: RunFolder, task: str, split: str, metric: str, allow_targets: list[str] | None) -> None:
        file = folder.predictions_file(task, split)
        if not file.is_file():
            raise UserError(f"{folder.path.name} has no {file.relative_to(folder.path)}")
        try:
            self.records: list[dict[str, Any]] = folder.read_predictions(task, split)
            if not self.records or not all("label" in record for record in self.records):
                raise UserError(f"{file.relative_to(folder.path)} of {folder.path.name} holds no labels")
            node = folder.read_config()["tasks"][task]
            check_tasks({task: node}, allow_targets)
            of_counts = build_tasks({task: node})[task].metric_of_counts(metric, self.records, _labels_of(folder, task))
        except UserError:
            raise
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise UserError(f"{file} cannot be used: {' '.join(str(error).split())}") from error
        if of_counts is None:
            raise UserError(f"{metric} of this type of task cannot be computed anew for drawn examples")
        self.of_counts: Callable[[np.ndarray], float] = of_counts

    @property
    def labels(self) -> list[Any]:
        return [record["label"] for record in self.records]


def _labels_of(folder: RunFolder, task: str) -> list[str] | None:
    """Names of the labels in the order of their ids, of the saved model."""
    description = json.loads((folder.model_folder / "mtl.json").read_text(encoding="utf-8"))
    labels: list[str] | None = description["tasks"][task]["labels"]
    return labels


def _compare(first: _Predicted, second: _Predicted, resamples: int, seed: int, higher_is_better: bool) -> Bootstrap:
    if first.labels != second.labels:
        raise UserError("the two runs have other examples or labels")
    return paired_bootstrap(
        first.of_counts,
        second.of_counts,
        len(first.records),
        num_resamples=resamples,
        seed=seed,
        higher_is_better=higher_is_better,
    )
