"""A smooth maximum of the losses.

Shapes: K tasks of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from mtl_cli.types import PositiveFloat, PositiveInt, UserError
from mtl_cli.weighting.positive_losses import positive
from mtl_cli.weighting.stated_values import of_step, preference_of_step, settle
from mtl_cli.weighting.weighting import LossWeighting, StepInfo, TasksNeeded


@dataclass(kw_only=True)
class STCH(LossWeighting):
    """Smooth Tchebycheff scalarisation: the objective is a smooth version of the largest loss.

    mu log(sum over tasks of exp(p_k (L_k - z_k) / mu)) with the loss L_k, the task's preference p_k (they sum to 1 over
    the tasks of the step), its ideal loss z_k and the smoothness mu; the smaller mu, the closer to the largest
    p_k (L_k - z_k). The weight of a task is p_k times its share in the softmax; with equal preferences weights sum to
    1 / K. Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024.

    The authors' code for multi-task learning differs, which `losses="log_ratio"` gives: in the place of p_k (L_k - z_k)
    stands K p_k log(L_k / n_k), and the whole is multiplied by K. n_k is the average of the task's loss over
    `reference_steps`, in which the sum of logarithms is minimised. That code does so for four epochs before the one
    whose losses it averages. A task that those steps lacked has its first loss as n_k. The default is the paper's
    formula, as in torchjd; the other suits losses on different scales.

    Args:
        mu: smoothness. The paper tries 0.01 to 1 and finds small ones good; the authors' code for log ratios has 1.
        preference: how much a task's loss counts; a task that is not named has 1.
        losses: "raw": L_k - z_k; "log_ratio": log(L_k / n_k).
        ideal: with raw losses z_k, what a task's loss could be at best; 0 for a task that is not named.
        reference_steps: with log ratios, the steps over which losses are averaged; None: an epoch.
    """

    needs_tasks: ClassVar[TasksNeeded] = "several"

    mu: PositiveFloat = 0.1
    preference: dict[str, PositiveFloat] = field(default_factory=dict)
    losses: Literal["raw", "log_ratio"] = "raw"
    ideal: dict[str, float] = field(default_factory=dict)
    reference_steps: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.losses == "log_ratio" and self.ideal:
            raise UserError(
                f"weighting.ideal: found {self.ideal} with weighting.losses=log_ratio, which takes the logarithm of "
                "whole losses; allowed with it: {}"
            )
        if self.losses == "raw" and self.reference_steps is not None:
            raise UserError(
                f"weighting.reference_steps: found {self.reference_steps} with weighting.losses=raw, which averages no "
                "losses; allowed with it: null"
            )

    def start(self, tasks: Sequence[str], seed: int = 0, steps_per_epoch: int = 1) -> None:
        """Settle each task's preference and ideal loss."""
        super().start(tasks, seed, steps_per_epoch)
        self._preference = settle("preference", self.preference, tasks, default=1.0)
        self._ideal = settle("ideal", self.ideal, tasks, default=0.0)

    def weights(self, step: StepInfo) -> torch.Tensor:
        """Return the derivative of the smooth maximum."""
        preference_K = preference_of_step(self._preference, step)
        if self.losses == "raw":
            return self._smooth_maximum(preference_K, step.losses_K - of_step(self._ideal, step))
        losses_K = positive(step.losses_K)
        preference_K = preference_K * len(step.tasks)
        collects = step.step < (self.reference_steps or step.steps_per_epoch)
        reference_K = self._reference(losses_K, step, collects)
        if collects:
            return preference_K / losses_K
        return len(step.tasks) * self._smooth_maximum(preference_K, torch.log(losses_K / reference_K)) / losses_K

    def _smooth_maximum(self, preference_K: torch.Tensor, values_K: torch.Tensor) -> torch.Tensor:
        """Return the derivative of mu log(sum of exp(preference * value / mu)) by each value."""
        scaled_K = preference_K * values_K
        # Before the division: a difference of large losses over a small mu is at worst -inf, whose share is 0.
        return preference_K * torch.softmax((scaled_K - scaled_K.max()) / self.mu, dim=0)

    def _reference(self, losses_K: torch.Tensor, step: StepInfo, collects: bool) -> torch.Tensor:
        """Return the average of each task's losses so far, to which a loss is added while they are collected."""
        loss_sum, num_losses = step.recall("loss_sum", 0.0), step.recall("num_losses", 0.0)
        wanted_K = torch.isfinite(step.losses_K)
        if not collects:
            wanted_K &= num_losses[step.index_K] == 0
        loss_sum.index_add_(0, step.index_K, torch.where(wanted_K, losses_K, 0))
        num_losses.index_add_(0, step.index_K, wanted_K.to(losses_K.dtype))
        return loss_sum[step.index_K] / num_losses[step.index_K]
