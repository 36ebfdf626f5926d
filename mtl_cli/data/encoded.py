"""A tokenised split as flat arrays: cheap to keep, to shuffle and to cut into batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mtl_cli.types import Batch


def _gather(starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Indices of all elements of `rows` in a flat array whose row r spans starts[r]:starts[r + 1]."""
    begins, sizes = starts[rows], starts[rows + 1] - starts[rows]
    offsets = np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
    return np.arange(sizes.sum()) + offsets


@dataclass(frozen=True)
class EncodedSplit:
    """One split of one task, tokenised. A row is what the encoder sees at once.

    An example is one row, except that a tagged text longer than the encoder takes is cut into several. R rows, E
    examples.

    Attributes:
        input_ids: token ids of all rows one after the other, int32.
        row_starts: where each row begins in `input_ids`, int64, R + 1 values.
        token_type_ids: as `input_ids`, uint8, or None where the tokenizer has no segments.
        labels: labels of all rows one after the other (int64 class ids or float32 scores), or None for an unlabelled
            split.
        positions: for tasks with a label a word: the word's token within its row, int32, one value a label; else None.
        label_starts: where each row's labels begin, int64, R + 1 values; None where each row has one.
        word_numbers: the number of the word within its example that each label belongs to, int32; None where each row
            has one.
        example_numbers: the example that each row belongs to, int64, R values in ascending order.
        num_examples: E.
    """

    input_ids: np.ndarray
    row_starts: np.ndarray
    token_type_ids: np.ndarray | None
    labels: np.ndarray | None
    positions: np.ndarray | None
    label_starts: np.ndarray | None
    word_numbers: np.ndarray | None
    example_numbers: np.ndarray
    num_examples: int

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row, shape (R,)."""
        return np.diff(self.row_starts)

    def label_slots(self, rows: np.ndarray) -> np.ndarray:
        """Where the labels of these rows lie among all labels, in the order in which `batch` gives them."""
        return np.asarray(rows) if self.label_starts is None else _gather(self.label_starts, rows)

    def select(self, examples: np.ndarray) -> EncodedSplit:
        """Keep the rows of these examples (their numbers, ascending), which are numbered anew."""
        bounds = np.searchsorted(self.example_numbers, np.arange(self.num_examples + 1))
        rows = _gather(bounds, examples)
        tokens, slots = _gather(self.row_starts, rows), self.label_slots(rows)

        def starts(of_rows: np.ndarray) -> np.ndarray:
            return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(np.diff(of_rows)[rows])))

        return EncodedSplit(
            input_ids=self.input_ids[tokens],
            row_starts=starts(self.row_starts),
            token_type_ids=None if self.token_type_ids is None else self.token_type_ids[tokens],
            labels=None if self.labels is None else self.labels[slots],
            positions=None if self.positions is None else self.positions[slots],
            label_starts=None if self.label_starts is None else starts(self.label_starts),
            word_numbers=None if self.word_numbers is None else self.word_numbers[slots],
            example_numbers=np.repeat(np.arange(len(examples)), np.diff(bounds)[examples]),
            num_examples=len(examples),
        )

    def batch(self, rows: np.ndarray) -> Batch:
        """Collate the rows with these numbers, in this order, without padding."""
        tokens = _gather(self.row_starts, rows)
        lengths = self.row_starts[rows + 1] - self.row_starts[rows]
        positions = None
        if self.positions is None or self.label_starts is None:
            labels = None if self.labels is None else self.labels[rows]
        else:
            chosen = _gather(self.label_starts, rows)
            labels = None if self.labels is None else self.labels[chosen]
            first_token = np.cumsum(lengths) - lengths
            labels_per_row = self.label_starts[rows + 1] - self.label_starts[rows]
            positions = torch.from_numpy(
                self.positions[chosen].astype(np.int64) + np.repeat(first_token, labels_per_row)
            )
        return Batch(
            input_ids_N=torch.from_numpy(self.input_ids[tokens].astype(np.int64)),
            lengths_B=torch.from_numpy(lengths),
            token_type_ids_N=None
            if self.token_type_ids is None
            else torch.from_numpy(self.token_type_ids[tokens].astype(np.int64)),
            positions_M=positions,
            labels_M=None if labels is None else torch.from_numpy(np.ascontiguousarray(labels)),
            rows_B=np.asarray(rows),
        )
