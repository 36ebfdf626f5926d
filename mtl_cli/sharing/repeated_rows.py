"""Columns of an encoder, one a task, that all see all rows of a step, so that their hidden states can be mixed.

Shapes: B rows of a step, T tokens of the longest, N tokens of all of them, K columns, M places of a column's hidden
states (N, or B T where they are padded), D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from mtl_cli.encoders import Encoder, EncoderShape, Layout, use_layout
from mtl_cli.sharing.columns import check_family, check_num_shared_layers, make_columns
from mtl_cli.sharing.rows import is_by_row, part_of, real_tokens
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.sharing.wrappers import Wrapper
from mtl_cli.types import NonNegativeInt


@dataclass
class RunningPass:
    """What is known during one forward pass through the columns.

    Attributes:
        layout: of the rows of the step, each of them once, with their own tasks.
        states_KMD: states that wrapped blocks leave for blocks above, by the number of the block.
    """

    layout: Layout
    states_KMD: dict[int, torch.Tensor] = field(default_factory=dict)


_running: ContextVar[RunningPass] = ContextVar("running_pass")


def running_pass() -> RunningPass:
    """Return the forward pass that is running. Activation checkpointing repeats blocks, never what wraps them."""
    try:
        return _running.get()
    except LookupError:
        raise RuntimeError("No columns are running: call the encoder through the model or strategy.encode.") from None


@contextmanager
def _new_pass(layout: Layout) -> Iterator[None]:
    """Inside, a forward pass of these rows runs; whatever it kept is forgotten afterwards, also after an error."""
    token = _running.set(RunningPass(layout))
    try:
        yield
    finally:
        _running.reset(token)


def encode_in_columns(
    encoder: Encoder,
    columns: Sequence[str],
    input_ids_N: torch.Tensor,
    token_type_ids_N: torch.Tensor | None,
    layout: Layout,
) -> torch.Tensor:
    """Run every row through every column and return, for each task's tokens, the states of its own column, (N, D).

    To the encoder a column is a task that has all rows of the step.
    """
    num_columns = len(columns)
    repeated = Layout.from_lengths(dict.fromkeys(columns, layout.lengths), packed=layout.packed)
    token_types = None if token_type_ids_N is None else token_type_ids_N.repeat(num_columns)
    with _new_pass(layout):
        hidden = encoder(input_ids_N.repeat(num_columns), token_types, repeated)
    hidden_KND = hidden.view(num_columns, layout.num_tokens, -1)
    return torch.cat([hidden_KND[columns.index(task), layout.token_slices[task]] for task in layout.tasks])


def split_columns(hidden: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Return hidden states, (1, K N, D) or (K B, T, D), as (K, M, D)."""
    return hidden.reshape(num_columns, -1, hidden.shape[-1])


def tokens_of_columns(states_KMD: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Leave out padding: (K, N, D), tokens in the order of `layout`, the layout of the rows of the step."""
    return real_tokens(states_KMD.unflatten(1, (1 if layout.packed else layout.num_rows, -1)), layout)


def add_columns(
    encoder: Encoder, columns: Sequence[str], num_shared_layers: int, setting: str, last_mixed: int
) -> None:
    """Give each task a column, and let the blocks below the columns see each row once.

    Args:
        encoder: changed in place.
        columns: the tasks of the run.
        num_shared_layers: blocks below the columns.
        setting: the key that asks for columns, for errors.
        last_mixed: number of the last block behind which columns are mixed; those above are the tasks' own.
    """
    make_columns(
        encoder,
        columns,
        num_shared_layers=num_shared_layers,
        task_specific=False,
        setting=setting,
        own_from=last_mixed + 1,
    )
    for index in range(num_shared_layers):
        encoder.blocks[index] = OnceForAllColumns(encoder.blocks[index])


class OnceForAllColumns(Wrapper):
    """A block below the columns: it sees the rows of a step once, and each column gets the result.

    Below the columns all of them hold the same. What the block returns besides hidden states (T5's position bias) is
    repeated as well, because blocks above take each column's part of it.
    """

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the first column's rows through the block."""
        layout = self.layout()
        first = layout.tasks[0]
        with use_layout(layout.of(first)):
            output = self.wrapped(
                part_of(hidden, layout, first),
                *(part_of(value, layout, first) for value in args),
                **{key: part_of(value, layout, first) for key, value in kwargs.items()},
            )
        return _repeat(output, layout.of(first), len(layout.tasks))


def _repeat(value: Any, layout: Layout, times: int) -> Any:
    """Repeat what is laid out as the rows of `layout` are; leave the rest."""
    if isinstance(value, tuple | list):
        return type(value)(_repeat(item, layout, times) for item in value)
    if isinstance(value, torch.Tensor) and is_by_row(value, layout):
        dim = 1 if layout.packed else 0
        return torch.cat([value] * times, dim=dim)
    return value


class ColumnSharing(SharingStrategy):
    """A strategy with a column of the encoder a task, through all of which every row goes.

    A run of one task has one column, which is the plain encoder.
    """

    why_not_segmented: ClassVar[str | None] = "every row goes through the columns of all tasks"

    num_shared_layers: NonNegativeInt = 0
    _columns: tuple[str, ...] = ()

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse to share all blocks: columns need one at least."""
        check_num_shared_layers(self.num_shared_layers, num_blocks)

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families all of which cannot be in columns."""
        check_family(encoder, self.num_shared_layers, "sharing.num_shared_layers")

    def has_layers_in_blocks(self, task_names: Sequence[str], num_blocks: int) -> bool:
        """Whether there are several columns."""
        return len(task_names) > 1

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Tasks part at the lowest column."""
        return "every task has a column of blocks, and all columns feed all tasks"

    def encode(
        self, encoder: Encoder, input_ids_N: torch.Tensor, token_type_ids_N: torch.Tensor | None, layout: Layout
    ) -> torch.Tensor:
        """Return the hidden states that are read of the rows of a step, each from its own task's column, (R, D)."""
        if len(self._columns) < 2:
            return super().encode(encoder, input_ids_N, token_type_ids_N, layout)
        return layout.only_read(encode_in_columns(encoder, self._columns, input_ids_N, token_type_ids_N, layout))
