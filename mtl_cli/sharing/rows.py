"""Parts of hidden states, and of what goes with them into a block, that belong to some of the tasks.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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


def real_tokens(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the values of the tokens, (..., N, C), of those of all places, (..., 1, N, C) or (..., B, T, C)."""
    return values[..., 0, :, :] if layout.packed else values[..., is_real(values, layout), :]


def is_real(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return which places of padded values, (..., B, T, C), hold a token, (B, T); T may be more than the rows need."""
    place_T = torch.arange(values.shape[-2], device=values.device)
    return place_T < layout.row_lengths(values.device)[:, None]


class ByColumn(dict[str, torch.Tensor]):
    """Values that belong to no row, one a module of `run_each`; each module gets its own."""


@dataclass(frozen=True)
class _Taker:
    """Takes the part of an argument that belongs to the rows of some tasks, and a module's own values by its name."""

    layout: Layout
    tasks: tuple[str, ...]
    name: str = ""

    @cached_property
    def part(self) -> Layout:
        """The layout of these rows."""
        if self.tasks == self.layout.tasks:
            return self.layout
        return self.layout.of(self.tasks[0]) if len(self.tasks) == 1 else self.layout.of_tasks(self.tasks)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self(item) for item in value)
        if isinstance(value, ByColumn):
            return value[self.name]
        if self.part is self.layout:
            return value
        if isinstance(value, Layout):
            return self.part
        if not isinstance(value, torch.Tensor) or not is_by_row(value, self.layout):
            return value
        dim, slices = split_dim(self.layout)
        parts = [slices[task] for task in self.tasks]
        size = sum(part.stop - part.start for part in parts)
        if parts[-1].stop - parts[0].start == size:
            return value.narrow(dim, parts[0].start, size)
        return torch.cat([value.narrow(dim, part.start, part.stop - part.start) for part in parts], dim=dim)

    def run(self, module: nn.Module, first: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        with use_layout(self.part):
            return module(self(first), *self(tuple(args)), **{key: self(value) for key, value in kwargs.items()})


def part_of(value: Any, layout: Layout, task: str) -> Any:
    """One task's part of an argument of a block; arguments that are the same for all rows stay as they are."""
    return _Taker(layout, (task,))(value)


def run_each(
    modules: Mapping[str, nn.Module],
    hidden: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tasks: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Run the rows of each task, or of several tasks together, through a module of theirs; returns what one would.

    Args:
        modules: by the name of their task, or by a name that `tasks` knows.
        hidden: the modules' first argument.
        args: their other arguments; those that are laid out by rows or tokens are split as the hidden states are, the
            rest is handed on.
        kwargs: the same of their arguments by name.
        tasks: the tasks whose rows go through each module; None: the one of its name.
    """
    layout = current_layout()
    takers = []
    for name in modules:
        of_module = (name,) if tasks is None else tasks[name]
        here = tuple(task for task in layout.tasks if task in of_module)
        if here:
            takers.append(_Taker(layout, here, name))
    outputs = [taker.run(modules[taker.name], hidden, args, kwargs) for taker in takers]
    return outputs[0] if len(takers) == 1 else _join(outputs, [taker.part for taker in takers], layout)


def _join(outputs: Sequence[Any], layouts: Sequence[Layout], layout: Layout) -> Any:
    """Put the outputs of modules together in the order of the rows of `layout`."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        dim, _ = split_dim(layout)
        parts: dict[str, torch.Tensor] = {}
        whole = []
        for output, part in zip(outputs, layouts, strict=True):
            if dim == 0 and output.shape[0] != part.num_rows:  # the same for all rows, as T5's position bias can be
                output = output.expand(part.num_rows, *output.shape[1:])
            whole.append(output)
            for task, place in split_dim(part)[1].items():
                parts[task] = output.narrow(dim, place.start, place.stop - place.start)
        in_order = tuple(parts) == layout.tasks
        return torch.cat(whole if in_order else [parts[task] for task in layout.tasks], dim=dim)
    if isinstance(first, tuple | list):
        return type(first)(_join(items, layouts, layout) for items in zip(*outputs, strict=True))
    if first is None:
        return None
    raise RuntimeError(f"A module returned {type(first).__name__}, which cannot be put together from several of them.")


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
    taker = _Taker(layout, chosen)
    some, output = taker.part, taker.run(block, hidden, args, kwargs)
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
