"""Experts: small networks, or copies of a block, whose outputs are mixed.

Shapes: D hidden width, E experts. "..." stands for (1, N) where rows are packed and for (B, T) where they are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from mtl_cli.sharing.adapter_layers import Adapter


def bottlenecks(count: int, hidden_size: int, width: int) -> nn.ModuleList:
    """Return experts W_2 gelu(W_1 h + b_1) + b_2, to be added to h, that begin as 0, so that nothing is added.

    They differ from the first step on, because their W_1 do.
    """
    return nn.ModuleList(Adapter(hidden_size, width, activation="gelu", dropout=0.0, up_std=0.0) for _ in range(count))


def copies(block: nn.Module, count: int, noise: float) -> nn.ModuleList:
    """Return copies of a block with a little noise.

    Args:
        block: the block.
        count: how many.
        noise: standard deviation of what is added to the numbers of each trainable matrix, in units of that of the
            matrix itself. Biases and scales stay as they are.
    """
    found = nn.ModuleList(deepcopy(block) for _ in range(count))
    if noise:
        with torch.no_grad():
            for parameter in found.parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    parameter.add_(torch.randn_like(parameter) * (noise * parameter.std()))
    return found


def mix(weights: torch.Tensor, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of the experts' outputs, (..., D) each, times their weights, (..., E), in the outputs' type.

    Added up in the weights' type, float32: in bfloat16 weights would not add up to 1.
    """
    total = weights[..., :1] * outputs[0]
    for place, output in enumerate(outputs[1:], start=1):
        total = total + weights[..., place : place + 1] * output
    return total.to(outputs[0].dtype)


def numbered(name: str, count: int) -> list[str]:
    """Return names of experts: name_0, name_1, ..."""
    return [f"{name}_{number}" for number in range(count)]
