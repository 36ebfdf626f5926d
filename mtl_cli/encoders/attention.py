"""Attention over packed rows: a function registered with transformers under the name `mtl_packed`.

Shapes: H heads, N tokens of all rows, E width of a head, S slots of all attention groups, B rows and T tokens of a group.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mtl_cli.encoders.dropout import fast_dropout
from mtl_cli.encoders.layout import AttentionGroup, AttentionPlan, Layout

PACKED_ATTENTION = "mtl_packed"

# On a CPU plain products beat scaled_dot_product_attention on short rows and lose on long ones.
_FUSED_FROM_TOKENS = 256


def packed_attention(
    module: nn.Module,
    query_1HNE: torch.Tensor,
    key_1HNE: torch.Tensor,
    value_1HNE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each row of a packed step: softmax(scaling * Q Kᵀ) V, rows apart.

    The signature is that of transformers' `AttentionInterface`; `layout` reaches it as a keyword argument of the model's
    forward pass, which gradient checkpointing repeats with the forward pass.

    Args:
        module: the attention module; its `is_causal` says whether tokens see only what stands before them.
        query_1HNE: queries of all rows, one row after the other, (1, H, N, E).
        key_1HNE: keys, (1, H, N, E).
        value_1HNE: values, (1, H, N, E).
        attention_mask: must be None: the layout says who sees whom.
        scaling: factor of the scores; None means 1 / sqrt(E).
        dropout: probability of dropping an attention weight.
        sliding_window: a token sees tokens fewer than this many places away; None for all of its row.
        is_causal: overrides the module's.
        layout: where each row lies.

    Returns:
        The attended values, (1, N, H, E), and None in place of the weights, which are not kept.
    """
    if layout is None or attention_mask is not None:
        raise RuntimeError(f"'{PACKED_ATTENTION}' needs a layout and takes no mask; call the model through Encoder.")
    if query_1HNE.shape != key_1HNE.shape or query_1HNE.shape[2] != layout.num_tokens:
        raise RuntimeError(f"Packed attention over {layout.num_tokens} tokens got {tuple(query_1HNE.shape)} queries.")
    scale = query_1HNE.shape[-1] ** -0.5 if scaling is None else scaling
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    probability = dropout if module.training else 0.0
    if _varlen_serves(query_1HNE, probability):
        query_NHE, key_NHE, value_NHE = (x_1HNE[0].transpose(0, 1) for x_1HNE in (query_1HNE, key_1HNE, value_1HNE))
        attended_NHE = _attend_varlen(query_NHE, key_NHE, value_NHE, layout, scale, causal, sliding_window)
        return attended_NHE[None], None
    plan = layout.attention_plan(query_1HNE.device)
    query_SHE, key_SHE, value_SHE = (_to_slots(x_1HNE, plan) for x_1HNE in (query_1HNE, key_1HNE, value_1HNE))
    attended = [
        _attend_group(
            *(x_SHE[group.slots] for x_SHE in (query_SHE, key_SHE, value_SHE)),
            group,
            layout,
            scale,
            probability,
            causal,
            sliding_window,
        )
        for group in plan.groups
    ]
    attended_SHE = attended[0] if len(attended) == 1 else torch.cat(attended)
    return _Rearrange.maybe(attended_SHE, plan.slot_of_token_N, plan.token_of_slot_S)[None], None


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)


