"""Packed attention against attention computed a row at a time."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mtl_cli.encoders import Layout, attention
from mtl_cli.encoders.attention import packed_attention, varlen_window

LENGTHS = [3, 11, 1, 7, 7, 20]


class Module(nn.Module):
    def __init__(self, is_causal=False):
        super().__init__()
        self.is_causal = is_causal


def reference(query, key, value, lengths, scaling, causal, window):
    """softmax(scaling Q Kᵀ + mask) V for each row by itself, by definition; (1, H, N, E) to (1, N, H, E)."""
    results = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        T = q.shape[2]
        i, j = torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij")
        sees = torch.ones(T, T, dtype=torch.bool)
        if causal:
            sees &= j <= i
        if window is not None:
            sees &= (i - j).abs() < window
        scores = (q @ k.transpose(-1, -2) * scaling).masked_fill(~sees, -torch.inf)
        results.append(scores.softmax(-1) @ v)
    return torch.cat(results, dim=2).transpose(1, 2)


def inputs(lengths, dtype=torch.float32, num_heads=2, width=4):
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_heads, sum(lengths), width)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def assert_same_gradients(found, expected, inputs):
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def layout(lengths, split=False):
    tasks = {"a": np.array(lengths[:2]), "b": np.array(lengths[2:])} if split else {"a": np.array(lengths)}
    return Layout.from_lengths(tasks, packed=True)


@pytest.mark.parametrize("fused_from", [1, 11, 10_000])  # all groups of rows, the two of long ones, none
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_and_its_gradients_are_those_of_single_rows(monkeypatch, fused_from, causal, window, scaling):
    monkeypatch.setattr(attention, "fused_from", lambda: fused_from)
    monkeypatch.setattr("mtl_cli.encoders.grouping._GROUP_COST", 500)
    q, k, v = inputs(LENGTHS)
    rows = layout(LENGTHS, split=True)
    attended, weights = packed_attention(
        Module(causal), q, k, v, None, scaling=scaling, sliding_window=window, layout=rows
    )
    plan = rows.attention_plan(torch.device("cpu"))
    assert len(plan.groups) > 1
    assert len(plan.indices.padding_slots) > 3
    assert weights is None
    expected = reference(q, k, v, LENGTHS, 0.5 if scaling is None else scaling, causal, window)
    torch.testing.assert_close(attended, expected, atol=1e-6, rtol=1e-5)
    assert_same_gradients(attended, expected, (q, k, v))


def test_each_group_of_rows_attends_in_the_way_for_its_length(monkeypatch):
    ways = {}
    by_products, fused = attention._attend_by_products, attention._attend_group

    def attend_by_products(query, key, value, plan, *rest):
        ways.update({group.length: "products" for group in plan.groups})
        return by_products(query, key, value, plan, *rest)

    def attend_group(query, key, value, group, *rest):
        ways[group.length] = "fused"
        return fused(query, key, value, group, *rest)

    monkeypatch.setattr(attention, "_attend_by_products", attend_by_products)
    monkeypatch.setattr(attention, "_attend_group", attend_group)
    monkeypatch.setattr(attention, "fused_from", lambda: 11)
    monkeypatch.setattr("mtl_cli.encoders.grouping._GROUP_COST", 500)
    packed_attention(Module(), *inputs(LENGTHS), None, layout=layout(LENGTHS))
    assert ways == {7: "products", 11: "fused", 20: "fused"}
    packed_attention(Module().train(), *inputs(LENGTHS), None, dropout=0.1, layout=layout(LENGTHS))
    assert set(ways.values()) == {"products"}


@pytest.mark.parametrize("window", [None, 2])
def test_derivatives_are_exact(window):
    q, k, v = inputs([2, 3, 1], dtype=torch.float64, num_heads=2, width=2)

    def attend(*qkv):
        return packed_attention(Module(), *qkv, None, sliding_window=window, layout=layout([2, 3, 1]))[0]

    assert torch.autograd.gradcheck(attend, (q, k, v))


@pytest.mark.parametrize("dropout", [0.1, 0.4])  # places of the drops, and a mask
def test_derivatives_under_dropout_are_those_of_the_same_mask(dropout):
    q, k, v = inputs(LENGTHS[:4], dtype=torch.float64)

    def attend(*qkv):
        torch.manual_seed(3)
        return packed_attention(Module().train(), *qkv, None, dropout=dropout, layout=layout(LENGTHS[:4]))[0]

    assert not torch.equal(attend(q, k, v), packed_attention(Module(), q, k, v, None, layout=layout(LENGTHS[:4]))[0])
    assert torch.autograd.gradcheck(attend, (q, k, v))


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    q, k, v = inputs([64] * 8)
    rows = layout([64] * 8)
    exact, _ = packed_attention(Module(), q, k, v, None, layout=rows)
    evaluated, _ = packed_attention(Module().eval(), q, k, v, None, dropout=0.5, layout=rows)
    assert torch.equal(evaluated, exact)
    torch.manual_seed(0)
    trained = torch.stack(
        [packed_attention(Module().train(), q, k, v, None, dropout=0.3, layout=rows)[0] for _ in range(300)]
    )
    assert (trained[0] - exact).abs().max() > 0.05
    # 4,096 means of 300 draws, each over its standard error: their root mean square is near 1 if nothing is biased.
    standardised = (trained.mean(0) - exact) / (trained.std(0) / 300**0.5)
    assert 0.9 < standardised.pow(2).mean().sqrt() < 1.1


def test_huge_scores_stay_finite():
    q, k, v = inputs(LENGTHS)
    attended, _ = packed_attention(Module(), q * 1e10, k, v, None, layout=layout(LENGTHS))
    assert attended.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(attended.sum(), (q, k, v)))


@pytest.mark.parametrize(("mask", "rows"), [(None, None), (torch.ones(1), layout(LENGTHS)), (None, layout([3]))])
def test_attention_refuses_to_guess(mask, rows):
    q, k, v = inputs(LENGTHS)
    with pytest.raises(RuntimeError):
        packed_attention(Module(), q, k, v, mask, layout=rows)


def varlen_reference(query, key, value, starts_q, starts_k, max_q, max_k, *, scale, window_size):
    """What torch documents of varlen_attn, by loops: (N, H, E) inputs; window (left, right), -1 unlimited."""
    assert torch.equal(starts_q, starts_k)
    assert starts_q.dtype == torch.int32
    assert max_q == max_k == (starts_q[1:] - starts_q[:-1]).max()
    left, right = window_size
    result = torch.empty_like(query)
    for begin, end in zip(starts_q[:-1].tolist(), starts_q[1:].tolist(), strict=True):
        for i in range(begin, end):
            first = begin if left < 0 else max(begin, i - left)
            last = end if right < 0 else min(end, i + right + 1)
            scores = torch.einsum("he,khe->hk", query[i], key[first:last]) * scale
            result[i] = torch.einsum("hk,khe->he", scores.softmax(-1), value[first:last])
    return result


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_the_variable_length_kernel_is_asked_for_the_same(monkeypatch, causal, window):
    q, k, v = inputs(LENGTHS)
    rows = layout(LENGTHS)
    in_groups, _ = packed_attention(Module(causal), q, k, v, None, sliding_window=window, layout=rows)
    monkeypatch.setattr(attention, "_varlen_serves", lambda *_: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_reference)
    by_kernel, _ = packed_attention(Module(causal), q, k, v, None, sliding_window=window, layout=rows)
    torch.testing.assert_close(by_kernel, in_groups, atol=1e-6, rtol=1e-5)
    assert_same_gradients(by_kernel, in_groups, (q, k, v))


def test_windows_of_the_variable_length_kernel():
    # torch: "(-1, -1) for full attention, (-1, 0) for causal attention, (W, 0) for causal attention with a window".
    assert varlen_window(causal=False, sliding_window=None) == (-1, -1)
    assert varlen_window(causal=True, sliding_window=None) == (-1, 0)
    assert varlen_window(causal=True, sliding_window=5) == (4, 0)
    assert varlen_window(causal=False, sliding_window=5) == (4, 4)


class OnGPU:
    """Queries on a GPU, as far as choosing a kernel goes."""

    device = torch.device("cuda")
    dtype = torch.bfloat16

    def __init__(self, width):
        self.shape = (5, 2, width)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU and a torch that have the variable-length kernel."""

    def varlen_attn(query, *, scale, window_size):
        raise NotImplementedError

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=varlen_attn))
    for cached in (attention._why_no_varlen, attention._warn_of_padding):
        cached.cache_clear()
    yield monkeypatch
    for cached in (attention._why_no_varlen, attention._warn_of_padding):
        cached.cache_clear()


