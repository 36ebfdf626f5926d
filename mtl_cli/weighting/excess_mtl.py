"""ExcessMTL: more weight for the tasks that are further from their optimum.

Shapes: K tasks of a step, P numbers of the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mtl_cli.types import NonNegativeInt, PositiveFloat
from mtl_cli.weighting.gradient_weighting import SquaresWeighting
from mtl_cli.weighting.weighting import StepInfo

_EPSILON = 1e-7
"""Added to accumulated squares (as in the authors' code) and to baselines (as in torchjd: theirs divides by 0)."""


@dataclass(kw_only=True)
class ExcessMTL(SquaresWeighting):
    """Weights that grow with the estimated excess risk of a task, which label noise does not inflate as it does losses.

    How far task k is above the least loss that it could have is estimated by a second-order expansion, with the
    curvature taken from accumulated squared gradients as in AdaGrad:

        e_k = sum_p g_kp² / sqrt(S_kp + 1e-7),        S_kp the sum of g_kp² over all steps up to this one,

    g_kp entry p of the task's gradient. It is divided by a baseline b_k, which makes tasks comparable, and the weights
    follow by an exponentiated gradient step:

        w_k <- w_k exp(step_size e_k / (b_k + 1e-7)), normalised.

    The weights apply to all parameters: one joint objective. S is as large as the gradients of all tasks together, as
    far as `scope` looks at them.

    He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024. Readings differ in two places.
    b_k: the mean of e_k over the first `num_baseline_steps` steps, during which weights stay as they are. 1, the
    default, is the authors' code (and LibMTL); the paper's appendix speaks of 3 epochs. 0 is torchjd's default: the
    first e_k is the baseline and itself, unscaled, moves the weights once, which in a model of many parameters may hand
    all weight to one task.
    The sum of the weights: 1 in the paper and torchjd, the number of tasks in the authors' code.

    A step that lacks tasks leaves their state alone; its own tasks' share of the whole stays what it was, and the
    returned weights have the full sum. A task that is still collecting its baseline counts as if e_k = b_k.

    Args:
        step_size: step size of the weights (LibMTL's value; torchjd's is 1).
        num_baseline_steps: steps of a task from which its baseline is taken.
        weights_sum_to: 1, or the number of tasks in the step.
    """

    weighs_heads: ClassVar[bool] = True

    step_size: PositiveFloat = 0.01
    num_baseline_steps: NonNegativeInt = 1
    weights_sum_to: Literal["one", "num_tasks"] = "one"

    def observe(self, gradients_KP: torch.Tensor, squares_KP: torch.Tensor, step: StepInfo) -> None:
        """Add up e_k over the parameters."""
        risk_KP = gradients_KP.square().mul_((squares_KP + _EPSILON).rsqrt_())
        step.scratch["risk_K"] = step.scratch.get("risk_K", 0.0) + risk_KP.sum(dim=1).double()

    def weights(self, gramian_KK: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Move the weights by one step and return them."""
        nothing_K = torch.zeros(len(step.tasks), dtype=torch.float64)
        ratio_K = self._ratio_to_baseline(step.scratch.get("risk_K", nothing_K).cpu(), step)
        logs = step.recall("log_weights", -math.log(step.num_tasks))
        # Logarithms, so that no weight is 0 for ever, however far another is ahead.
        moved_K = logs[step.index_K].double() + self.step_size * ratio_K
        share_K = torch.log_softmax(moved_K, dim=0)
        logs[step.index_K] = (share_K + torch.logsumexp(logs[step.index_K], dim=0)).to(logs)
        total = len(share_K) if self.weights_sum_to == "num_tasks" else 1
        return total * share_K.exp()

    def _ratio_to_baseline(self, risk_K: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Count the step in the baselines; return e_k / b_k, (K,)."""
        count, total = step.recall("num_steps", 0.0), step.recall("baseline_total", 0.0)
        num_steps = max(self.num_baseline_steps, 1)
        collects_K = count[step.index_K] < num_steps
        count[step.index_K] += 1.0
        total[step.index_K] += torch.where(collects_K, risk_K, 0.0).to(total)
        meanwhile_K = risk_K if self.num_baseline_steps == 0 else torch.ones_like(risk_K)
        return torch.where(collects_K, meanwhile_K, risk_K / (total[step.index_K] / num_steps + _EPSILON))
