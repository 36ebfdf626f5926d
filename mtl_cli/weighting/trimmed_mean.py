"""The coordinate-wise trimmed mean.

Shapes: K tasks of a step, P numbers of one parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from mtl_cli.types import NonNegativeInt, UserError
from mtl_cli.weighting.gradient_weighting import CoordinateWeighting
from mtl_cli.weighting.weighting import StepInfo, TasksNeeded

_MOST_BUBBLED = 2
"""How many gradients at either end are found by comparisons of pairs; more are found by sorting."""


@dataclass(kw_only=True)
class TrimmedMean(CoordinateWeighting):
    """For each number of a parameter, the mean of the tasks' gradients without the n largest and the n smallest.

    n = `num_trimmed`; n = 0 is the plain mean, and with 2 n + 1 tasks it is the median. Made for workers of one task of
    which some send anything; here for completeness.

    Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, Yin et al., ICML 2018, where n = β K.

    Args:
        num_trimmed: gradients left out at either end; 2 n must be below the number of tasks. A run with one task leaves
            none out.
    """

    needs_tasks: ClassVar[TasksNeeded] = "all"

    num_trimmed: NonNegativeInt = 1

    def start(self, tasks: Sequence[str], seed: int = 0, steps_per_epoch: int = 1) -> None:
        """Check the setting against the number of tasks."""
        super().start(tasks, seed, steps_per_epoch)
        if len(tasks) > 1 and 2 * self.num_trimmed >= len(tasks):
            raise UserError(
                f"weighting.num_trimmed: found {self.num_trimmed} with {len(tasks)} tasks, allowed: at most "
                f"{(len(tasks) - 1) // 2}"
            )

    def combine(self, block_KP: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Return the mean over the tasks in the middle, (P,)."""
        num_tasks = len(block_KP)
        num_trimmed = min(self.num_trimmed, (num_tasks - 1) // 2)
        if num_trimmed == 0:
            return block_KP.mean(0)
        if num_trimmed > _MOST_BUBBLED:
            return block_KP.sort(dim=0).values[num_trimmed : num_tasks - num_trimmed].mean(0)
        # Bubble the largest to the end and the smallest to the start: sorting along tasks takes several times as long.
        rows = list(block_KP.unbind())
        for _ in range(num_trimmed):
            for step_row in range(len(rows) - 1):
                low_P, high_P = rows[step_row], rows[step_row + 1]
                rows[step_row : step_row + 2] = [torch.minimum(low_P, high_P), torch.maximum(low_P, high_P)]
            rows.pop()
            for step_row in range(len(rows) - 1, 0, -1):
                low_P, high_P = rows[step_row - 1], rows[step_row]
                rows[step_row - 1 : step_row + 1] = [torch.minimum(low_P, high_P), torch.maximum(low_P, high_P)]
            rows.pop(0)
        return sum(rows[1:], start=rows[0]) / len(rows)