def settings(dropout=0.0, setting="encoder.attention_dropout"):
    return attention._Settings(scale=1.0, dropout=dropout, dropout_setting=setting, causal=False, window=None)


def assert_warned_once(width, of, message):
    with pytest.warns(UserWarning, match=message):
        assert not attention._varlen_serves(OnGPU(width), of)
    assert not attention._varlen_serves(OnGPU(width), of)  # a second warning would be an error


@pytest.mark.usefixtures("gpu")
def test_the_variable_length_kernel_serves_without_a_word():
    assert attention._varlen_serves(OnGPU(64), settings())


@pytest.mark.usefixtures("gpu")
def test_heads_that_the_kernel_cannot_take_are_named_once():
    assert_warned_once(20, settings(), r"variable-length kernel: heads are 20 wide, .* multiples of 8 up to 256")
    assert_warned_once(264, settings(), "heads are 264 wide")


def test_a_gpu_that_is_too_old_is_named_once(gpu):
    gpu.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert_warned_once(64, settings(), r"capability 8\.0 or above, and this one has 7\.5")


def test_a_torch_without_the_kernel_is_named_once(gpu):
    gpu.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert_warned_once(64, settings(), "torch .* has none")


def test_an_early_version_of_the_kernel_is_named_once(gpu):
    gpu.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=lambda query: query))
    assert_warned_once(64, settings(), "an early version, takes no scale and no window")


@pytest.mark.usefixtures("gpu")
def test_dropout_is_named_by_the_key_that_sets_it_once_each():
    for key in ("encoder.attention_dropout", "sharing.dropout"):
        assert_warned_once(64, settings(0.1, key), rf"no dropout of attention weights \(`{key}=0` does without\)")


def test_a_float32_query_and_one_on_a_cpu_go_without_a_word():
    on_gpu = OnGPU(64)
    on_gpu.dtype = torch.float32
    assert not attention._varlen_serves(on_gpu, settings(0.1))
    assert not attention._varlen_serves(torch.zeros(5, 2, 64, dtype=torch.bfloat16), settings(0.1))
