"""Equal weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtl_cli.weighting.weighting import LossWeighting


class Equal(LossWeighting):
    """Each task's loss has weight 1 (also called linear scalarisation with unit weights).

    As every loss is a mean over its own valid labels, a task counts the same whatever its share of the step. Strong
    when tuned: Kurin et al., In Defense of the Unitary Scalarization for Deep Multi-Task Learning, NeurIPS 2022.
    """

    def weights(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return 1 for each task."""
        return dict.fromkeys(losses, 1.0)
