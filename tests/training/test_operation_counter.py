"""Operations of attention, against counts by hand and against the same attention by plain products."""

import numpy as np
import pytest
import torch
from gradients.steps import batch, model_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from mtl_cli.commands.dry_run import operations_of
from mtl_cli.encoders import Layout, attention
from mtl_cli.sharing.pal import attend_within_rows
from mtl_cli.training.operation_counter import operation_counter

B, H, T, E = 3, 2, 16, 8
PRODUCT = 2 * B * H * T * T * E
"""Operations of one product of attention: (T, E) by (E, T), or (T, T) by (T, E), in each row and head."""


def counted(attend):
    """Operations forward, and back."""
    with operation_counter() as counter:
        result = attend()
        forward = counter.get_total_flops()
        result.sum().backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("mask", [None, torch.ones(B, 1, 1, T, dtype=torch.bool), torch.zeros(1, 1, T, T)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_has_two_products_forward_and_five_back(mask, dtype):
    if mask is not None and mask.is_floating_point():
        mask = mask.to(dtype)
    query, key, value = (torch.ones(B, H, T, E, dtype=dtype, requires_grad=True) for _ in range(3))
    # 2 * 2 * 3 * 2 * 16 * 16 * 8 = 49,152
    assert counted(lambda: scaled_dot_product_attention(query, key, value, attn_mask=mask)) == (49_152, 5 * PRODUCT)


@pytest.mark.parametrize("packed", [True, False])
def test_attention_of_tasks_counts_fused_as_by_plain_products_but_for_the_scores_computed_again(monkeypatch, packed):
    layout = Layout.from_lengths({"a": np.array([T] * B)}, packed=packed)
    shape = (1, B * T, H * E) if packed else (B, T, H * E)
    parts = [torch.ones(shape, requires_grad=True) for _ in range(3)]

    def attend():
        return attend_within_rows(*parts, layout, num_heads=H, causal=False, dropout=0.0)

    monkeypatch.setattr(attention, "fused_from", lambda: 1)
    fused = counted(attend)
    monkeypatch.setattr(attention, "fused_from", lambda: 10_000)
    with sdpa_kernel(SDPBackend.MATH):
        plain = counted(attend)
    assert plain == (2 * PRODUCT, 4 * PRODUCT)
    assert fused == (2 * PRODUCT, 5 * PRODUCT)


@pytest.mark.parametrize("packed", [True, False])
def test_a_step_with_fused_attention_has_one_product_a_block_more_than_by_plain_products(monkeypatch, packed):
    model = model_of("bert", packed=packed)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    step = {"mood": batch("mood", [T] * B)}
    monkeypatch.setattr(attention, "fused_from", lambda: 1)
    fused = operations_of(model, step)
    monkeypatch.setattr(attention, "fused_from", lambda: 10_000)
    with sdpa_kernel(SDPBackend.MATH):
        plain = operations_of(model, step)
    # 3 blocks, 4 heads of width 8
    assert fused - plain == 3 * 2 * B * 4 * T * T * 8


def test_variable_length_attention_counts_too():
    # Without a GPU by shapes alone, which know the longest row: 3 rows of 16 tokens.
    query, key, value = (torch.ones(B * T, H, E, device="meta", requires_grad=True) for _ in range(3))
    boundaries = torch.zeros(B + 1, dtype=torch.int32, device="meta")

    def attend():
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(query, key, value, boundaries, boundaries, T, T, scale=1.0, window_size=(-1, -1))

    assert counted(attend) == (2 * PRODUCT, 5 * PRODUCT)
