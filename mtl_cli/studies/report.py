"""All that a study says, put together from its runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mtl_cli.studies.budgets import unequal_budgets
from mtl_cli.studies.comparison import Comparison, compare
from mtl_cli.studies.costs import Cost, costs_of
from mtl_cli.studies.examples import bootstrap_variants
from mtl_cli.studies.gaps import Gap, TrainMetrics, gaps_of
from mtl_cli.studies.learning_curves import LearningCurve, learning_curves
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.plan import StudyPlan
from mtl_cli.studies.transfer import Transfer, transfer_of

FORMAT_VERSION = 1


@dataclass(frozen=True)
class StudyReport:
    """What a study found.

    Attributes:
        name: of its folder.
        plan: its runs.
        comparisons: of variants with single-task training, a split each, the one that the report is about first.
        costs: `single` and each variant -> what it took.
        curves: over the size of the training split, if asked for.
        gaps: system -> task -> gap between training and validation, if asked for.
        transfer: who helps whom on validation, if asked for.
        missing: job -> why there is no result of it.
        notes: what to know about the comparison.
    """

    name: str
    plan: StudyPlan
    comparisons: list[Comparison]
    costs: dict[str, Cost]
    curves: list[LearningCurve]
    gaps: dict[str, dict[str, Gap]]
    transfer: Transfer | None
    missing: dict[str, str]
    notes: list[str] = field(default_factory=list)


def make_report(
    name: str, measured: Measured, train_metrics: TrainMetrics, allow_targets: list[str] | None = None
) -> StudyReport:
    """Analyse what the runs gave."""
    comparisons, notes = [], [*measured.plan.notes]
    for split in measured.splits():
        bootstraps, problems = bootstrap_variants(measured, split, allow_targets)
        comparisons.append(compare(measured, split, bootstraps))
        notes += problems
    costs = costs_of(measured)
    curves = learning_curves(measured, measured.splits()[0] if measured.splits() else "validation")
    return StudyReport(
        name=name,
        plan=measured.plan,
        comparisons=comparisons,
        costs=costs,
        curves=curves,
        gaps=gaps_of(measured, train_metrics) if measured.plan.settings.generalisation else {},
        transfer=transfer_of(measured, "validation"),  # groups are a choice, and the test split makes none
        missing=measured.missing,
        notes=[*notes, *unequal_budgets(measured, costs, curves)],
    )


def to_record(report: StudyReport, words: list[str]) -> dict[str, Any]:
    """Return the content of study.json (docs/studies.md describes it)."""
    transfer = report.transfer
    return {
        "format_version": FORMAT_VERSION,
        "name": report.name,
        "summary": words,
        "notes": report.notes,
        "settings": report.plan.settings,
        "tasks": report.plan.tasks,
        "variants": report.plan.variants,
        "comparisons": {comparison.split: _of_comparison(comparison) for comparison in report.comparisons},
        "costs": report.costs,
        "learning_curves": report.curves,
        "generalisation": report.gaps,
        "transfer": None
        if transfer is None
        else {
            "split": transfer.split,
            "tasks": transfer.tasks,
            "cells": [{"task": i, "with": j, **vars(cell)} for (i, j), cell in transfer.cells.items()],
            "groups": transfer.groups,
            "why_no_groups": transfer.why_no_groups,
        },
        "runs": [{**vars(key), "job": job} for key, job in report.plan.runs.items()],
        "missing": report.missing,
    }


def _of_comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "single": {
            task: {"mean": mean, "values": comparison.single_values[task]} for task, mean in comparison.single.items()
        },
        "single_mean_rank": comparison.single_rank,
        "variants": comparison.variants,
    }
