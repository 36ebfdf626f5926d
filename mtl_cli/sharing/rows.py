"""Parts of hidden states, and of what goes with them into a block, that belong to some of the tasks.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mtl_cli.encoders import Layout, current_layout, use_layout


def split_dim(layout: Layout) -> tuple[int, Mapping[str, slice]]:
    """Return along which dimension of hidden states the tasks lie, and where each does."""
    return (1, layout.token_slices) if layout.packed else (0, layout.row_slices)


def apply_by_task(
    function: Callable[[str, torch.Tensor], torch.Tensor], hidden: torch.Tensor, layout: Layout
) -> torch.Tensor:
    """Apply a function of a task's name and its part of the hidden states to each task, and join the results.

    Args:
        function: keeps rows and tokens in their places; may change the width.
        hidden: (1, N, D) or (B, T, D).
        layout: of the rows.
    """
    if len(layout.tasks) == 1:
        return function(layout.tasks[0], hidden)
    dim, slices = split_dim(layout)
    parts = hidden.split([part.stop - part.start for part in slices.values()], dim=dim)
    return torch.cat([function(task, part) for task, part in zip(layout.tasks, parts, strict=True)], dim=dim)


def part_of(value: Any, layout: Layout, task: str) -> Any:
    """One task's part of an argument of a block; arguments that are the same for all rows stay as they are."""
    if isinstance(value, Layout):
        return value.of(task)
    if isinstance(value, tuple | list):
        return type(value)(part_of(item, layout, task) for item in value)
    if isinstance(value, torch.Tensor) and is_by_row(value, layout):
        dim, slices = split_dim(layout)
        part = slices[task]
        return value.narrow(dim, part.start, part.stop - part.start)
    return value


def is_by_row(value: torch.Tensor, layout: Layout) -> bool:
    """Whether a tensor is laid out as the hidden states are: by rows, or packed by tokens.

    Padded masks, positions and biases have the rows first. DeBERTa's embeddings of relative positions, (R, D), do not,
    even if there should be R rows: matrices with the rows first are masks and ids, never floating-point numbers.
    """
    if layout.packed:
        return value.ndim >= 2 and value.shape[0] == 1 and value.shape[1] == layout.num_tokens
    if value.ndim < 2 or value.shape[0] != layout.num_rows:
        return False
    return value.ndim > 2 or not value.is_floating_point()


def join(outputs: list[Any], layout: Layout) -> Any:
    """Put the tasks' outputs of a block together as one block would have returned them."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        dim, _ = split_dim(layout)
        if dim == 0:
            outputs = [
                output.expand(layout.of(task).num_rows, *output.shape[1:])
                for task, output in zip(layout.tasks, outputs, strict=True)
            ]
        return torch.cat(outputs, dim=dim)
    if isinstance(first, tuple | list):
        return type(first)(join(list(items), layout) for items in zip(*outputs, strict=True))
    if first is None:
        return None
    raise RuntimeError(f"A block returned {type(first).__name__}, which cannot be put together from several tasks.")


def run_each(
    blocks: Mapping[str, nn.Module], hidden: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run each task's rows through a block of its own; returns what one block would.

    Args:
        blocks: the block of each task of the step.
        hidden: the block's first argument.
        args: its other arguments; those that are laid out by rows or tokens are split as the hidden states are.
        kwargs: the same of its arguments by name.
    """
    layout = current_layout()
    if len(layout.tasks) == 1:
        return blocks[layout.tasks[0]](hidden, *args, **kwargs)
    outputs = []
    for task in layout.tasks:
        with use_layout(layout.of(task)):
            outputs.append(
                blocks[task](
                    part_of(hidden, layout, task),
                    *(part_of(value, layout, task) for value in args),
                    **{key: part_of(value, layout, task) for key, value in kwargs.items()},
                )
            )
    return join(outputs, layout)


def run_some(
    block: nn.Module, tasks: Sequence[str], hidden: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run the rows of some tasks through a block in one call; the hidden states of all others pass it by unchanged.

    Packed rows that pass by cost nothing. Padded ones are computed and left out: what else a block returns (T5's
    position bias) is that of all rows.
    """
    layout = current_layout()
    chosen = tuple(task for task in layout.tasks if task in tasks)
    if chosen == layout.tasks:
        return block(hidden, *args, **kwargs)
    if not layout.packed:
        output = block(hidden, *args, **kwargs)
        new = output[0] if isinstance(output, tuple | list) else output
        kept = torch.cat([(new if task in chosen else hidden)[part] for task, part in layout.row_slices.items()])
        return type(output)((kept, *output[1:])) if isinstance(output, tuple | list) else kept
    if not chosen:
        return hidden
    some = layout.of_tasks(chosen)

    def take(value: Any) -> Any:
        if isinstance(value, Layout):
            return some
        if isinstance(value, tuple | list):
            return type(value)(take(item) for item in value)
        if isinstance(value, torch.Tensor) and is_by_row(value, layout):
            return torch.cat([value[:, layout.token_slices[task]] for task in chosen], dim=1)
        return value

    with use_layout(some):
        output = block(take(hidden), *take(tuple(args)), **{key: take(value) for key, value in kwargs.items()})
    if isinstance(output, tuple | list):
        if len(output) > 1 and any(item is not None for item in output[1:]):
            raise RuntimeError("A block of packed rows returned more than hidden states.")
        new = output[0]
    else:
        new = output
    kept = torch.cat(
        [
            new[:, some.token_slices[task]] if task in chosen else hidden[:, part].to(new.dtype)
            for task, part in layout.token_slices.items()
        ],
        dim=1,
    )
    return type(output)((kept, *output[1:])) if isinstance(output, tuple | list) else kept
