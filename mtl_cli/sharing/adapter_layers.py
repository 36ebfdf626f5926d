"""Bottleneck modules of each task behind the linear layers of a block.

Shapes: N tokens of all rows, B rows, T tokens of the longest, D hidden width; hidden states are (1, N, D) or (B, T, D).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from mtl_cli.encoders.dropout import FastDropout
from mtl_cli.encoders.sites import SiteName
from mtl_cli.sharing.rows import apply_by_task
from mtl_cli.sharing.small_modules import INIT_STD
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper

Activation = Literal["gelu", "relu", "silu", "tanh"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}

Placement = Literal["houlsby", "pfeiffer"]
PLACEMENTS: dict[Placement, tuple[SiteName, ...]] = {
    "houlsby": ("attention_output", "feed_forward_output"),
    "pfeiffer": ("feed_forward_output",),
}
"""Behind which layers of a block the modules stand."""


class Adapter(nn.Module):
    """up(dropout(act(down(y)))): what an adapter adds to hidden states y."""

    def __init__(
        self, hidden_size: int, bottleneck: int, *, activation: Activation, dropout: float, up_std: float
    ) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = FastDropout(dropout)
        self.up = nn.Linear(bottleneck, hidden_size)
        nn.init.normal_(self.down.weight, std=INIT_STD)
        nn.init.normal_(self.up.weight, std=up_std)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is added to hidden states (..., D)."""
        added: torch.Tensor = self.up(self.dropout(self.activation(self.down(hidden))))
        return added


class AdaptedLayer(Wrapper):
    """A linear layer whose outputs y become y + adapter(y), with the adapter of the task whose rows they are."""

    def __init__(self, layer: nn.Module, of_task: TaskModules) -> None:
        super().__init__(layer)
        self.of_task = of_task

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the layer for all rows at once, and each task's adapter for its own."""
        output: torch.Tensor = self.wrapped(inputs)
        return output + apply_by_task(lambda task, part: self.adapter(task)(part), output, self.layout())

    def adapter(self, task: str) -> Adapter:
        """Return a task's adapter."""
        found = self.of_task[task]
        assert isinstance(found, Adapter)
        return found


def adapted_layers(root: nn.Module) -> list[AdaptedLayer]:
    """Return the layers with adapters inside a module, in order."""
    return [module for module in root.modules() if isinstance(module, AdaptedLayer)]
