"""Which runs are draws of their own, and the mean of what they measured: one rule for the table and for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mtl_cli.report.differing_settings import SEED, value_as_json
from mtl_cli.report.run_record import RunRecord

LEVEL = 0.95


@dataclass(frozen=True)
class Average:
    """Of some values.

    Attributes:
        mean: arithmetic mean.
        deviation: sample standard deviation, s = sqrt(sum (x - mean)^2 / (n - 1)); None for one value.
        n: how many values.
    """

    mean: float
    deviation: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval for the mean, t(0.975, n - 1) s / sqrt(n); None for one value.

        It takes the values as independent and about normally distributed, which with few seeds is an assumption, not an
        observation. Source: Student, The Probable Error of a Mean (Biometrika, 1908).
        """
        return None if self.deviation is None else _quantile(self.n - 1) * self.deviation / math.sqrt(self.n)

    @property
    def low(self) -> float | None:
        """Lower end of the interval; None for one value."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval; None for one value."""
        return None if self.half_width is None else self.mean + self.half_width


def mean_of(values: Sequence[float]) -> Average | None:
    """Average the values that are finite; None where there are none."""
    values = [float(value) for value in values if math.isfinite(value)]
    if not values:
        return None
    n = len(values)
    # Powers of two, which change no digit, keep sums and squares of the largest numbers within what a float holds.
    exponent = max(0, math.frexp(max(map(abs, values)))[1] - 400)
    scaled = [math.ldexp(value, -exponent) for value in values]
    mean = math.fsum(scaled) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in scaled) / (n - 1)) if n > 1 else None
    return Average(_unscaled(mean, exponent), None if deviation is None else _unscaled(deviation, exponent), n)


def _unscaled(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


@lru_cache
def _quantile(degrees: int) -> float:
    """The t that Student's distribution stays below with probability 0.975."""
    from scipy import stats  # takes most of a second, and tables do not need it

    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))


def seed_of(run: RunRecord) -> str:
    """Return the seed as text, equal for equal seeds (1 and 1.0 are); a run that names none has one of its own."""
    return f"of {run.path}" if run.settings.get(SEED) is None else value_as_json(run.settings, SEED)


def one_a_seed(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[RunRecord]]:
    """Split runs that differ in nothing but the seed into the newest of each seed, which count, and the others.

    What was run twice with one seed is no second draw: on one machine the two are equal to the bit.
    """
    newest = {seed_of(run): run for run in sorted(runs, key=lambda run: run.created)}
    counted = [run for run in runs if newest[seed_of(run)] is run]
    return counted, [run for run in runs if newest[seed_of(run)] is not run]
