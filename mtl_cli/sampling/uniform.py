"""All tasks alike, whatever their size."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_cli.sampling.probability_sampler import ProbabilitySampler


@dataclass(kw_only=True, frozen=True)
class Uniform(ProbabilitySampler):
    """p_k = 1 / K for each of K tasks: a small task is seen many times while a large one is seen once.

    The equal mixing of Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer, JMLR 2020.
    """

    def probabilities(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        """Return 1 / K for each task, whatever the progress."""
        return dict.fromkeys(sizes, 1 / len(sizes))
