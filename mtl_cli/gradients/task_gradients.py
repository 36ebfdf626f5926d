"""The tasks' gradients of all shared parameters in one step.

Shapes: K tasks of the step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mtl_cli.gradients.blocks import Block, RowBlock
from mtl_cli.gradients.shared import SharedParameter


class TaskGradients:
    """Each task's gradient of the shared parameters, parameter by parameter; those that no task used are left out.

    Attributes:
        tasks: the tasks of the step, in order.
        shared: the shared parameters, by name.
        blocks: their gradients, by name.
    """

    def __init__(self, tasks: tuple[str, ...], shared: Mapping[str, SharedParameter]) -> None:
        self.tasks = tasks
        self.shared = shared
        self.blocks: dict[str, Block] = {}

    def add(self, name: str, block: Block) -> None:
        """Add gradients of one parameter to those that are there: of another use of it, or another micro-batch."""
        self.blocks[name] = self.blocks[name].add(block) if name in self.blocks else block

    def add_all(self, other: TaskGradients) -> None:
        """Add the gradients of another micro-batch with the same tasks."""
        for name, block in other.blocks.items():
            self.add(name, block)

    def gramians(self, grouping: str = "whole", other: TaskGradients | None = None) -> dict[str, torch.Tensor]:
        """Return the inner products of the tasks' gradients within the scope, float64 on the CPU, (K, K).

        Args:
            grouping: "whole": one matrix, under the name "whole"; "block": one a group of parameters.
            other: the gradients for the columns; None: these.
        """
        found: dict[str, torch.Tensor] = {}
        if grouping == "whole":
            device = next(iter(self.shared.values())).parameter.device
            found["whole"] = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=device)
        for name, entry in self.shared.items():
            block = self.blocks.get(name)
            if block is None or not entry.in_scope or (other is not None and name not in other.blocks):
                continue
            group = entry.group if grouping == "block" else "whole"
            products_KK = block.inner_products(None if other is None else other.blocks[name])
            found[group] = found[group] + products_KK if group in found else products_KK.clone()
        return {group: gramian_KK.cpu() for group, gramian_KK in found.items()}

    def write(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put the weighted sum of the tasks' gradients into `.grad` of each shared parameter.

        Args:
            weights: the weight of each task, (K,), by group, or under "whole" for groups that have none of their own.
        """
        for name, block in self.blocks.items():
            entry = self.shared[name]
            weights_K = weights[entry.group] if entry.group in weights else weights["whole"]
            if entry.is_sparse and isinstance(block, RowBlock):
                gradient = block.combine_rows(weights_K).to(entry.parameter.dtype)
                entry.parameter.grad = gradient if entry.parameter.grad is None else entry.parameter.grad + gradient
            else:
                put(entry.parameter, block.combine(weights_K))


def put(parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    """Add to `.grad`."""
    # Contiguous: sums over processes read memory as it lies.
    gradient = gradient.to(parameter.dtype).reshape(parameter.shape).contiguous()
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
