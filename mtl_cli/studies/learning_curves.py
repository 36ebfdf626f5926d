"""Does learning together help where data is scarce? Metrics over the size of the training split."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from mtl_cli.studies.comparison import gain_over
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.plan import Kind
from mtl_cli.studies.statistics import Interval, PairedTest, holm, mean_interval


@dataclass(frozen=True)
class CurvePoint:
    """One system at one size.

    Attributes:
        size: training examples of the task.
        mean: of the main metric over seeds.
        gain: over single-task training at the same size; None for single-task training itself.
        p_holm: of the gain, corrected over the sizes of the curve.
        passes: over the task's training rows, mean over seeds; None for runs that did not count them.
    """

    size: int
    mean: Interval
    gain: PairedTest | None
    p_holm: float | None
    passes: float | None


@dataclass(frozen=True)
class LearningCurve:
    """One task.

    Attributes:
        task: whose metric it is.
        split: it was measured on.
        systems: `single` and each variant -> points in the order of sizes.
    """

    task: str
    split: str
    systems: dict[str, list[CurvePoint]]


def learning_curves(measured: Measured, split: str) -> list[LearningCurve]:
    """Return a curve of each task whose training split was cut."""
    settings = measured.plan.settings
    if not settings.sizes:
        return []
    tasks = measured.plan.tasks if settings.low_resource_task is None else [settings.low_resource_task]
    return [_curve(measured, task, split) for task in tasks]


def _curve(measured: Measured, task: str, split: str) -> LearningCurve:
    plan = measured.plan
    with_all = "all" in (plan.settings.low_resource or [])
    sizes: list[int | None] = [*plan.settings.sizes, *([None] if with_all else [])]
    higher = plan.tasks[task].higher_is_better
    systems: dict[str, list[CurvePoint]] = {}
    alone = {size: measured.values("single", task, task, split, size) for size in sizes}
    for system in ("single", *plan.variants):
        points = []
        for size in sizes:
            values = alone[size] if system == "single" else measured.values("variant", system, task, split, size)
            mean = mean_interval(list(values.values()))
            if mean is not None:
                gain = None if system == "single" else gain_over(values, alone[size], higher)
                passes = _passes(measured, system, task, size)
                points.append((size or plan.tasks[task].num_train, mean, gain, passes))
        corrected = holm([gain.p if gain is not None else None for _, _, gain, _ in points])
        systems[system] = [
            CurvePoint(size, mean, gain, p, passes)
            for (size, mean, gain, passes), p in zip(points, corrected, strict=True)
        ]
    return LearningCurve(task, split, systems)


def _passes(measured: Measured, system: str, task: str, size: int | None) -> float | None:
    kind: Kind = "single" if system == "single" else "variant"
    name = task if system == "single" else system
    runs = [measured.run(kind, name, seed, size) for seed in measured.plan.settings.seeds]
    passes = [run.seen[task].passes for run in runs if run is not None and task in run.seen]
    return fmean(passes) if passes else None
