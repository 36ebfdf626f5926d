"""Weights that the user states."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch

from mtl_cli.types import NonNegativeFloat, UserError
from mtl_cli.weighting.weighting import LossWeighting


class Static(LossWeighting):
    """Each task's loss has a weight that stays the same throughout (linear scalarisation).

    Args:
        task_weights: the weight of each task, 0 or more; a task that is not named has weight 1.
        normalize: scale the weights so that they sum to the number of tasks, which keeps the size of the update
            comparable with equal weights.
    """

    def __init__(self, task_weights: dict[str, NonNegativeFloat], normalize: bool = False) -> None:
        self.task_weights = dict(task_weights)
        self.normalize = normalize
        if self.task_weights and not any(self.task_weights.values()):
            raise UserError("weighting.task_weights: found only zeros, at least one weight must be positive")

    def start(self, tasks: Sequence[str]) -> None:
        """Settle the weight of each task."""
        super().start(tasks)
        for name in self.task_weights:
            if name not in tasks:
                near = difflib.get_close_matches(name, tasks, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(
                    f"weighting.task_weights.{name}: no such task in this run, tasks are {', '.join(tasks)}{hint}"
                )
        weights = {task: float(self.task_weights.get(task, 1.0)) for task in tasks}
        scale = len(weights) / sum(weights.values()) if self.normalize else 1.0
        self._weights = {task: weight * scale for task, weight in weights.items()}

    def weights(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return the stated weight of each task."""
        return {task: self._weights[task] for task in losses}
