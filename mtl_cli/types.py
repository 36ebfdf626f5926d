"""Records and value types that every part shares. Imports nothing of ours.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, M labels, D hidden width, C classes, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Interval

from mtl_cli.errors import UserError as UserError

if TYPE_CHECKING:  # reading a run folder needs neither
    import numpy as np
    import torch

IGNORE_INDEX = -100
"""The label that no loss and no metric counts."""

SPLITS = ("train", "validation", "test")
Split = Literal["train", "validation", "test"]

# Value types of settings. The configuration check reads the bounds from the annotation of a constructor's argument.
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
OpenFraction = Annotated[float, Interval(gt=0, lt=1)]
Probability = Annotated[float, Interval(ge=0, lt=1)]

Pooling = Literal["first", "mean", "max", "last"]
"""How the hidden states of a text become one vector: its first token, their mean, their maximum, its last token."""


def move_tensor(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; to a GPU from page-locked memory, so that nothing waits for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one task, one after the other, without padding.

    Attributes:
        input_ids_N: token ids of all rows, int64, shape (N,).
        lengths_B: tokens in each row, int64, shape (B,); they sum to N. Always on the CPU.
        token_type_ids_N: segment of each token (first or second text), int64, shape (N,), or None.
        positions_M: for tasks with a label a word: index into N of the token that stands for each word (its first
            sub-word), int64, shape (M,). None for tasks with a label a row, where M = B.
        labels_M: class ids (int64, IGNORE_INDEX where there is none) or scores (float32), shape (M,); None where the
            split has no labels.
        rows_B: number of each row in its encoded split, int64 numpy array, shape (B,).
    """

    input_ids_N: torch.Tensor
    lengths_B: torch.Tensor
    token_type_ids_N: torch.Tensor | None
    positions_M: torch.Tensor | None
    labels_M: torch.Tensor | None
    rows_B: np.ndarray

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.rows_B)

    @property
    def num_tokens(self) -> int:
        """N: real tokens, special ones included, padding never."""
        return len(self.input_ids_N)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device` (lengths stay on the CPU, where the layout is computed)."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else move_tensor(tensor, device)

        return Batch(
            move_tensor(self.input_ids_N, device),
            self.lengths_B,
            move(self.token_type_ids_N),
            move(self.positions_M),
            move(self.labels_M),
            self.rows_B,
        )


Step = Mapping[str, Batch]
"""What one optimizer update (or one micro-batch of it) sees: a batch for each of 1..K tasks."""
