"""Which columns a comparison has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mtl_cli.report.differing_settings import SEED, differing_settings
from mtl_cli.report.fields import COST, SCORE, Fields, Kind, kind_of, metric_labels, short_labels
from mtl_cli.report.run_record import RunRecord
from mtl_cli.types import PositiveInt

NUMBER = "n"
"""The column that says how many runs were averaged."""

CompareSplit = Literal["validation", "test"]


@dataclass(kw_only=True)
class ComparisonSettings:
    """What to show of runs.

    Args:
        where: conditions that a run must meet, such as sharing=hard or score>0.8.
        sort: the column to sort by, best first for metrics; with a minus sign the other way round.
        columns: which to show; +NAME adds to the usual ones and -NAME takes away. `cost` stands for several.
        metrics: each task's main metric, or all.
        splits: whose metrics to show. Choosing by test scores makes them too good, so they are shown on request only.
        mean: average over seeds.
        group_by: average runs that agree in these settings, if they differ in nothing else but the seed.
        limit: show so many rows.
    """

    where: str | list[str] = field(default_factory=list)
    sort: str = "score"
    columns: str | list[str] | None = None
    metrics: Literal["main", "all"] = "main"
    splits: list[CompareSplit] = field(default_factory=lambda: ["validation"])
    mean: bool = False
    group_by: str | list[str] | None = None
    limit: PositiveInt | None = None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: full name.
        label: as short as it is clear among the others.
        kind: what the column holds.
        main: whether the metric is a task's main one, or the score.
    """

    key: str
    label: str
    kind: Kind
    main: bool = True


def listed(value: str | list[str] | None) -> list[str]:
    """Return one name, several or none as a list."""
    return [value] if isinstance(value, str) else list(value or [])


def columns_of(
    runs: Sequence[RunRecord], settings: ComparisonSettings, fields: Fields, group_by: Sequence[str] | None
) -> list[Column]:
    """Return the columns of a comparison.

    Raises:
        UserError: a column that no run has.
    """
    averaged = settings.mean or group_by is not None
    main = _main_keys(runs, settings.splits)
    usual = list(dict.fromkeys([*(group_by or ()), *_usual(runs, settings, main, averaged)]))
    asked = listed(settings.columns)
    for name in asked:
        if not name.startswith(("+", "-")):
            usual = list(group_by or ()) if averaged else ["name"]
            break
    for name in asked:
        bare = name.lstrip("+-")
        keys = list(COST) if bare == "cost" else [fields.resolve(bare, "columns")]
        usual = [key for key in usual if key not in keys] + ([] if name.startswith("-") else keys)
    by_kind = {kind: [key for key in usual if kind_of(key) == kind] for kind in ("identity", "setting", "metric")}
    labels = short_labels(by_kind["setting"], taken=[*by_kind["identity"], "score"])
    labels |= metric_labels(by_kind["metric"])
    columns = [
        Column(key, labels.get(key, key), kind_of(key), kind_of(key) != "metric" or key in main) for key in usual
    ]
    if averaged:
        first_metric = next((place for place, column in enumerate(columns) if column.kind == "metric"), len(columns))
        columns.insert(first_metric, Column(NUMBER, NUMBER, "cost"))
    return columns


def _usual(runs: Sequence[RunRecord], settings: ComparisonSettings, main: Sequence[str], averaged: bool) -> list[str]:
    """Name and status, what differs, the metrics."""
    differing = differing_settings(runs)
    prefixes = tuple(f"{split}/" for split in settings.splits)
    found = dict.fromkeys(main) if settings.metrics == "main" else dict.fromkeys([*main, *_metrics_of(runs)])
    metrics = [key for key in found if key.startswith(prefixes)]
    if averaged:
        return [*(key for key in differing if key != SEED), *metrics]
    identity = ["name"]
    if len({run.group for run in runs}) > 1:
        identity.append("group")
    if any(run.status != "finished" for run in runs):
        identity.append("status")
    return [*identity, *differing, *metrics]


def _metrics_of(runs: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.metrics))


def _main_keys(runs: Sequence[RunRecord], splits: Sequence[str]) -> list[str]:
    """The score, then each task's main metric, a split after the other."""
    tasks = dict.fromkeys((task, metric) for run in runs for task, metric in run.main_metrics.items())
    measured = {key for run in runs for key in run.metrics}
    names = [SCORE, *(f"{split}/{task}/{metric}" for split in splits for task, metric in tasks)]
    return [name for name in names if name in measured]
