"""A block of the encoder that each task has for itself.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from mtl_cli.encoders import Layout, current_layout, use_layout
from mtl_cli.sharing.task_modules import TaskModules


class TaskBlocks(nn.Module):
    """Stands in place of one block and sends each task's rows through that task's own copy of it.

    All copies begin with the original's weights. Works for blocks of any family: the first argument is the hidden
    states, (1, N, D) or (B, T, D); other arguments that are laid out by rows or by tokens are split as it is, and the
    rest is handed on. What a block returns besides hidden states (T5's position bias) is put together again.
    """

    def __init__(self, block: nn.Module, task_names: list[str]) -> None:
        super().__init__()
        self.of_task = TaskModules({task: deepcopy(block) for task in task_names})

    def __getattr__(self, name: str) -> Any:
        """Some encoders read settings from their blocks (ModernBERT: attention_type); all copies have the same."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "of_task" not in modules or name.startswith("__"):
                raise
            return getattr(next(iter(modules["of_task"].values())), name)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run each task's rows through its block; returns what one block would."""
        layout = current_layout()
        if len(layout.tasks) == 1:
            return self.of_task[layout.tasks[0]](hidden, *args, **kwargs)
        dim, slices = _split_dim(layout)
        parts = hidden.split([part.stop - part.start for part in slices.values()], dim=dim)
        outputs = []
        for task, hidden_of_task in zip(layout.tasks, parts, strict=True):
            with use_layout(layout.of(task)):
                outputs.append(
                    self.of_task[task](
                        hidden_of_task,
                        *(_part(value, layout, task) for value in args),
                        **{key: _part(value, layout, task) for key, value in kwargs.items()},
                    )
                )
        return _join(outputs, layout)


def _split_dim(layout: Layout) -> tuple[int, Mapping[str, slice]]:
    return (1, layout.token_slices) if layout.packed else (0, layout.row_slices)


def _part(value: Any, layout: Layout, task: str) -> Any:
    """One task's part of an argument of a block; arguments that are the same for all rows stay as they are."""
    if isinstance(value, Layout):
        return value.of(task)
    if isinstance(value, tuple | list):
        return type(value)(_part(item, layout, task) for item in value)
    if isinstance(value, torch.Tensor) and _is_by_row(value, layout):
        dim, slices = _split_dim(layout)
        part = slices[task]
        return value.narrow(dim, part.start, part.stop - part.start)
    return value


def _is_by_row(value: torch.Tensor, layout: Layout) -> bool:
    """Whether a tensor is laid out as the hidden states are: by rows, or packed by tokens.

    Padded masks, positions and biases have the rows first. DeBERTa's embeddings of relative positions, (R, D), do not,
    even if there should be R rows: matrices with the rows first are masks and ids, never floating-point numbers.
    """
    if layout.packed:
        return value.ndim >= 2 and value.shape[0] == 1 and value.shape[1] == layout.num_tokens
    if value.ndim < 2 or value.shape[0] != layout.num_rows:
        return False
    return value.ndim > 2 or not value.is_floating_point()


def _join(outputs: list[Any], layout: Layout) -> Any:
    """Put the tasks' outputs together as one block would have returned them."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        dim, _ = _split_dim(layout)
        if dim == 0:
            outputs = [
                output.expand(layout.of(task).num_rows, *output.shape[1:])
                for task, output in zip(layout.tasks, outputs, strict=True)
            ]
        return torch.cat(outputs, dim=dim)
    if isinstance(first, tuple | list):
        return type(first)(_join(list(items), layout) for items in zip(*outputs, strict=True))
    if first is None:
        return None
    raise RuntimeError(f"A block returned {type(first).__name__}, which cannot be put together from several tasks.")
