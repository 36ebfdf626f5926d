"""CR-MOGM.

Shapes: K tasks of a step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtl_cli.types import Fraction, NonNegativeFloat, UserError
from mtl_cli.weighting.gradient_weighting import GradientWeighting, GramianWeighting
from mtl_cli.weighting.weighting import StepInfo


@dataclass(kw_only=True)
class CRMOGM(GramianWeighting):
    """The weights of another method of gradients, smoothed over steps.

    λ_t = β λ_(t-1) + (1 - β) w_t, with w_t the weights of the inner method in step t. The noise of the gradients
    makes w_t and the update correlated, which may keep such methods from converging; smooth weights lessen that.

    On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond, Zhou et al., NeurIPS 2022.

    The paper's theory lets β grow to 1 as the learning rate falls; here, as in torchjd, it is constant. A task that a
    step does not hold keeps its λ. What the inner method needs of a step, and whether it weighs heads, holds for the
    whole: where it does, its weights of heads are smoothed in the same way. Its own settings of scope, grouping, engine
    and warm-up are refused, since those of this method apply.

    Args:
        weighting: the inner method: one whose weights follow from the inner products of one batch a task.
        momentum: β: 0 takes the inner weights as they are, 1 keeps the first for ever.
        initial_weight: λ_0 of every task; None: the first weight that the inner method gives the task, as in torchjd.
    """

    weighting: GramianWeighting
    momentum: Fraction = 0.9
    initial_weight: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        inner = self.weighting
        name = type(inner).__name__
        if not isinstance(inner, GramianWeighting) or inner.needs_gradients or inner.num_batches > 1:
            raise UserError(
                f"weighting.weighting: found {name}, allowed: a method whose weights follow from the inner products of "
                "one batch of each task, such as MGDA, PCGrad or CAGrad"
            )
        shared = {field.name for field in dataclasses.fields(GradientWeighting)}
        for field in dataclasses.fields(inner):
            found = getattr(inner, field.name)
            if field.name == "scope" and found != "all" and found == field.default and self.scope == "all":
                raise UserError(
                    f"weighting.scope: found 'all', but {name} looks at {found!r} unless told otherwise; set both "
                    "weighting.scope and weighting.weighting.scope"
                )
            if field.name in shared and found not in (field.default, getattr(self, field.name)):
                raise UserError(
                    f"weighting.weighting.{field.name}: found {found!r}, allowed: {field.default!r}, its default; set "
                    f"weighting.{field.name} instead"
                )
        self.needs_tasks = inner.needs_tasks  # type: ignore[misc]
        self.weighs_heads = inner.weighs_heads  # type: ignore[misc]

    def start(self, tasks: Sequence[str], seed: int = 0, steps_per_epoch: int = 1) -> None:
        """Begin a run, with the inner method."""
        super().start(tasks, seed, steps_per_epoch)
        self.weighting.start(tasks, seed, steps_per_epoch)

    def weights(self, gramian_KK: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Return λ of this step's tasks."""
        inner = self._inner(step)
        inner_K = self.weighting.weights(gramian_KK, inner)
        heads_K = self.weighting.head_weights(inner, inner_K)
        step.scratch["heads_K"] = self._smoothed("smooth_heads", heads_K, step) if self.weighs_heads else heads_K
        return self._smoothed("smooth", inner_K, step)

    def head_weights(self, step: StepInfo, weights_K: torch.Tensor) -> torch.Tensor:
        """Return the inner method's weights of heads, smoothed; as they are, where it does not weigh heads."""
        heads_K: torch.Tensor = step.scratch["heads_K"]
        return heads_K

    def _smoothed(self, name: str, inner_K: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Take the inner weights into what is kept of them under a name, and return that."""
        smooth = step.recall(name, math.nan if self.initial_weight is None else self.initial_weight)
        before_K = smooth[step.index_K]
        before_K = torch.where(before_K.isnan(), inner_K, before_K)
        smooth[step.index_K] = self.momentum * before_K + (1.0 - self.momentum) * inner_K
        return smooth[step.index_K]

    def _inner(self, step: StepInfo) -> StepInfo:
        return dataclasses.replace(
            step, memory=step.memory.setdefault("inner", {}), scratch=step.scratch.setdefault("inner", {})
        )
