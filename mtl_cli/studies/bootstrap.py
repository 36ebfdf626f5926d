"""The paired bootstrap: do two models differ by more than the choice of test examples explains?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtl_cli.errors import UserError

CountsToMetric = Callable[[np.ndarray], float]
"""From how often each example counts, int64, shape (E,), to a metric over the examples counted so."""


@dataclass(frozen=True)
class Bootstrap:
    """What the resampling of test examples says of the difference between two models.

    Attributes:
        difference: on the examples as they are; positive where the first model is better.
        low: 2.5 % quantile of the differences on resampled examples.
        high: 97.5 % quantile.
        p: two-sided.
        num_examples: examples of the split.
        num_resamples: how often they were drawn.
    """

    difference: float
    low: float
    high: float
    p: float
    num_examples: int
    num_resamples: int


def paired_bootstrap(
    first: CountsToMetric,
    second: CountsToMetric,
    num_examples: int,
    *,
    num_resamples: int,
    seed: int,
    higher_is_better: bool = True,
) -> Bootstrap:
    """Draw the test examples with replacement, the same ones for both models, and compute both metrics anew each time.

    With d the difference on the examples as they are and d* that of a draw, p = (1 + #{|d* - d| >= |d|}) / (1 + draws):
    how often chance alone, whose differences lie around d as they would around 0, gives one as large. This is the
    two-sided form of the test of Berg-Kirkpatrick, Burkett & Klein, An Empirical Investigation of Statistical
    Significance in NLP (EMNLP, 2012), who count d* >= 2 d; resampling test sets goes back to Koehn, Statistical
    Significance Tests for Machine Translation Evaluation (EMNLP, 2004). It speaks of the two trained models at hand;
    what another seed would give, only other seeds tell. A draw on which the metric is not finite (a correlation where
    all labels are equal) counts as one as large, which makes p larger, and is left out of the interval.

    Args:
        first: the metric of the first model.
        second: that of the second one.
        num_examples: E.
        num_resamples: draws.
        seed: of the draws.
        higher_is_better: False turns the differences round, so that positive ones speak for the first model.

    Raises:
        UserError: the difference is not finite on the examples as they are, or on no draw.
    """
    sign = 1.0 if higher_is_better else -1.0

    def difference(counts_E: np.ndarray) -> float:
        return sign * (first(counts_E) - second(counts_E))

    observed = difference(np.ones(num_examples, dtype=np.int64))
    if not math.isfinite(observed):
        raise UserError("the metric of one of the two runs is not a finite number")
    generator = np.random.default_rng([seed, num_examples])
    drawn = np.array(
        [
            difference(np.bincount(generator.integers(num_examples, size=num_examples), minlength=num_examples))
            for _ in range(num_resamples)
        ]
    )
    finite = drawn[np.isfinite(drawn)]
    if not len(finite):
        raise UserError(f"the metric is not a finite number on any of {num_resamples:,} draws of the examples")
    # Rounding must not decide whether a difference is as large as the one observed.
    extreme = int((np.abs(finite - observed) >= abs(observed) - 1e-12).sum()) + num_resamples - len(finite)
    low, high = np.quantile(finite, [0.025, 0.975]).tolist()
    p = (1 + extreme) / (1 + num_resamples)
    return Bootstrap(observed, low, high, p, num_examples, num_resamples)
