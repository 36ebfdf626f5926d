"""What may be said of a few runs with different seeds: intervals, paired tests, corrections, relative gains, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_BASELINE = 0.01
"""Below this value of a metric where greater is better, a gain in per cent of it means nothing."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean: of `n` values.
        low: lower end; None with one value.
        high: upper end; None with one value.
        n: how many values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """What stands behind the plus-minus sign."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedTest:
    """What two systems differ by over seeds, each seed's runs compared with one another.

    Attributes:
        difference: mean of the differences and its interval.
        p: two-sided; None where there is one pair, or where all differences are equal and not zero.
    """

    difference: Interval
    p: float | None


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the mean and its 95 % interval by Student's t: m +- t(0.975, n - 1) s / sqrt(n); None without a value.

    s is the standard deviation with n - 1 in its denominator. The interval takes values to be drawn from a normal
    distribution; with three seeds t is 4.30, so it is wide, as it should be. Source: Student, The Probable Error of a
    Mean (Biometrika, 1908).
    """
    n = len(values)
    if n == 0 or not all(math.isfinite(value) for value in values):
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_test(values: Sequence[float], baselines: Sequence[float]) -> PairedTest | None:
    """Compare two systems by the t-test for pairs: t = m / (s / sqrt(n)) of the n differences; None without a pair.

    Runs of one seed are a pair: they share the order of the data and whatever else the seed decides.
    """
    if len(values) != len(baselines):
        raise ValueError(f"pairs need as many values ({len(values)}) as baselines ({len(baselines)})")
    differences = [value - baseline for value, baseline in zip(values, baselines, strict=True)]
    interval = mean_interval(differences)
    if interval is None:
        return None
    return PairedTest(interval, _p_of_differences(differences))


def _p_of_differences(differences: Sequence[float]) -> float | None:
    if len(differences) < 2:
        return None
    spread = float(np.ptp(differences))
    if spread <= 1e-12 * max(map(abs, differences)):  # equal but for rounding: t would be 0 / 0 or infinite
        return 1.0 if not any(differences) else None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values of several tests by Holm's step-down method; those that are None stay so, but count.

    The i-th smallest of m values becomes the largest of (m - j + 1) p_(j) over j <= i, and 1 at most: the chance of one
    false alarm among all m is then below the level. Source: Holm, A Simple Sequentially Rejective Multiple Test
    Procedure (Scandinavian Journal of Statistics, 1979).
    """
    m = len(p_values)
    corrected: list[float | None] = [None] * m
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (m - rank) * p))
        corrected[place] = largest
    return corrected


def delta_m(
    values: Mapping[str, float], baselines: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> float | None:
    """Return the mean relative gain over single-task training in per cent; positive means better than single-task.

    delta_m = 100 / T * sum over T tasks i of (-1)^{l_i} (M_i - B_i) / B_i, where M_i is the metric of the system, B_i
    that of the single-task run, and l_i is 1 for errors, where lower is better, else 0. Source: Maninis, Radosavovic &
    Kokkinos, Attentive Single-Tasking of Multiple Tasks (CVPR, 2019). (Papers that report a drop turn the sign round.)

    Returns:
        None where a baseline is too near to zero, or negative, for a part of it to mean anything: below 0.01 for
        metrics of which more is better, and not above 0 for errors.
    """
    gains = [relative_gain(values[task], baselines[task], higher_is_better[task]) for task in values]
    known = [gain for gain in gains if gain is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(gains) else None


def relative_gain(value: float, baseline: float, higher_is_better: bool) -> float | None:
    """Return what one task gains over its baseline in per cent of the baseline, positive meaning better.

    None where the baseline does not allow it (see `delta_m`).
    """
    if not (math.isfinite(value) and math.isfinite(baseline)):
        return None
    if baseline < LEAST_BASELINE if higher_is_better else baseline <= 0:
        return None
    return 100 * (value - baseline) / baseline * (1 if higher_is_better else -1)


def mean_ranks(scores: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]) -> dict[str, float]:
    """Rank systems on each task, 1 the best, equal ones sharing their mean rank, and average over tasks.

    Args:
        scores: system -> task -> value; tasks that a system lacks are left out for all of them.
        higher_is_better: of each task.
    """
    tasks = [task for task in higher_is_better if all(task in of_system for of_system in scores.values())]
    if not tasks or not scores:
        return {}
    signed = np.array(
        [[of_system[task] * (1 if higher_is_better[task] else -1) for task in tasks] for of_system in scores.values()]
    )
    ranks = stats.rankdata(-signed, axis=0)
    return dict(zip(scores, ranks.mean(axis=1).tolist(), strict=True))
