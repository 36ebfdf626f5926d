"""MoCo: min-norm weights on running estimates of the tasks' gradients.

Shapes: K tasks of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mtl_cli.types import Fraction, NonNegativeFloat, PositiveFloat, UserError
from mtl_cli.weighting.gradient_weighting import AverageWeighting
from mtl_cli.weighting.solvers.simplex import move_on_simplex, project_onto_simplex
from mtl_cli.weighting.weighting import StepInfo


@dataclass(kw_only=True)
class MoCo(AverageWeighting):
    """Stochastic multi-objective gradient with correction.

    Each task k has a tracking variable y_k that follows its gradient g_k, and the weights l go one projected step a
    step towards those for which the combination of the y is shortest (MGDA's):

        y_k <- y_k - beta_t (y_k - g_k),        l <- P(l - gamma_t (Y Yᵀ + rho I) l),        update Yᵀ l,

    Y the y of the step's tasks (one a row), P the Euclidean projection onto the simplex, beta_t = beta / t^beta_sigma
    and gamma_t = gamma / t^gamma_sigma, t from 1. y starts at 0 and l equal; the weights sum to 1.

    Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach, ICLR 2023.
    The defaults are the paper's algorithm with the values of the authors' code (steps of a constant size). LibMTL has
    other values (beta 0.5, both sigmas 0.5, rho 0) and a softmax in the place of P, which keeps every task's weight
    positive but is no descent on the same problem. It also scales each gradient to the length of its loss before it is
    tracked; that is not offered, the authors' code scales y instead (`normalize`).

    t counts the steps that held the task for beta, and all steps for gamma. A step that lacks tasks leaves their y
    alone and moves the weights of its own tasks among themselves; they sum to 1 in every step.

    Args:
        beta: how far y goes towards the new gradient, above 0; 1 puts the gradient itself in the place of y.
        beta_sigma: decay of beta.
        gamma: step size of the weights.
        gamma_sigma: decay of gamma.
        rho: pull of the weights towards equal ones.
        normalize: what each task's y is divided by before it is weighted: nothing, its length ("l2"), the task's loss
            ("loss"), or both ("loss+").
        simplex: how the weights are brought back to the simplex.
    """

    beta: Fraction = 0.1
    beta_sigma: NonNegativeFloat = 0.0
    gamma: PositiveFloat = 0.1
    gamma_sigma: NonNegativeFloat = 0.0
    rho: NonNegativeFloat = 0.1
    normalize: Literal["none", "l2", "loss", "loss+"] = "none"
    simplex: Literal["projection", "softmax"] = "projection"

    def __post_init__(self) -> None:
        if self.beta == 0:
            raise UserError("weighting.beta: found 0, with which y stays 0; above 0 and at most 1 is allowed")

    def average(self, step: StepInfo) -> tuple[torch.Tensor, torch.Tensor]:
        """Let y follow the gradients."""
        count = step.recall("num_steps", 0.0)
        count[step.index_K] += 1.0
        beta_K = self.beta / count[step.index_K] ** self.beta_sigma
        return 1.0 - beta_K, beta_K

    def weights(self, gramian_KK: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Move the weights by one step along the Gramian of y and return them."""
        divisor_K = self._divisor(gramian_KK, step)
        products_KK = gramian_KK.numpy() / np.outer(divisor_K, divisor_K)
        gamma = self.gamma / (step.step + 1) ** self.gamma_sigma

        def move(weights_K: np.ndarray) -> np.ndarray:
            moved_K = weights_K - gamma * (products_KK @ weights_K + self.rho * weights_K)
            if self.simplex == "projection":
                return project_onto_simplex(moved_K)
            powers_K = np.exp(moved_K - moved_K.max())
            return powers_K / powers_K.sum()

        return move_on_simplex(step, move) / torch.from_numpy(divisor_K)

    def _divisor(self, gramian_KK: torch.Tensor, step: StepInfo) -> np.ndarray:
        """What each y is divided by; 1e-8 keeps a task without a gradient or a loss finite."""
        divisor_K = np.ones(len(gramian_KK))
        if self.normalize in ("l2", "loss+"):
            divisor_K = divisor_K * (np.sqrt(np.maximum(gramian_KK.diagonal().numpy(), 0.0)) + 1e-8)
        if self.normalize in ("loss", "loss+"):
            divisor_K = divisor_K * (np.maximum(step.losses_K.double().numpy(), 0.0) + 1e-8)
        return divisor_K
