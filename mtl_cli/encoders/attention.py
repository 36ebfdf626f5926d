"""Attention over packed rows: a function registered with transformers under the name `mtl_packed`.

Shapes: N tokens of all rows, H heads, E width of a head, S slots of all attention groups; in a group B rows of T tokens
(Q of them as queries), G = B H.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mtl_cli.encoders.attention_choice import fused_from
from mtl_cli.encoders.layout import AttentionGroup, AttentionPlan, Layout
from mtl_cli.encoders.product_attention import HeadMajorPlan, ProductAttention

PACKED_ATTENTION = "mtl_packed"


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a block's attention computes besides the shapes: see `packed_attention`."""

    scale: float
    dropout: float
    dropout_setting: str
    causal: bool
    window: int | None


def packed_attention(
    module: nn.Module,
    query_1HNE: torch.Tensor,
    key_1HNE: torch.Tensor,
    value_1HNE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    dropout_setting: str = "encoder.attention_dropout",
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each row of a packed step: softmax(scaling Q Kᵀ) V, rows apart.

    The signature is that of transformers' `AttentionInterface`. `layout` reaches it as a keyword argument of the
    model's forward pass, which gradient checkpointing hands over again when it repeats a block.

    Args:
        module: the attention module; its `is_causal` says whether tokens see only what stands before them.
        query_1HNE: queries of all rows, one row after the other, (1, H, N, E).
        key_1HNE: keys, (1, H, N, E).
        value_1HNE: values, (1, H, N, E).
        attention_mask: must be None: the layout says who sees whom.
        scaling: factor of the scores; None means 1 / sqrt(E).
        dropout: probability of dropping an attention weight.
        dropout_setting: the key that sets it, for a warning of what it costs.
        sliding_window: a token sees tokens fewer than this many places away; None for all of its row.
        is_causal: overrides the module's.
        layout: where each row lies.

    Returns:
        The attended values, (1, N, H, E), and None in place of the weights, which are not kept.
    """
    if layout is None or attention_mask is not None:
        raise RuntimeError(f"'{PACKED_ATTENTION}' needs a layout and takes no mask; call the model through Encoder.")
    if query_1HNE.shape != key_1HNE.shape or query_1HNE.shape[2] != layout.num_tokens:
        raise RuntimeError(f"Packed attention over {layout.num_tokens} tokens got queries {tuple(query_1HNE.shape)}.")
    settings = _Settings(
        scale=query_1HNE.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout if module.training else 0.0,
        dropout_setting=dropout_setting,
        causal=bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal,
        window=sliding_window,
    )
    # squeeze: the gradient of an index would be written into zeros.
    query_NHE, key_NHE, value_NHE = (x.squeeze(0).transpose(0, 1) for x in (query_1HNE, key_1HNE, value_1HNE))
    if _varlen_serves(query_NHE, settings):
        return _attend_varlen(query_NHE, key_NHE, value_NHE, layout, settings)[None], None
    return _attend_in_groups(query_NHE, key_NHE, value_NHE, layout, settings)[None], None


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)


class _ToSlots(torch.autograd.Function):
    """Copies tokens to the slots of attention groups, with zeros for padding; the gradient comes back by index too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x_NHE: torch.Tensor, token_of_slot_S: torch.Tensor, padding_slots: torch.Tensor, slot_of_token_N: torch.Tensor
    ) -> torch.Tensor:
        return x_NHE.index_select(0, token_of_slot_S).index_fill_(0, padding_slots, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _FromSlots.apply(gradients[0], *ctx.saved_tensors), None, None, None


class _FromSlots(torch.autograd.Function):
    """Copies slots back to tokens: the transpose of `_ToSlots`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x_SHE: torch.Tensor, token_of_slot_S: torch.Tensor, padding_slots: torch.Tensor, slot_of_token_N: torch.Tensor
    ) -> torch.Tensor:
        return x_SHE.index_select(0, slot_of_token_N)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _ToSlots.apply(gradients[0], *ctx.saved_tensors), None, None, None


def _attend_in_groups(
    query_NHE: torch.Tensor, key_NHE: torch.Tensor, value_NHE: torch.Tensor, layout: Layout, settings: _Settings
) -> torch.Tensor:
    """Attention of all rows, (N, H, E), in groups of rows of similar length, the shortest first.

    On a CPU groups of short rows attend by plain products, those of long ones by PyTorch's fused attention.
    """
    plan = layout.attention_plan(query_NHE.device)
    num_by_products = 0
    if query_NHE.device.type == "cpu":
        # With dropout scaled_dot_product_attention computes by plain products too, on a CPU.
        num_by_products = sum(settings.dropout > 0.0 or group.length < fused_from() for group in plan.groups)
    if num_by_products == len(plan.groups):
        return _attend_by_products(query_NHE, key_NHE, value_NHE, plan, layout, settings)
    query_SHE, key_SHE, value_SHE = (_to_slots(x_NHE, plan) for x_NHE in (query_NHE, key_NHE, value_NHE))
    attended = [
        _attend_group(query_SHE[group.slots], key_SHE[group.slots], value_SHE[group.slots], group, layout, settings)
        for group in plan.groups[num_by_products:]
    ]
    if num_by_products > 0:  # their slots stand for tokens; what padding attends to is left out as of the others
        short = AttentionPlan(plan.groups[:num_by_products], None)
        end = short.groups[-1].slots.stop
        of_short = _attend_by_products(query_SHE[:end], key_SHE[:end], value_SHE[:end], short, layout, settings)
        attended.insert(0, of_short)
    attended_SHE = attended[0] if len(attended) == 1 else torch.cat(attended)
    return attended_SHE if plan.indices is None else _FromSlots.apply(attended_SHE, *plan.indices)


def _to_slots(x_NHE: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
    return x_NHE if plan.indices is None else _ToSlots.apply(x_NHE, *plan.indices)


def _attend_by_products(
    query_NHE: torch.Tensor,
    key_NHE: torch.Tensor,
    value_NHE: torch.Tensor,
    plan: AttentionPlan,
    layout: Layout,
    settings: _Settings,
) -> torch.Tensor:
    """Attention of the rows of a plan, (N, H, E), by plain matrix products on a CPU; N are the plan's tokens."""
    N, H, _ = query_NHE.shape
    if torch.is_autocast_enabled("cpu"):  # which would cast each product's factors by itself
        dtype = torch.get_autocast_dtype("cpu")
        query_NHE, key_NHE, value_NHE = (x_NHE.to(dtype) for x_NHE in (query_NHE, key_NHE, value_NHE))
    of_heads = layout.kept(("head_major", H, len(plan.groups)), lambda: HeadMajorPlan.of(plan, N, H))
    biases = [_repeat_for_heads(group, layout, settings, query_NHE) for group in plan.groups]
    with torch.autocast("cpu", enabled=False):
        attended_NHE: torch.Tensor = ProductAttention.apply(
            query_NHE, key_NHE, value_NHE, of_heads, biases, settings.scale, settings.dropout
        )
    return attended_NHE


def _attend_group(
    query_SHE: torch.Tensor,
    key_SHE: torch.Tensor,
    value_SHE: torch.Tensor,
    group: AttentionGroup,
    layout: Layout,
    settings: _Settings,
) -> torch.Tensor:
    """Attention of one group, (S, H, E) with S = B T."""
    B, T = group.num_rows, group.length
    _, H, E = query_SHE.shape
    query_BHTE, key_BHTE, value_BHTE = (x.view(B, T, H, E).transpose(1, 2) for x in (query_SHE, key_SHE, value_SHE))
    bias_BQT = _kept_bias(group, layout, settings, query_SHE)
    mask_B1QT = None if bias_BQT is None else bias_BQT[:, None]
    attended_BHTE = scaled_dot_product_attention(
        query_BHTE, key_BHTE, value_BHTE, attn_mask=mask_B1QT, dropout_p=settings.dropout, scale=settings.scale
    )
    return attended_BHTE.transpose(1, 2).reshape(B * T, H, E)


def _kept_bias(group: AttentionGroup, layout: Layout, settings: _Settings, like: torch.Tensor) -> torch.Tensor | None:
    """What is added to a group's scores, the same for all blocks with these settings."""
    window = settings.window if settings.window is not None and settings.window < group.length else None
    key = ("bias", group.slots.start, settings.causal, window, like.dtype, like.device)
    return layout.kept(key, lambda: _bias(group, settings.causal, window, like))


def _repeat_for_heads(
    group: AttentionGroup, layout: Layout, settings: _Settings, query_NHE: torch.Tensor
) -> torch.Tensor | None:
    """The bias of each row and head, (G or 1, T or 1, T)."""
    bias_BQT = _kept_bias(group, layout, settings, query_NHE)
    if bias_BQT is None or bias_BQT.shape[0] == 1:
        return bias_BQT
    H = query_NHE.shape[1]
    key = ("bias_of_heads", H, group.slots.start, settings.causal, settings.window, query_NHE.dtype)
    return layout.kept(key, lambda: bias_BQT.repeat_interleave(H, dim=0))


def _bias(group: AttentionGroup, causal: bool, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """What is added to the scores, (B or 1, T or 1, T): 0 where the query sees the key, else half the lowest number.

    Half, because a score added to the lowest number itself can overflow; and not minus infinity, because a padding
    query may see no key at all, and its softmax must stay finite.
    """
    sees = None
    if causal or window is not None:
        place_T = torch.arange(group.length, device=like.device)
        offset_1TT = (place_T[:, None] - place_T[None, :])[None]
        sees = torch.ones_like(offset_1TT, dtype=torch.bool)
        if causal:
            sees &= offset_1TT >= 0
        if window is not None:
            sees &= offset_1TT.abs() < window
    # Padding stands behind the row, where no real token of a causal model looks.
    if group.is_real_BT is not None and not causal:
        sees = group.is_real_BT[:, None, :] if sees is None else sees & group.is_real_BT[:, None, :]
    if sees is None:
        return None
    bias = torch.zeros(sees.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(~sees, torch.finfo(like.dtype).min / 2)


def _attend_varlen(
    query_NHE: torch.Tensor, key_NHE: torch.Tensor, value_NHE: torch.Tensor, layout: Layout, settings: _Settings
) -> torch.Tensor:
    """PyTorch's variable-length FlashAttention, (N, H, E): no padding at all."""
    from torch.nn.attention.varlen import varlen_attn

    boundaries = layout.boundaries(query_NHE.device)
    attended_NHE = varlen_attn(
        query_NHE,
        key_NHE,
        value_NHE,
        boundaries,
        boundaries,
        layout.max_length,
        layout.max_length,
        scale=settings.scale,
        window_size=varlen_window(settings.causal, settings.window),
    )
    assert isinstance(attended_NHE, torch.Tensor)
    return attended_NHE


def varlen_window(causal: bool, sliding_window: int | None) -> tuple[int, int]:
    """How many tokens to the left and to the right a token sees besides itself, -1 for all."""
    reach = -1 if sliding_window is None else sliding_window - 1
    return (reach, 0 if causal else reach)


def _varlen_serves(query_NHE: torch.Tensor, settings: _Settings) -> bool:
    """Whether the variable-length kernel can compute this: half precision on a GPU, without dropout.

    Where that is what is asked for and the kernel cannot, a warning says why.
    """
    if query_NHE.device.type != "cuda" or query_NHE.dtype not in (torch.float16, torch.bfloat16):
        return False
    reason = _why_no_varlen() or why_not_of_width(query_NHE.shape[-1])
    if reason is None and settings.dropout > 0.0:
        reason = f"it has no dropout of attention weights (`{settings.dropout_setting}=0` does without)"
    if reason is not None:
        _warn_of_padding(reason)
    return reason is None


def why_not_of_width(head_width: int) -> str | None:
    """Why the variable-length kernel cannot take heads of this width, or None where it can."""
    if head_width % 8 == 0 and head_width <= 256:
        return None
    return f"heads are {head_width} wide, and it takes multiples of 8 up to 256"


@cache
def _why_no_varlen() -> str | None:
    """Why there is no variable-length kernel on this machine, or None where there is one."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has none"
    if not {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters):
        return f"that of torch {torch.__version__}, an early version, takes no scale and no window"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"it needs a GPU of compute capability 8.0 or above, and this one has {major}.{minor}"
    return None


@cache
def _warn_of_padding(reason: str) -> None:
    """Warn once of each reason."""
    warnings.warn(
        f"Attention does without the GPU's variable-length kernel: {reason}. Rows are padded in groups of similar "
        "length instead.",
        stacklevel=2,
    )
