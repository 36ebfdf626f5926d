"""Runs side by side: which columns, which rows, in which order, and what is best. How it is shown is said elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtl_cli.errors import UserError
from mtl_cli.report.averages import groups_to_average
from mtl_cli.report.columns import NUMBER, Column, ComparisonSettings, columns_of, listed
from mtl_cli.report.fields import Fields, kind_of, setting_text, value_of
from mtl_cli.report.run_record import RunRecord
from mtl_cli.report.seed_averages import Average, mean_of
from mtl_cli.report.where import Condition, parse_conditions
from mtl_cli.tracking.logger import is_better, lower_is_better


@dataclass(frozen=True)
class Row:
    """One run, or several averaged ones.

    Attributes:
        runs: what the row is of.
        values: full name of a column -> value; metrics of averaged runs are an Average.
    """

    runs: tuple[RunRecord, ...]
    values: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether all its runs came to their end."""
        return all(run.status == "finished" for run in self.runs)

    def number(self, key: str) -> float | None:
        """Return a value to be ranked by; None where there is no number."""
        value = self.values.get(key)
        value = value.mean if isinstance(value, Average) else value
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        try:
            return None if math.isnan(value) else float(value)
        except OverflowError:  # of a setting: a whole number beyond the largest float
            return math.inf if value > 0 else -math.inf


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: all that meet the conditions, sorted, each for itself, whether or not a row holds it.
        columns: what is shown.
        rows: in order.
        averaged: whether a row is an average over seeds.
        num_left_out: rows beyond the limit.
        notes: what a reader should know of the figures.
        chosen_by: full names that the conditions and the order look at.
        best: metric -> best value of finished runs, where there are two or more to choose from.
    """

    runs: list[RunRecord]
    columns: list[Column]
    rows: list[Row]
    averaged: bool
    num_left_out: int
    notes: list[str]
    chosen_by: list[str]
    best: dict[str, float]

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether a row holds the best value of a metric."""
        return column.key in self.best and row.finished and row.number(column.key) == self.best[column.key]


def compare_runs(runs: Sequence[RunRecord], settings: ComparisonSettings) -> Comparison:
    """Put runs side by side.

    Raises:
        UserError: a name that no run knows, conditions that no run meets, runs that must not be averaged.
    """
    fields = Fields(runs)
    conditions = parse_conditions(listed(settings.where), fields)
    kept = _chosen(runs, conditions)
    averaged = settings.mean or settings.group_by is not None
    group_by = None if settings.group_by is None else [fields.resolve(k, "group_by") for k in listed(settings.group_by)]
    columns = columns_of(kept, settings, fields, group_by)
    sort_key, backwards = fields.resolve(settings.sort.removeprefix("-"), "sort"), settings.sort.startswith("-")
    keys = list(dict.fromkeys([*(column.key for column in columns), sort_key]))
    single = _sorted([Row((run,), {key: value_of(run, key) for key in keys}) for run in kept], sort_key, backwards)
    rows = single
    notes: list[str] = []
    if averaged:
        groups, notes = groups_to_average(kept, group_by)
        if not groups:
            raise UserError(f"mean: none of the {len(kept)} runs is finished; there is nothing to average")
        rows = _sorted([_averaged_row(group, keys) for group in groups], sort_key, backwards)
        notes += _notes_on_averages(rows, columns)
    shown = rows[: settings.limit]
    return Comparison(
        runs=[run for row in single for run in row.runs],
        columns=columns,
        rows=shown,
        averaged=averaged,
        num_left_out=len(rows) - len(shown),
        notes=notes,
        chosen_by=list(dict.fromkeys([*(condition.key for condition in conditions), sort_key])),
        best=_best(rows, [column.key for column in columns if column.kind == "metric"]),
    )


def _notes_on_averages(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """What the plus-minus sign means, and which means are over fewer runs than their row has."""
    notes = []
    metrics = [column.key for column in columns if column.kind == "metric"]
    for key in metrics:
        counted = sum(mean.n for row in rows if isinstance(mean := row.values[key], Average))
        number = sum(len(row.runs) for row in rows)
        if counted < number:
            notes.append(
                f"{key}: {number - counted} of {number} runs have no finite value, and do not count in its mean"
            )
    means = [row.values[key] for row in rows for key in metrics]
    if any(isinstance(mean, Average) and mean.deviation is not None for mean in means):
        notes.append("± is the standard deviation over seeds (n - 1); the page has 95 % intervals for the mean")
    return notes


def _chosen(runs: Sequence[RunRecord], conditions: Sequence[Condition]) -> list[RunRecord]:
    kept = [run for run in runs if all(condition.holds(run) for condition in conditions)]
    if kept or not conditions:
        return kept
    lines = []
    for condition in conditions:
        number = sum(condition.holds(run) for run in runs)
        lines.append(f"  {condition.text}: met by {number} of {len(runs)}; the runs have {_range(runs, condition.key)}")
    raise UserError("where: no run meets the conditions\n" + "\n".join(lines))


def _range(runs: Sequence[RunRecord], key: str) -> str:
    """What runs have under a name: some values, or from where to where they go."""
    found = [value_of(run, key) for run in runs]
    numbers = [value for value in found if isinstance(value, float) and not math.isnan(value)]
    if numbers:
        return f"{min(numbers):.4g} to {max(numbers):.4g}"
    texts = sorted({setting_text(value) for value in found})
    return f"{', '.join(texts[:6])}{', ...' * (len(texts) > 6)}"


def _averaged_row(runs: Sequence[RunRecord], keys: Sequence[str]) -> Row:
    values: dict[str, Any] = {NUMBER: len(runs)}
    for key in keys:
        if key == NUMBER:
            continue
        found = [value_of(run, key) for run in runs]
        if kind_of(key) in ("metric", "cost"):
            values[key] = mean_of([float(value) for value in found if value is not None])
        else:
            values[key] = found[0] if all(value == found[0] for value in found) else found
    return Row(tuple(runs), values)


def _sorted(rows: list[Row], key: str, backwards: bool) -> list[Row]:
    """Best first for metrics, smallest first for the rest; rows without a value come last, whichever way."""
    metric = kind_of(key) == "metric"
    downwards = (metric and not lower_is_better(key)) != backwards
    with_value = [row for row in rows if row.number(key) is not None or _is_text(row.values[key])]
    without = [row for row in rows if row.number(key) is None and not _is_text(row.values[key])]
    with_value.sort(key=lambda row: _rank(row, key), reverse=downwards)
    # What a run has reached before its end is not ranked among the final figures.
    return sorted([*with_value, *without], key=lambda row: not row.finished) if metric else [*with_value, *without]


def _is_text(value: Any) -> bool:
    return value is not None and not isinstance(value, float | Average)


def _rank(row: Row, key: str) -> tuple[bool, float, str]:
    number = row.number(key)
    return (number is None, number or 0.0, "" if number is not None else str(row.values[key]))


def _best(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, float]:
    best: dict[str, float] = {}
    for key in keys:
        values = [value for row in rows if row.finished and (value := row.number(key)) is not None]
        for value in values if len(values) > 1 else ():
            if is_better(key, value, best.get(key)):
                best[key] = value
    return best
