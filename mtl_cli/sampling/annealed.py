"""From proportional towards uniform as training goes on."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_cli.sampling.probability_sampler import ProbabilitySampler, power_probabilities
from mtl_cli.sampling.sampler import require
from mtl_cli.types import Fraction


@dataclass(kw_only=True, frozen=True)
class Annealed(ProbabilitySampler):
    """p_k proportional to N_k ** alpha, where alpha falls from 1 at the first step to `final_exponent` at the last.

    Stickland & Murray, BERT and PALs: Projected Attention Layers for Efficient Adaptation in Multi-Task Learning, ICML
    2019: large tasks lead at first, and near the end of training all tasks have nearly the same share. N_k is the
    number of training rows of task k. They change alpha once an epoch, alpha = 1 - 0.8 (e - 1) / (E - 1) in epoch e
    of E; here it changes at every step, in equal amounts. They draw one task a step: `mixed: false`.

    Args:
        final_exponent: alpha at the last step: 1 stays proportional, 0 ends uniform. The paper's is 0.2.
    """

    final_exponent: Fraction = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.final_exponent <= 1, "final_exponent", self.final_exponent, "from 0 to 1")

    def probabilities(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        """Return the shares of the sizes to the power of alpha at this progress."""
        return power_probabilities(sizes, 1 - (1 - self.final_exponent) * progress)
