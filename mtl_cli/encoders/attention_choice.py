"""From which length on attention without dropout is fused on this CPU, and how that is found: by timing both ways.

Below some length a product for all rows and heads at once wins; where that ends depends on the processor, the precision
and the width of a head. The choice changes the last digits of results, so a run keeps the one that it began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from mtl_cli.encoders.layout import Layout

LONGEST = 1024
"""From here on fused in any case: the (T, T) weights that plain products keep would need too much memory."""

LENGTHS = (64, 128, 256, 512)
"""The lengths that are timed, shortest first."""

_TOKENS, _HEADS, _ROUNDS = 1024, 2, 3
_GAIN = 0.9  # fused has to be faster by a tenth: less than that is noise

_fused_from = LONGEST

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Layout], torch.Tensor]
"""Attention of packed rows, as a block calls it: from queries, keys and values, (1, H, N, E), to (1, N, H, E)."""


def fused_from() -> int:
    """Return the tokens of a row from which on attention without dropout on a CPU is fused, in this process."""
    return _fused_from


def use_fused_from(tokens: int) -> None:
    """Set what `fused_from` returns."""
    global _fused_from
    _fused_from = tokens


def measure_fused_from(attend: Attend, dtype: torch.dtype, head_width: int) -> int:
    """Time both ways at some lengths, forward and back; return from where on fused wins. Takes a tenth of a second.

    Args:
        attend: goes by `fused_from`, without dropout: what is timed is what a run computes, laying out included.
        dtype: of queries, keys and values.
        head_width: E.
    """
    num_threads, before = torch.get_num_threads(), fused_from()
    torch.set_num_threads(1)  # then the time of this thread is the work's, however busy the machine
    try:
        return _first_fused(attend, dtype, head_width)
    finally:
        torch.set_num_threads(num_threads)
        use_fused_from(before)


def _first_fused(attend: Attend, dtype: torch.dtype, head_width: int) -> int:
    found = LONGEST
    for length in reversed(LENGTHS):
        # Every other row is shorter by a token: one group of rows with padding, as nearly all are.
        lengths = length - np.arange(_TOKENS // length) % 2
        layout = Layout.from_lengths({"rows": lengths}, packed=True)
        shape = (1, _HEADS, layout.num_tokens, head_width)
        rows = [torch.ones(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
        seconds: dict[int, list[float]] = {1: [], LONGEST: []}  # fused, by products
        for number in range(_ROUNDS + 1):  # the first warms up
            for fused_at, times in seconds.items():
                use_fused_from(fused_at)
                taken = _seconds(attend, rows, layout)
                if number > 0:
                    times.append(taken)
        if min(seconds[1]) > _GAIN * min(seconds[LONGEST]):
            break
        found = length
    return found


def _seconds(attend: Attend, rows: list[torch.Tensor], layout: Layout) -> float:
    began = time.thread_time()
    query, key, value = rows
    torch.autograd.grad(attend(query, key, value, layout).sum(), rows)
    return time.thread_time() - began
