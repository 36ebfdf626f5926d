"""Weightings of gradients: each task's gradient of the shared parameters is a row, and the rows are combined.

Shapes: K tasks of a step, P numbers of one parameter (or of the rows of an embedding that the step touches).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mtl_cli.types import PositiveInt, UserError
from mtl_cli.weighting.weighting import StepInfo, TasksNeeded, Weighting


@dataclass(kw_only=True)
class GradientWeighting(Weighting):
    """What the weightings of gradients have in common.

    Args:
        scope: the gradients that the method looks at. "all": those of all shared parameters; a number n: those of the
            n highest blocks that tasks share; "representation": that of an offset added to each token's last hidden
            state that all tasks share, (D,), which takes one backward pass through the encoder (what tasks share
            behind it, such as a head of two tasks, experts, a final normalisation behind blocks of their own, then
            gets the plain sum). The weights are applied to all shared parameters.
        grouping: "whole": one weight a task for all parameters; "block": each block of the encoder (embeddings, what
            lies outside of blocks) is balanced for itself.
        engine: how each task's gradient is formed. "segmented": in one backward pass, over that task's rows alone;
            "per_task": a pass a task; "auto": segmented where the encoder's layers allow it. With scope
            "representation" there is nothing to choose.

    Class attributes:
        needs_gradients: whether the method looks at the gradients themselves, not at their inner products alone.
    """

    needs_tasks: ClassVar[TasksNeeded] = "several"
    weighs_heads: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False

    scope: Literal["all", "representation"] | PositiveInt = "all"
    grouping: Literal["whole", "block"] = "whole"
    engine: Literal["auto", "segmented", "per_task"] = "auto"

    def start(self, tasks: Sequence[str], seed: int = 0, steps_per_epoch: int = 1) -> None:
        """Begin a run; see `Weighting.start`."""
        super().start(tasks, seed, steps_per_epoch)
        method = type(self).__name__
        if self.scope != "all" and self.grouping == "block":
            raise UserError(
                f"weighting.grouping: found 'block' with weighting.scope={self.scope}; each block is balanced by its "
                "own gradients, which needs scope=all"
            )
        if self.scope != "all" and isinstance(self, CoordinateWeighting):
            raise UserError(f"weighting.scope: found {self.scope!r}, but {method} combines all gradients; allowed: all")
        if self.grouping == "block" and isinstance(self, CoordinateWeighting):
            raise UserError(
                f"weighting.grouping: found 'block', but {method} combines each number by itself; allowed: whole"
            )
        if self.scope == "representation" and (self.needs_gradients or self.num_batches > 1):
            raise UserError(
                f"weighting.scope: found 'representation', but {method} looks at more than inner products of one "
                "batch; allowed: all, or a number of blocks"
            )
        if self.scope == "representation" and self.engine != "auto":
            raise UserError(
                f"weighting.engine: found {self.engine!r} with weighting.scope=representation, which takes one "
                "backward pass of all tasks in any case; allowed with it: auto"
            )

    def check_num_shared_blocks(self, num_blocks: int) -> None:
        """Refuse a scope of more blocks than there are."""
        if self.scope == "representation" and num_blocks == 0:
            raise UserError("weighting.scope: 'representation' needs a block that tasks share, but they share none")
        if isinstance(self.scope, int) and self.scope > num_blocks:
            raise UserError(
                f"weighting.scope: found {self.scope}, but tasks share {num_blocks} blocks; allowed: all, "
                f"representation, or 1 to {num_blocks}"
            )

    def head_weights(self, step: StepInfo, weights_K: torch.Tensor) -> torch.Tensor:
        """Return the weight of each task's own parameters, (K,): 1, or the same as of the shared ones."""
        return weights_K if self.weighs_heads else torch.ones_like(weights_K)


@dataclass(kw_only=True)
class GramianWeighting(GradientWeighting):
    """A method whose update is a weighted sum of the tasks' gradients, with weights that follow from inner products.

    Attributes:
        asks_about: of which tasks of the step `weights` is asked about a group of parameters: of those that have a
            gradient of it, or of all.
    """

    asks_about: ClassVar[Literal["with_gradient", "all"]] = "with_gradient"

    @abstractmethod
    def weights(self, gramian_KK: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Return the weight of each task's gradient.

        Args:
            gramian_KK: inner products of the tasks' gradients G = J Jᵀ, float64 on the CPU, (K, K). Tasks of the step
                that have no gradient of these parameters are left out, here and in `step`, unless `asks_about` or
                `needs_tasks` is "all", or none has one. With `num_batches` = 3 the inner products between the first
                and the second batch, J_1 J_2ᵀ, which need not be symmetric; the weights then apply to the third.
            step: the step, with these tasks.

        Returns:
            Weights, float64, (K,), finite for any finite Gramian (zeros and singular ones too).
        """


@dataclass(kw_only=True)
class AverageWeighting(GramianWeighting):
    """A method that weights moving averages of the tasks' gradients in their place; `weights` sees their Gramian.

    The averages, a <- keep a + take g from 0 on, are kept, saved and restored for it: K times the shared parameters.
    """

    needs_gradients: ClassVar[bool] = True

    @abstractmethod
    def average(self, step: StepInfo) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how much of each task's average is kept, and how much of its gradient is taken, (K,) each.

        Called before `weights`, once a step (with `grouping: block` once a group of parameters).
        """


@dataclass(kw_only=True)
class SquaresWeighting(GramianWeighting):
    """A method that looks at the sum over all steps of each number of the tasks' gradients squared.

    The sums are kept, saved and restored for it: K times the shared parameters in the scope.
    """

    needs_gradients: ClassVar[bool] = True
    asks_about: ClassVar[Literal["with_gradient", "all"]] = "all"  # as `observe` is, whose findings `scratch` holds

    @abstractmethod
    def observe(self, gradients_KP: torch.Tensor, squares_KP: torch.Tensor, step: StepInfo) -> None:
        """Look at some numbers; called for all numbers of the scope in turn, before `weights`.

        What it finds goes to `step.scratch`. Not called in a step that uses no parameter of the scope.

        Args:
            gradients_KP: each task's gradient of some numbers, (K, P), float32 (or float64). Left out are the rows of
                an embedding that the step does not touch: their gradients are 0.
            squares_KP: the sums of their squares over all steps up to this one, (K, P).
            step: the step, with the memory and the scratch of the parameter's group.
        """


@dataclass(kw_only=True)
class CoordinateWeighting(GradientWeighting):
    """A method that combines the tasks' gradients number by number, not by one weight a task."""

    needs_gradients: ClassVar[bool] = True

    @abstractmethod
    def combine(self, block_KP: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Return the update of some numbers, (P,), from each task's gradient of them, (K, P).

        Called for all numbers in turn. Of an embedding only the rows that the step touches are given: where all tasks'
        gradients are 0 the result must be 0.
        """
