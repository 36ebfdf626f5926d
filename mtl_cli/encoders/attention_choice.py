"""From which length on PyTorch's fused attention is faster on this CPU than plain products: found by timing both.

Below some length a product for all rows and heads at once wins; where that ends depends on the processor, the precision
and the width of a head. The choice changes the last digits of results, so a run keeps the one that it began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

LONGEST = 1024
"""From here on fused in any case: the (T, T) weights that plain products keep would need too much memory."""

LENGTHS = (64, 128, 256, 512)
"""The lengths that are timed, shortest first."""

_TOKENS, _HEADS, _ROUNDS = 512, 2, 3
_GAIN = 0.9  # fused has to be faster by a tenth: less than that is noise

_fused_from = LONGEST

Attend = Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]
"""From queries, keys and values and a bias of the scores to what is attended."""


def fused_from() -> int:
    """Return the tokens of a row from which on attention without dropout on a CPU is fused, in this process."""
    return _fused_from


def use_fused_from(tokens: int) -> None:
    """Set what `fused_from` returns."""
    global _fused_from
    _fused_from = tokens


def measure_fused_from(dtype: torch.dtype, head_width: int) -> int:
    """Time both at some lengths, forward and back; return from where on fused wins. Takes about a tenth of a second."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # then the time of this thread is the work's, however busy the machine
    try:
        return _first_fused(dtype, head_width)
    finally:
        torch.set_num_threads(num_threads)


def _first_fused(dtype: torch.dtype, head_width: int) -> int:
    found = LONGEST
    for length in reversed(LENGTHS):
        shape = (_TOKENS // length, _HEADS, length, head_width)
        rows = [torch.ones(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
        bias = torch.zeros(shape[0], 1, 1, length, dtype=dtype)
        seconds: dict[Attend, list[float]] = {how: [] for how in (_fused, _products)}
        for _ in range(_ROUNDS):
            for how, times in seconds.items():
                times.append(_seconds(how, rows, bias))
        if min(seconds[_fused]) > _GAIN * min(seconds[_products]):
            break
        found = length
    return found


def _seconds(attend: Attend, rows: list[torch.Tensor], bias: torch.Tensor) -> float:
    began = time.thread_time()
    torch.autograd.grad(attend(rows, bias).sum(), rows)
    return time.thread_time() - began


def _fused(rows: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    query, key, value = rows
    return scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _products(rows: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    query, key, value = (x.flatten(0, 1) for x in rows)
    bias_GQT = bias.expand(-1, rows[0].shape[1], -1, -1).flatten(0, 1)
    return torch.baddbmm(bias_GQT, query, key.transpose(1, 2)).softmax(-1).to(value.dtype) @ value
