"""Softmax over rows shorter than what PyTorch's kernels are made for.

On a CPU `torch.softmax` works row by row, in whole vector registers: 16 float32 or 32 bfloat16 values with AVX-512. A
row of attention scores often has fewer, and then takes 3 to 7 times as long a value. Rows that end in a part of a
register are better off in float32; where they fill none, operations on all rows at once are.
"""

from __future__ import annotations

import torch

_FLOATS = 16  # values in a register
_HALVES = 32


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension of scores on a CPU; those in bfloat16 are computed in float32."""
    length = scores.shape[-1]
    # A few values more than whole registers, or many registers: bfloat16 is as fast.
    if scores.dtype == torch.bfloat16 and (length >= 2 * _HALVES or (length >= _HALVES and length % _HALVES <= 4)):
        return torch.softmax(scores, dim=-1)
    wide = scores.float() if scores.dtype == torch.bfloat16 else scores
    if length >= _FLOATS:
        return torch.softmax(wide, dim=-1).to(scores.dtype)
    weights = torch.sub(wide, wide.amax(dim=-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(dim=-1, keepdim=True)).to(scores.dtype)


def softmax_gradient(gradient: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The gradient by the scores from that by what `softmax` returned: w (g - sum of g w)."""
    length = weights.shape[-1]
    dtype = weights.dtype
    if length >= _HALVES or (length >= _FLOATS and dtype != torch.bfloat16):
        return torch.ops.aten._softmax_backward_data(gradient, weights, -1, dtype)
    wide = weights.float() if dtype == torch.bfloat16 else weights
    if length >= _FLOATS:
        return torch.ops.aten._softmax_backward_data(gradient.float(), wide, -1, wide.dtype).to(dtype)
    found = gradient * wide
    return torch.addcmul(found, wide, found.sum(dim=-1, keepdim=True), value=-1).to(dtype)
