"""Where each row's tokens lie in a step's hidden states, and which task each row belongs to.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, R of them that heads read, S slots of all attention
groups (N and padding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from mtl_cli.encoders.grouping import group_by_length, group_for_passes
from mtl_cli.types import move_tensor

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Rows of similar length that attend in one batched product.

    Attributes:
        num_rows: rows in the group.
        length: tokens of its longest row; shorter rows are padded to it.
        slots: the group's part of the S slots, num_rows * length of them.
        is_real_BT: which slots hold a token, bool (num_rows, length); None where the group has no padding.
    """

    num_rows: int
    length: int
    slots: slice
    is_real_BT: torch.Tensor | None


class SlotIndices(NamedTuple):
    """The indices between the N tokens of a layout and the S slots of its attention groups.

    Attributes:
        token_of_slot_S: the token in each slot; in padding, the row's last one.
        padding_slots: the slots that are padding.
        slot_of_token_N: the slot of each token.
    """

    token_of_slot_S: torch.Tensor
    padding_slots: torch.Tensor
    slot_of_token_N: torch.Tensor


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How the N tokens of a layout are laid out in groups for attention, and brought back.

    Attributes:
        groups: the groups, one after the other in the S slots.
        indices: between tokens and slots; None where the slots are the tokens in order.
    """

    groups: tuple[AttentionGroup, ...]
    indices: SlotIndices | None


@dataclass(frozen=True, slots=True)
class Padding:
    """How the N tokens of a layout fill a padded (B, T) array.

    Attributes:
        token_of_slot_BT: the token in each place (padding repeats the row's last one), int64.
        is_real_BT: which places hold a token, bool.
        slot_of_token_N: the place of each token in the flattened array, int64.
    """

    token_of_slot_BT: torch.Tensor
    is_real_BT: torch.Tensor
    slot_of_token_N: torch.Tensor


@dataclass(frozen=True, slots=True)
class PassGroup:
    """Rows of similar length that go through a padded encoder by themselves.

    Attributes:
        layout: their layout, as if they were one task's.
        tokens: which of the N tokens are theirs, int64, row after row.
    """

    layout: Layout
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens whose last hidden states the heads read, task after task; R of them, or none.

    Attributes:
        tokens_R: which of the N tokens, int64.
        token_slices: each task's among the R.
    """

    tokens_R: torch.Tensor
    token_slices: Mapping[str, slice]


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a step: their lengths and tasks. Rows of a task are contiguous, and so are their tokens.

    Computed with numpy on the CPU once a forward pass; what attention and pooling derive from it is computed on first
    use and kept, so that all blocks of an encoder share it.

    Attributes:
        lengths: tokens in each row, int64 (B,), each at least 1.
        tasks: the tasks in the step's order.
        row_slices: each task's rows.
        token_slices: each task's tokens among the N.
        packed: True where hidden states are (1, N, D) without padding, False where they are (B, T, D).
        read: the tokens whose last hidden states are read; None: all.
    """

    lengths: np.ndarray
    tasks: tuple[str, ...]
    row_slices: Mapping[str, slice]
    token_slices: Mapping[str, slice]
    packed: bool
    read: Reading | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_lengths(cls, lengths: Mapping[str, np.ndarray], *, packed: bool) -> Layout:
        """Lay out the rows of each task, given the tokens in each of its rows, in the mapping's order."""
        row_slices, token_slices = {}, {}
        num_rows = num_tokens = 0
        for task, of_task in lengths.items():
            row_slices[task] = slice(num_rows, num_rows := num_rows + len(of_task))
            token_slices[task] = slice(num_tokens, num_tokens := num_tokens + int(of_task.sum()))
        of_all = np.concatenate([np.asarray(of_task, dtype=np.int64) for of_task in lengths.values()])
        return cls(of_all, tuple(lengths), row_slices, token_slices, packed)

    def reading(self, tokens: Mapping[str, torch.Tensor | None]) -> Layout:
        """Return this layout where of each task only these tokens' last hidden states are read.

        Args:
            tokens: of each task, int64, counted from its first one; None: all of its tokens.
        """
        if all(of_task is None for of_task in tokens.values()):
            return self
        parts, slices, count = [], {}, 0
        device = next(of_task.device for of_task in tokens.values() if of_task is not None)
        for task, of_task in tokens.items():
            part = self.token_slices[task]
            if of_task is None:
                of_task = torch.arange(part.stop - part.start, device=device)
            parts.append(of_task + part.start)
            slices[task] = slice(count, count := count + len(of_task))
        return replace(self, read=Reading(torch.cat(parts), slices))

    def reading_all(self) -> Layout:
        """Return this layout where all tokens are read."""
        return self if self.read is None else replace(self, read=None)

    @property
    def read_slices(self) -> Mapping[str, slice]:
        """Each task's tokens among those whose last hidden states are read."""
        return self.token_slices if self.read is None else self.read.token_slices

    def only_read(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the hidden states of the tokens that are read, (R, D)."""
        return hidden_ND if self.read is None else hidden_ND.index_select(0, self.read.tokens_R)

    def slices_of(self, num_tokens: int) -> Mapping[str, slice] | None:
        """Each task's tokens among so many: all N, or those that are read; None where it is neither."""
        if num_tokens == self.num_tokens:
            return self.token_slices
        return self.read_slices if self.read is not None and num_tokens == len(self.read.tokens_R) else None

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """N: real tokens; padding never counts."""
        return self.kept("num_tokens", lambda: int(self.lengths.sum()))

    @property
    def max_length(self) -> int:
        """T: tokens of the longest row."""
        return self.kept("max_length", lambda: int(self.lengths.max()))

    @property
    def starts(self) -> np.ndarray:
        """The first token of each row among the N, int64 (B,)."""
        return self.kept("starts", lambda: np.cumsum(self.lengths) - self.lengths)

    def of(self, task: str) -> Layout:
        """The layout of one task's rows alone, their tokens counted from 0."""
        if self.tasks == (task,):  # not kept: FSDP looks through what a block is given, and would go in a circle
            return self
        return self.kept(
            ("of", task),
            lambda: Layout.from_lengths({task: self.lengths[self.row_slices[task]]}, packed=self.packed),
        )

    def of_tasks(self, tasks: tuple[str, ...]) -> Layout:
        """The layout of some tasks' rows alone, in this order, their tokens counted from 0."""
        if tasks == self.tasks:
            return self
        return self.kept(
            ("of_tasks", tasks),
            lambda: Layout.from_lengths(
                {task: self.lengths[self.row_slices[task]] for task in tasks}, packed=self.packed
            ),
        )

    def row_starts(self, device: torch.device) -> torch.Tensor:
        """The first token of each row among the N, int64 (B,)."""
        return self._on(device, "row_starts", lambda: self.starts)

    def row_ends(self, device: torch.device) -> torch.Tensor:
        """The last token of each row among the N, int64 (B,)."""
        return self._on(device, "row_ends", lambda: self.starts + self.lengths - 1)

    def row_lengths(self, device: torch.device) -> torch.Tensor:
        """Tokens in each row, int64 (B,)."""
        return self._on(device, "row_lengths", lambda: self.lengths)

    def row_of_token(self, device: torch.device) -> torch.Tensor:
        """The row that each token belongs to, int64 (N,)."""
        return self._on(device, "row_of_token", lambda: np.repeat(np.arange(self.num_rows), self.lengths))

    def positions(self, device: torch.device) -> torch.Tensor:
        """The place of each token in its row, from 0, int64 (N,)."""
        return self._on(device, "positions", lambda: np.arange(self.num_tokens) - np.repeat(self.starts, self.lengths))

    def boundaries(self, device: torch.device) -> torch.Tensor:
        """0 and the running sum of the lengths, int32 (B + 1,): what variable-length kernels call cu_seqlens."""
        return self._on(device, "boundaries", lambda: np.concatenate(([0], np.cumsum(self.lengths))).astype(np.int32))

    def padding(self, device: torch.device) -> Padding:
        """The indices between the N tokens and a padded (B, T) array."""
        return self.kept(("padding", device), lambda: self._make_padding(device))

    def attention_plan(self, device: torch.device) -> AttentionPlan:
        """Groups of rows of similar length, and the indices between the N tokens and the groups' slots."""
        return self.kept(("attention_plan", device), lambda: self._make_attention_plan(device))

    def groups_for_passes(self, device: torch.device) -> list[PassGroup]:
        """Split the rows by length for passes through an encoder that pads; rows in order where one group is best."""
        groups = group_for_passes(self.lengths)
        if len(groups) == 1:
            return [PassGroup(self, _to(np.arange(self.num_tokens), device))]
        found = []
        for rows in groups:
            lengths = self.lengths[rows]
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            tokens = np.repeat(self.starts[rows], lengths) + within
            layout = Layout.from_lengths({"rows": lengths}, packed=self.packed)
            found.append(PassGroup(layout, _to(tokens, device)))
        return found

    def kept(self, key: Any, make: Callable[[], _Value]) -> _Value:
        """Return what `make` returned when this layout was first asked for `key`."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _on(self, device: torch.device, name: str, make: Callable[[], np.ndarray]) -> torch.Tensor:
        return self.kept((name, device), lambda: _to(make(), device))

    def _make_padding(self, device: torch.device) -> Padding:
        tokens, is_real = self._slots(np.arange(self.num_rows))
        return Padding(_to(tokens, device), _to(is_real, device), _to(np.flatnonzero(is_real), device))

    def _slots(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The token in each place of these rows padded to their longest, and which places hold one."""
        lengths_B1 = self.lengths[rows][:, None]
        place_1T = np.arange(lengths_B1.max())[None, :]
        return self.starts[rows][:, None] + np.minimum(place_1T, lengths_B1 - 1), place_1T < lengths_B1

    def _make_attention_plan(self, device: torch.device) -> AttentionPlan:
        groups, tokens_of_groups, real_of_groups = [], [], []
        num_slots = 0
        for rows in group_by_length(self.lengths):
            tokens_BT, is_real_BT = self._slots(rows)
            slots = slice(num_slots, num_slots := num_slots + tokens_BT.size)
            is_real = None if is_real_BT.all() else _to(is_real_BT, device)
            groups.append(AttentionGroup(len(rows), tokens_BT.shape[1], slots, is_real))
            tokens_of_groups.append(tokens_BT.ravel())
            real_of_groups.append(is_real_BT.ravel())
        token_of_slot, holds_token = np.concatenate(tokens_of_groups), np.concatenate(real_of_groups)
        if num_slots == self.num_tokens and np.array_equal(token_of_slot, np.arange(num_slots)):
            return AttentionPlan(tuple(groups), None)
        slot_of_token = np.empty(self.num_tokens, dtype=np.int64)
        slot_of_token[token_of_slot[holds_token]] = np.flatnonzero(holds_token)
        indices = SlotIndices(
            _to(token_of_slot, device), _to(np.flatnonzero(~holds_token), device), _to(slot_of_token, device)
        )
        return AttentionPlan(tuple(groups), indices)


def _to(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return move_tensor(torch.from_numpy(np.ascontiguousarray(array)), device)
