"""The lines of metrics.jsonl as curves of few points, so that the page of a hundred runs stays small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl_cli.report.numbers import finite

Records = Sequence[Mapping[str, Any]]
"""The lines of metrics.jsonl."""

_MOST_POINTS, _LEAST_POINTS = 400, 60
_POINTS_OF_A_PAGE = 20_000
_DIGITS = 5


@dataclass(frozen=True)
class Curves:
    """Values of several metrics that share their places on the x axis.

    Attributes:
        axes: step, tokens and epoch -> the place of each point; None where it is not known.
        values: metric -> its value at each point; None where it was not measured or was not finite.
        num_lines: how many lines of metrics.jsonl the points were made of.
    """

    axes: dict[str, list[float | None]]
    values: dict[str, list[float | None]]
    num_lines: int

    @property
    def num_points(self) -> int:
        """Length of each list."""
        return len(self.axes["step"])


def points_for(num_runs: int) -> int:
    """Return how many points a curve may have: 400 for up to 50 runs, fewer for more, but never below 60."""
    return max(_LEAST_POINTS, min(_MOST_POINTS, _POINTS_OF_A_PAGE // max(num_runs, 1)))


def thinned_curves(records: Records, prefixes: Sequence[str], most: int) -> Curves:
    """Return all metrics below one of some prefixes, at no more than `most` places.

    Lines that hold none of the metrics are passed over. The first and the last line stay as they are; where there are
    too many, those in between are split into runs of neighbours of about equal length, and each becomes a point: the
    mean of the finite values of each metric, at the mean of their places. (A mean, not a sample: a single high loss
    shows in its point's height, and noise shrinks as it would for a longer `trainer.log_every_steps`.)

    Args:
        records: in the order of the steps. Tokens and epochs of a line that does not say them are interpolated between
            lines that do.
        prefixes: such as "train/loss/" and "validation/".
        most: at least 3.
    """
    chosen = tuple(prefixes)
    # Most lines have the keys of another one: which of them count is found once.
    names_of = {keys: [key for key in keys if key.startswith(chosen)] for keys in dict.fromkeys(map(tuple, records))}
    held = [place for place, record in enumerate(records) if names_of[tuple(record)]]
    names = dict.fromkeys(name for found in names_of.values() for name in found)
    starts = _starts(len(held), most)
    values = {name: _column([records[place].get(name) for place in held]) for name in names}
    return Curves(
        axes={name: _means(axis[held], starts) for name, axis in _axes(records).items()},
        values={name: _means(column, starts) for name, column in values.items()},
        num_lines=len(held),
    )


def _starts(num_lines: int, most: int) -> np.ndarray:
    """The place of the first line of each point."""
    if num_lines <= most:
        return np.arange(num_lines)
    return np.append(0, np.linspace(1, num_lines - 1, most - 1).round().astype(int))


def _axes(records: Records) -> dict[str, np.ndarray]:
    """Where each line lies: its step, and real tokens and passes over the data until then."""
    steps = _column([record.get("step") for record in records])
    axes = {"step": steps}
    for name, key in (("tokens", "train/tokens"), ("epoch", "train/epoch")):
        known = _column([record.get(key) for record in records])
        has = np.isfinite(known) & np.isfinite(steps)
        axes[name] = known
        if has.sum() >= 2:
            # Nothing is known outside of the lines that say it, but step 0 is 0 of everything.
            x, y = np.append(0.0, steps[has]), np.append(0.0, known[has])
            order = np.argsort(x, kind="stable")
            axes[name] = np.where(has, known, np.interp(steps, x[order], y[order], right=np.nan))
    return axes


def _column(values: list[Any]) -> np.ndarray:
    if set(map(type, values)) <= {float, int, type(None)}:
        with suppress(OverflowError):  # a whole number beyond the largest float
            return np.array(values, dtype=float)
    return np.array([finite(value) for value in values], dtype=float)


def _means(column: np.ndarray, starts: np.ndarray) -> list[float | None]:
    """The mean of the finite values from each start to the next; the last point is the last line alone."""
    if not starts.size:
        return []
    known = np.isfinite(column)
    counts = np.add.reduceat(known.astype(int), starts)
    sums = np.add.reduceat(np.where(known, column, 0.0), starts)
    return [rounded(float(total / count)) if count else None for total, count in zip(sums, counts, strict=True)]


def rounded(value: float) -> float | None:
    """Return a number with as many digits as a plot can show; None for one that is not finite."""
    if not math.isfinite(value):
        return None
    if value == round(value) and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{_DIGITS}g}")
