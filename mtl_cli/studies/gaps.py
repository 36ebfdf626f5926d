"""Does learning together overfit less? How far the training split is ahead of validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_cli.studies.comparison import gain_over
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.plan import Kind
from mtl_cli.studies.statistics import Interval, PairedTest, holm, mean_interval

TrainMetrics = Mapping[str, Mapping[str, float]]
"""Job -> task -> main metric on (a sample of) the training split, with the best weights."""


@dataclass(frozen=True)
class Gap:
    """One system on one task.

    Attributes:
        train: main metric on training examples over seeds.
        validation: the same on validation.
        gap: by how much training is better than validation; the larger, the more was learnt by heart.
        difference: gap of the variant less that of single-task training: negative means less overfitting.
        p_holm: of the difference, corrected over tasks.
    """

    train: Interval
    validation: Interval
    gap: Interval
    difference: PairedTest | None
    p_holm: float | None


def gaps_of(measured: Measured, train_metrics: TrainMetrics) -> dict[str, dict[str, Gap]]:
    """Return system -> task -> gap; systems are `single` and the variants."""
    tasks = measured.plan.tasks
    single = {task: _values(measured, train_metrics, "single", task, task) for task in tasks}
    found = {"single": {task: gap for task, values in single.items() if (gap := _gap(values, None, None))}}
    for variant in measured.plan.variants:
        values = {task: _values(measured, train_metrics, "variant", variant, task) for task in tasks}
        differences = {task: gain_over(_only_gaps(values[task]), _only_gaps(single[task]), True) for task in tasks}
        corrected = holm([test.p if test is not None else None for test in differences.values()])
        found[variant] = {
            task: gap
            for (task, test), p in zip(differences.items(), corrected, strict=True)
            if (gap := _gap(values[task], test, p))
        }
    return found


_Values = dict[int, tuple[float, float, float]]
"""Seed -> training, validation, gap."""


def _values(measured: Measured, train_metrics: TrainMetrics, kind: Kind, name: str, task: str) -> _Values:
    sign = 1 if measured.plan.tasks[task].higher_is_better else -1
    found: _Values = {}
    for seed, validation in measured.values(kind, name, task, "validation").items():
        folder = measured.folder(kind, name, seed)
        train = None if folder is None else train_metrics.get(folder.path.name, {}).get(task)
        if train is not None:
            found[seed] = (train, validation, sign * (train - validation))
    return found


def _only_gaps(values: _Values) -> dict[int, float]:
    return {seed: gap for seed, (_, _, gap) in values.items()}


def _gap(values: _Values, difference: PairedTest | None, p_holm: float | None) -> Gap | None:
    train, validation, gap = (mean_interval([of_seed[i] for of_seed in values.values()]) for i in range(3))
    if train is None or validation is None or gap is None:
        return None
    return Gap(train, validation, gap, difference, p_holm)
