"""Pooling: the hidden states of a row's tokens become one vector.

Shapes: B rows, N tokens of all rows, D hidden width.
"""

from __future__ import annotations

from typing import Literal

import torch

from mtl_cli.encoders.layout import Layout
from mtl_cli.precision import at_least_float32
from mtl_cli.types import Pooling


def pool(hidden_ND: torch.Tensor, layout: Layout, pooling: Pooling) -> torch.Tensor:
    """Return one vector a row, (B, D), from the flat hidden states of `layout`'s rows.

    Args:
        hidden_ND: hidden states of all tokens, rows one after the other, without padding.
        layout: where each row lies.
        pooling: "first" takes the row's first token ([CLS] in BERT), "last" its last (which alone has seen all of the
            row in a decoder-only model), "mean" the mean of its tokens as in Sentence-BERT (Reimers and Gurevych, EMNLP
            2019), special tokens included, "max" their maximum in each dimension. Mean and maximum in float32 at least.
    """
    device = hidden_ND.device
    token_B = pooled_token(layout, pooling, device)
    if token_B is not None:
        return hidden_ND.index_select(0, token_B)
    wide_ND = at_least_float32(hidden_ND)
    return _mean(wide_ND, layout) if pooling == "mean" else _reduce_segments(wide_ND, "max", layout)


def pooled_token(layout: Layout, pooling: Pooling, device: torch.device) -> torch.Tensor | None:
    """Return the token of each row that stands for it, int64 (B,); None where all of them do."""
    match pooling:
        case "first":
            return layout.row_starts(device)
        case "last":
            return layout.row_ends(device)
        case "mean" | "max":
            return None


def _mean(hidden_ND: torch.Tensor, layout: Layout) -> torch.Tensor:
    device = hidden_ND.device
    if device.type != "cpu":  # index_add adds in no fixed order there
        return _reduce_segments(hidden_ND, "mean", layout)
    sum_BD = hidden_ND.new_zeros(layout.num_rows, hidden_ND.shape[1])
    sum_BD = sum_BD.index_add(0, layout.row_of_token(device), hidden_ND)
    return sum_BD / layout.row_lengths(device)[:, None]


def _reduce_segments(hidden_ND: torch.Tensor, reduction: Literal["max", "mean"], layout: Layout) -> torch.Tensor:
    # unsafe: the lengths are right by construction, and to check them would wait for a GPU.
    return torch.segment_reduce(hidden_ND, reduction, lengths=layout.row_lengths(hidden_ND.device), axis=0, unsafe=True)
