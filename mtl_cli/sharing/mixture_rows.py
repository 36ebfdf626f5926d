"""Weights of a mixture of columns, a row for what each column gets.

Shapes: K columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mtl_cli.sharing.task_modules import TaskModules


class MixtureRow(nn.Module):
    """What one column's mixture is made of."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.clone())


class MixtureRows(nn.Module):
    """The rows of all columns: one parameter that all tasks train, or one a task.

    A row is trained by the tasks whose rows of text are read from its column, or from what columns above make of it:
    behind the last mixture the column's own task alone.

    Args:
        weights: at the start, (K, ...).
        owners: the task of each row, where each is its task's own; None: all tasks train all rows.
    """

    def __init__(self, weights: torch.Tensor, owners: Sequence[str] | None) -> None:
        super().__init__()
        self.of_all = nn.Parameter(weights.clone()) if owners is None else None
        rows = {} if owners is None else dict(zip(owners, weights, strict=True))
        self.of_task = TaskModules({task: MixtureRow(row) for task, row in rows.items()})

    def forward(self) -> torch.Tensor:
        """Return the weights, (K, ...), with a graph to their parameters."""
        if self.of_all is not None:
            return self.of_all
        return torch.stack([row.get_parameter("weights") for row in self.of_task.values()])
