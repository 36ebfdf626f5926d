"""Does learning together help where data is scarce? Metrics over the size of the training split."""

from __future__ import annotations

from dataclasses import dataclass

from mtl_cli.studies.comparison import gain_over
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.statistics import Interval, PairedTest, holm, mean_interval


@dataclass(frozen=True)
class CurvePoint:
    """One system at one size.

    Attributes:
        size: training examples of the task.
        mean: of the main metric over seeds.
        gain: over single-task training at the same size; None for single-task training itself.
        p_holm: of the gain, corrected over the sizes of the curve.
    """

    size: int
    mean: Interval
    gain: PairedTest | None
    p_holm: float | None


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
                points.append((size or plan.tasks[task].num_train, mean, gain))
        corrected = holm([gain.p if gain is not None else None for _, _, gain in points])
        systems[system] = [CurvePoint(*point, p) for point, p in zip(points, corrected, strict=True)]
    return LearningCurve(task, split, systems)
