"""What the trainer asks of a weighting: from the losses of a step to gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtl_cli.types import UserError


class Weighting(ABC):
    """From the losses of a step to the gradients of all parameters. The trainer knows no more of a method than this.

    `start` is called once with the names of the run's tasks, `backward` once a micro-batch. A method with a state of
    its own returns it from `state_dict`: tensors, and what JSON holds.
    """

    def start(self, tasks: Sequence[str]) -> None:
        """Take note of the run's tasks, in their order."""
        self.tasks = tuple(tasks)

    @abstractmethod
    def backward(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Add the gradients of this micro-batch to `.grad`; return the weight that each task's loss was given.

        Args:
            losses: the loss of each task that the step holds, a scalar with a graph.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        if state:
            raise UserError(f"{type(self).__name__} keeps no state, found {sorted(state)} in the checkpoint")


class LossWeighting(Weighting):
    """A weighting of losses: one joint objective, the sum over tasks of weight times loss, and one backward pass."""

    @abstractmethod
    def weights(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return the weight of each task in `losses`."""

    def backward(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Differentiate the weighted sum of the losses."""
        weights = self.weights(losses)
        objective = torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()
        objective.backward()
        return weights
