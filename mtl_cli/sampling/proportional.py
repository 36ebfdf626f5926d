"""Tasks in proportion to their size."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_cli.sampling.probability_sampler import ProbabilitySampler


@dataclass(kw_only=True, frozen=True)
class Proportional(ProbabilitySampler):
    """p_k proportional to N_k, the number of training rows of task k: an epoch sees each row about once.

    As if the tasks were one data set (Sanh et al., A Hierarchical Multi-Task Approach for Learning Embeddings from
    Semantic Tasks, AAAI 2019, who draw one task a step: `mixed: false`). Mixed steps without `max_tokens` see each row
    exactly once an epoch.
    """

    def probabilities(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        """Return N_k / sum of all N, whatever the progress."""
        total = sum(sizes.values())
        return {task: size / total for task, size in sizes.items()}
