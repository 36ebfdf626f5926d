"""Where the budget is not the same: what saw a task more or less often than single-task training did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from mtl_cli.studies.costs import Cost
from mtl_cli.studies.learning_curves import LearningCurve
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.plan import pair_name

TOLERANCE = 0.02
"""Passes over a task's rows that differ by less than this part of those alone count as the same."""


def unequal_budgets(measured: Measured, costs: Mapping[str, Cost], curves: Sequence[LearningCurve]) -> list[str]:
    """Say which variants, sizes and pairs saw more or less of a task than single-task training, by over `TOLERANCE`."""
    return [*_of_variants(costs), *_of_sizes(measured, curves), *_of_pairs(measured, costs)]


def _of_variants(costs: Mapping[str, Cost]) -> list[str]:
    alone = costs["single"].passes_of_tasks if "single" in costs else {}
    return [
        note
        for variant, cost in costs.items()
        if (note := _note(variant, {task: (n, alone.get(task)) for task, n in cost.passes_of_tasks.items()}))
    ]


def _of_sizes(measured: Measured, curves: Sequence[LearningCurve]) -> list[str]:
    notes = []
    for curve in curves:
        alone = {point.size: point.passes for point in curve.systems.get("single", [])}
        for variant, points in curve.systems.items():
            cut = [p for p in points if p.size < measured.plan.tasks[curve.task].num_train]
            passes = {f"{curve.task} at {p.size:,} examples": (p.passes, alone.get(p.size)) for p in cut}
            notes.append(_note(variant, passes))
    return [note for note in notes if note]


def _of_pairs(measured: Measured, costs: Mapping[str, Cost]) -> list[str]:
    if not measured.plan.settings.pairs or "single" not in costs:
        return []
    notes = []
    for pair in combinations(measured.plan.tasks, 2):
        runs = [measured.run("pair", pair_name(pair), seed) for seed in measured.plan.settings.seeds]
        seen = {task: [run.seen[task].passes for run in runs if run and task in run.seen] for task in pair}
        alone = costs["single"].passes_of_tasks
        passes = {task: (fmean(found) if found else None, alone.get(task)) for task, found in seen.items()}
        notes.append(_note(f"the pair {pair_name(pair)}", passes))
    return [note for note in notes if note]


def _note(system: str, passes: Mapping[str, tuple[float | None, float | None]]) -> str:
    """A sentence on the tasks whose passes together are not those alone; none where all are the same or not known."""
    parts = [
        f"{name} {together:.2f} times (alone {alone:.2f})"
        for name, (together, alone) in passes.items()
        if together is not None and alone and abs(together / alone - 1) > TOLERANCE
    ]
    return f"{system} saw the training rows of {', '.join(parts)}." if parts else ""
