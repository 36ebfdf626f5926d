"""DB-MTL: logarithms of the losses, and moving averages of their gradients brought to one length.

Shapes: K tasks of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtl_cli.types import NonNegativeFloat, Probability
from mtl_cli.weighting.gradient_weighting import AverageWeighting
from mtl_cli.weighting.weighting import StepInfo

_LOSS_FLOOR = 1e-8
"""Added to a loss before the logarithm, as in the authors' code."""


@dataclass(kw_only=True)
class DBMTL(AverageWeighting):
    """Dual-balancing multi-task learning: losses of one scale, and gradients of one length.

    The objective of task k is log(L_k + 1e-8), so that a task's gradient is free of the scale of its loss L_k: it is
    g_k / (L_k + 1e-8), with g_k the gradient of L_k. Of the shared parameters a moving average m_k is kept,

        m_k <- beta_t m_k + (1 - beta_t) g_k / (L_k + 1e-8),        update sum_k (max_i |m_i| / |m_k|) m_k,

    with beta_t = beta / t^beta_sigma, t from 1: all m_k are brought to the length of the longest. Task-specific
    parameters get the gradient of log(L_k + 1e-8) itself.

    Lin et al., Dual-Balancing for Multi-Task Learning, 2023 (arXiv 2308.12029). As in the authors' code (LibMTL) m
    starts at 0 and is not corrected for it: while beta_sigma is 0 the first update has 1 - beta of its full length. A
    gradient of less than 1e-12 of the longest is scaled as if it had that length (the code adds 1e-8 to each length).

    t counts the steps that held the task. A step that lacks tasks leaves their averages alone; the longest is that of
    its own tasks.

    Args:
        beta: how much of the moving average is kept; 0 for the gradients of the step alone.
        beta_sigma: decay of beta.
    """

    beta: Probability = 0.9
    beta_sigma: NonNegativeFloat = 0.0

    def average(self, step: StepInfo) -> tuple[torch.Tensor, torch.Tensor]:
        """Follow the gradients of the logarithms."""
        count = step.recall("num_steps", 0.0)
        count[step.index_K] += 1.0
        beta_K = self.beta / count[step.index_K] ** self.beta_sigma
        return beta_K, (1.0 - beta_K) * _slopes_of_logarithm(step)

    def weights(self, gramian_KK: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Return what brings each average to the length of the longest."""
        lengths_K = gramian_KK.diagonal().clamp(min=0.0).sqrt()
        longest = lengths_K.max()
        return longest / lengths_K.clamp(min=1e-12 * longest) if longest > 0 else torch.ones_like(lengths_K)

    def head_weights(self, step: StepInfo, weights_K: torch.Tensor) -> torch.Tensor:
        """Return the derivative of log(L + 1e-8) by L: task-specific parameters descend on the logarithm too."""
        return _slopes_of_logarithm(step).to(weights_K)


def _slopes_of_logarithm(step: StepInfo) -> torch.Tensor:
    return 1.0 / (step.losses_K.clamp(min=0.0) + _LOSS_FLOOR)
