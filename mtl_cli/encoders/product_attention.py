"""Attention by plain matrix products on a CPU, forward and back in one function of autograd.

What a chain of PyTorch's operations would do besides (zeros for what each slice lacks, a copy for each view that is no
longer contiguous, a scaled copy of the queries) is left out: each tensor is laid out once on its way in and once on its
way out.

Shapes: N tokens of all rows, H heads, E width of a head, S slots of all groups, P = S H; in a group B rows of T tokens,
G = B H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mtl_cli.encoders.dropout import draw_drops, drop, is_fast
from mtl_cli.encoders.layout import AttentionPlan
from mtl_cli.encoders.short_softmax import softmax, softmax_gradient


@dataclass(frozen=True)
class HeadMajorPlan:
    """Where the H parts of each token lie so that the rows of a group and a head are one matrix.

    Attributes:
        shapes: G and T of each group, one after the other in the S H places.
        source: which of the N H parts of tokens each place holds, int64 (S H,); in padding, the row's last token's.
        target: the place of each part of a token, int64 (N H,).
        padding: the places that are padding, int64; None without any.
    """

    shapes: tuple[tuple[int, int], ...]
    source: torch.Tensor
    target: torch.Tensor
    padding: torch.Tensor | None

    @classmethod
    def of(cls, plan: AttentionPlan, num_tokens: int, num_heads: int) -> HeadMajorPlan:
        """Lay out the heads of a plan's groups."""
        H = num_heads
        tokens_S = torch.arange(num_tokens) if plan.indices is None else plan.indices.token_of_slot_S
        heads_H11 = torch.arange(H)[:, None, None]
        sources, places = [], []
        for group in plan.groups:
            tokens_B1T = tokens_S[group.slots].view(group.num_rows, 1, group.length)
            sources.append((tokens_B1T * H + heads_H11.view(1, H, 1)).flatten())
            # The place of each slot and head, in the slots' order.
            first = group.slots.start * H
            shape = (group.num_rows, H, group.length)
            places.append((first + torch.arange(shape[0] * H * shape[2])).view(shape).transpose(1, 2).reshape(-1, H))
        place_SH = torch.cat(places)
        shapes = tuple((group.num_rows * H, group.length) for group in plan.groups)
        if plan.indices is None:
            return cls(shapes, torch.cat(sources), place_SH.flatten(), None)
        padding = place_SH[plan.indices.padding_slots].flatten()
        target = place_SH[plan.indices.slot_of_token_N].flatten()
        return cls(shapes, torch.cat(sources), target, padding if len(padding) else None)

    def groups(self, *tensors: torch.Tensor) -> list[list[torch.Tensor]]:
        """Cut tensors (S H, E) into the groups' (G, T, E)."""
        found, start = [], 0
        for G, T in self.shapes:
            found.append([tensor[start : start + G * T].view(G, T, -1) for tensor in tensors])
            start += G * T
        return found


class ProductAttention(torch.autograd.Function):
    """softmax(scale Q Kᵀ + bias) V in each row and head, the weights under dropout; (N, H, E) to (N, H, E)."""

    @staticmethod
    def forward(
        ctx: Any,
        query_NHE: torch.Tensor,
        key_NHE: torch.Tensor,
        value_NHE: torch.Tensor,
        plan: HeadMajorPlan,
        biases: Sequence[torch.Tensor | None],
        scale: float,
        dropout: float,
    ) -> torch.Tensor:
        """Attend; `biases` of each group are added to the scores, (G or 1, T or 1, T)."""
        laid_out = [_laid_out(x_NHE, plan) for x_NHE in (query_NHE, key_NHE, value_NHE)]
        attended = torch.empty_like(laid_out[2])
        kept: list[torch.Tensor] = []
        scales = []
        for (query, key, value, out), bias in zip(plan.groups(*laid_out, attended), biases, strict=True):
            weights_GTT = softmax(_products(query, key.transpose(1, 2), scale, bias))
            kept.append(weights_GTT)
            if dropout > 0.0:
                drops, factor = _draw(weights_GTT, dropout)
                kept.append(drops)
                scales.append(factor)
                weights_GTT = drop(weights_GTT, drops, factor)
            torch.bmm(weights_GTT, value, out=out)
        ctx.save_for_backward(*laid_out, *kept)
        ctx.plan, ctx.scale, ctx.scales = plan, scale, scales
        return attended.index_select(0, plan.target).view(query_NHE.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients by query, key and value."""
        plan: HeadMajorPlan = ctx.plan
        query_PE, key_PE, value_PE, *tensors = ctx.saved_tensors
        kept = iter(tensors)
        of_attended = _laid_out(gradients[0], plan)
        if plan.padding is not None:  # padding attends too, but nobody sees it
            of_attended.index_fill_(0, plan.padding, 0.0)
        found = [torch.empty_like(x) for x in (query_PE, key_PE, value_PE)]
        for place, (query, key, value, out, of_query, of_key, of_value) in enumerate(
            plan.groups(query_PE, key_PE, value_PE, of_attended, *found)
        ):
            weights_GTT = next(kept)
            of_weights_GTT = torch.bmm(out, value.transpose(1, 2))
            dropped_GTT = weights_GTT
            if ctx.scales:
                drops = next(kept)
                dropped_GTT = drop(weights_GTT, drops, ctx.scales[place])
                of_weights_GTT = drop(of_weights_GTT, drops, ctx.scales[place])
            torch.bmm(dropped_GTT.transpose(1, 2), out, out=of_value)
            of_scores_GTT = softmax_gradient(of_weights_GTT, weights_GTT)
            torch.baddbmm(of_query, of_scores_GTT, key, beta=0, alpha=ctx.scale, out=of_query)
            torch.baddbmm(of_key, of_scores_GTT.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=of_key)
        shape = gradients[0].shape
        of_query_NHE, of_key_NHE, of_value_NHE = (x.index_select(0, plan.target).view(shape) for x in found)
        return of_query_NHE, of_key_NHE, of_value_NHE, None, None, None, None


def _laid_out(x_NHE: torch.Tensor, plan: HeadMajorPlan) -> torch.Tensor:
    return x_NHE.reshape(-1, x_NHE.shape[-1]).index_select(0, plan.source)


def _products(query: torch.Tensor, keys: torch.Tensor, scale: float, bias: torch.Tensor | None) -> torch.Tensor:
    """The scores, (G, T, T)."""
    if bias is not None:
        return torch.baddbmm(bias, query, keys, alpha=scale)
    scores_GTT = query.new_empty(query.shape[0], query.shape[1], keys.shape[2])
    return torch.baddbmm(scores_GTT, query, keys, beta=0, alpha=scale, out=scores_GTT)


def _draw(weights: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    if is_fast(weights, p):
        return draw_drops(weights, p)
    return torch.nn.functional.dropout(torch.ones_like(weights), p), 1 / (1 - p)
