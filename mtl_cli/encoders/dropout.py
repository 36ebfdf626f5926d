"""Dropout that draws where to drop rather than whether: on a CPU a fraction of the cost of PyTorch's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout

# Beyond, the places of the drops take longer to draw and to fill than a mask of all values.
_PLACES_UP_TO = 0.15
# Within, distances between drops and masks of 16-bit draws are as good as exact.
_SMALLEST, _LARGEST = 1e-4, 1 - 1e-4
_DRAWS_PER_INTEGER = 4  # 16-bit draws in a 64-bit integer


def fast_dropout(values: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Zero each value with probability p and scale the others by 1 / (1 - p) (Srivastava et al., JMLR 2014).

    On a CPU this draws far fewer random numbers than PyTorch, and keeps less for the backward pass: see `draw_drops`.
    The draws come from PyTorch's default generator, so that they can be seeded, saved and restored. Elsewhere, and for
    extreme p, this is PyTorch's dropout.
    """
    if not training or p == 0.0:
        return values
    if not is_fast(values, p):
        return dropout(values, p, training)
    dropped: torch.Tensor = _Drop.apply(values, *draw_drops(values, p))
    return dropped


def is_fast(values: torch.Tensor, p: float) -> bool:
    """Whether `draw_drops` serves for these values."""
    return values.device.type == "cpu" and _SMALLEST <= p <= _LARGEST


def draw_drops(values: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    """Draw which values, on a CPU, to drop, each with probability p by itself, and say how to scale the others.

    Where drops are few, their places are drawn: the distance from one to the next has a geometric distribution,
    1 + floor(log(u) / log(1 - p)) with u uniform on (0, 1) (Devroye, Non-Uniform Random Variate Generation, 1986,
    X.2). Else 16 random bits decide on each value, for which p is rounded to a multiple of 2^-16, and the scale with
    it.

    Returns:
        What `drop` takes besides the values: the places of the drops in the flattened values, int64, in order; or a
        factor for each value, 0 or the scale. And the scale.
    """
    num_values = values.numel()
    if p <= _PLACES_UP_TO:
        return _draw_places(num_values, p), 1 / (1 - p)
    threshold = round(p * 65_536)
    draws = _random_bits(-(-num_values // _DRAWS_PER_INTEGER)).view(torch.int16)[:num_values]
    scale = 65_536 / (65_536 - threshold)
    return (draws >= threshold - 32_768).view(values.shape).to(values.dtype).mul_(scale), scale


def _draw_places(num_values: int, p: float) -> torch.Tensor:
    parts: list[torch.Tensor] = []
    last = -1
    while last < num_values:
        expected = (num_values - 1 - last) * p
        num_draws = int(expected + 4 * math.sqrt(expected)) + 8  # rarely too few: then it goes round again
        integers = _random_bits(-(-num_draws // 2)).view(torch.int32).bitwise_and_(2**31 - 1)
        logs = integers.to(torch.float32).add_(0.5).mul_(2.0**-31).log_()
        distances = logs.mul_(1 / math.log1p(-p)).to(torch.int64).add_(1)
        parts.append(distances.cumsum_(0).add_(last))
        last = int(parts[-1][-1])
    places = parts[0] if len(parts) == 1 else torch.cat(parts)
    return places[: int(torch.searchsorted(places, num_values))]


def _random_bits(num_integers: int) -> torch.Tensor:
    return torch.empty(num_integers, dtype=torch.int64).random_(-(2**63), None)


def drop(values: torch.Tensor, drops: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the values times `scale`, zeros where `draw_drops` says so."""
    if drops.dtype != torch.int64:
        return values * drops
    scaled = torch.empty(values.shape, dtype=values.dtype)
    torch.mul(values, scale, out=scaled)
    scaled.view(-1).index_fill_(0, drops, 0.0)
    return scaled


class _Drop(torch.autograd.Function):
    """`drop`, of whose gradient the same is dropped."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, drops: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(drops)
        ctx.scale = scale
        return drop(values, drops, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _Drop.apply(gradients[0], *ctx.saved_tensors, ctx.scale), None, None


class FastDropout(nn.Dropout):
    """`fast_dropout` as a module."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Apply dropout to `values` of any shape."""
        return fast_dropout(values, self.p, self.training)


def use_fast_dropout(model: nn.Module) -> None:
    """Replace each `nn.Dropout` inside `model`, in place."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p))