class _Rearrange(torch.autograd.Function):
    """Takes rows of a tensor by index; the backward pass takes them by the inverse index instead of adding them up.

    That is exact between tokens and slots because padding slots carry no gradient: their keys and values have weight 0,
    and what their queries attend to is dropped.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        return values.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Rearrange.apply(gradients[0], inverse, index), None, None

    @staticmethod
    def maybe(values: torch.Tensor, index: torch.Tensor | None, inverse: torch.Tensor | None) -> torch.Tensor:
        return values if index is None else _Rearrange.apply(values, index, inverse)


def _to_slots(x_1HNE: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
    return _Rearrange.maybe(x_1HNE[0].transpose(0, 1), plan.token_of_slot_S, plan.slot_of_token_N)


def _attend_group(
    query_SHE: torch.Tensor,
    key_SHE: torch.Tensor,
    value_SHE: torch.Tensor,
    group: AttentionGroup,
    layout: Layout,
    scale: float,
    dropout: float,
    causal: bool,
    sliding_window: int | None,
) -> torch.Tensor:
    """Attention of one group, (S, H, E) to (S, H, E) with S = B T."""
    B, T = group.num_rows, group.length
    _, H, E = query_SHE.shape
    query_BHTE, key_BHTE, value_BHTE = (x.view(B, T, H, E).transpose(1, 2) for x in (query_SHE, key_SHE, value_SHE))
    window = sliding_window if sliding_window is not None and sliding_window < T else None
    key = ("bias", group.slots.start, causal, window, query_SHE.dtype, query_SHE.device)
    bias_BQT = layout.kept(key, lambda: _bias(group, causal, window, query_SHE))
    if query_SHE.device.type != "cpu" or T >= _FUSED_FROM_TOKENS:
        mask_B1QT = None if bias_BQT is None else bias_BQT[:, None]
        attended_BHTE = F.scaled_dot_product_attention(
            query_BHTE, key_BHTE, value_BHTE, attn_mask=mask_B1QT, dropout_p=dropout, scale=scale
        )
        return attended_BHTE.transpose(1, 2).reshape(B * T, H, E)
    query_GTE, key_GTE, value_GTE = (x.reshape(B * H, T, E) for x in (query_BHTE, key_BHTE, value_BHTE))
    if bias_BQT is None:
        scores_GTT = torch.bmm(query_GTE * scale, key_GTE.transpose(1, 2))
    else:
        bias_GQT = layout.kept((*key, H), lambda: _repeat_for_heads(bias_BQT, B, H))
        scores_GTT = torch.baddbmm(bias_GQT, query_GTE, key_GTE.transpose(1, 2), alpha=scale)
    weights_GTT = F.softmax(scores_GTT, dim=-1).to(value_GTE.dtype)
    attended_GTE = torch.bmm(fast_dropout(weights_GTT, dropout, training=True), value_GTE)
    return attended_GTE.view(B, H, T, E).transpose(1, 2).reshape(B * T, H, E)


def _bias(group: AttentionGroup, causal: bool, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """What is added to the scores, (B or 1, T or 1, T): 0 where the query sees the key, else half the lowest number.

    Half, because a score added to the lowest number itself can overflow; and not minus infinity, because a padding query
    may see no key at all, and its softmax must stay finite.
    """
    sees = None
    if causal or window is not None:
        place_T = torch.arange(group.length, device=like.device)
        offset_TT = place_T[:, None] - place_T[None, :]
        sees = torch.ones_like(offset_TT, dtype=torch.bool)
        if causal:
            sees &= offset_TT >= 0
        if window is not None:
            sees &= offset_TT.abs() < window
        sees = sees[None]
    # Padding stands behind the row, where no real token of a causal model looks.
    if group.is_real_BT is not None and not causal:
        sees = group.is_real_BT[:, None, :] if sees is None else sees & group.is_real_BT[:, None, :]
    if sees is None:
        return None
    return torch.zeros(sees.shape, dtype=like.dtype, device=like.device).masked_fill_(
        ~sees, torch.finfo(like.dtype).min / 2
    )


def _repeat_for_heads(bias_BQT: torch.Tensor, num_rows: int, num_heads: int) -> torch.Tensor:
    if bias_BQT.shape[0] == 1:
        return bias_BQT
    return bias_BQT.repeat_interleave(num_heads, dim=0)


def _attend_varlen(
    query_NHE: torch.Tensor,
    key_NHE: torch.Tensor,
    value_NHE: torch.Tensor,
    layout: Layout,
    scale: float,
    causal: bool,
    sliding_window: int | None,
) -> torch.Tensor:
    """PyTorch's variable-length FlashAttention: no padding at all, (N, H, E) to (N, H, E)."""
    from torch.nn.attention.varlen import varlen_attn

    boundaries = layout.boundaries(query_NHE.device)
    return varlen_attn(
        query_NHE,
        key_NHE,
        value_NHE,
        boundaries,
        boundaries,
        layout.max_length,
        layout.max_length,
        scale=scale,
        window_size=varlen_window(causal, sliding_window),
    )


def varlen_window(causal: bool, sliding_window: int | None) -> tuple[int, int]:
    """How many tokens to the left and to the right a token sees besides itself, -1 for all."""
    reach = -1 if sliding_window is None else sliding_window - 1
    return (reach, 0 if causal else reach)


def _varlen_serves(query_1HNE: torch.Tensor, dropout: float) -> bool:
    """Whether the variable-length kernel can compute this: half precision on a GPU, without dropout."""
    if query_1HNE.device.type != "cuda" or query_1HNE.dtype not in (torch.float16, torch.bfloat16):
        return False
    if query_1HNE.shape[-1] % 8 != 0 or query_1HNE.shape[-1] > 256 or not _varlen_exists():
        return False
    if dropout > 0.0:
        _warn_of_dropout()
        return False
    return True


@cache
def _varlen_exists() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability() >= (8, 0)


@cache
def _warn_of_dropout() -> None:
    warnings.warn(
        "Attention dropout keeps training off the GPU's variable-length attention kernel, which has none; rows are padded "
        "in groups of similar length instead. `encoder.dropout=0` avoids that.",
        stacklevel=2,
    )
