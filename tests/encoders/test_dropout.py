"""Dropout from integer random bits."""

import pytest
import torch
from torch import nn

from mtl_cli.encoders.dropout import FastDropout, fast_dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_dropped_with_probability_p_and_scaled(p, dtype):
    torch.manual_seed(0)
    values = fast_dropout(torch.ones(1001, 999, dtype=dtype), p, training=True)
    kept = values != 0
    # A million draws: the deviation of the share is at most 0.0005.
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.0025)
    assert values.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=0.01 if dtype == torch.bfloat16 else 1e-4)
    # Neighbours, which share a random integer, are independent: both kept in (1 - p)² of the cases.
    both = (kept[:, 1:] & kept[:, :-1]).float().mean().item()
    assert both == pytest.approx((1 - p) ** 2, abs=0.004)


def test_the_gradient_has_the_mask_of_the_forward_pass():
    values = torch.rand(50, 7, requires_grad=True)
    dropped = fast_dropout(values, 0.4, training=True)
    dropped.sum().backward()
    assert torch.equal(values.grad * values, dropped)


def test_the_default_generator_decides():
    values = torch.ones(100)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fast_dropout(values, 0.5, training=True)
    assert not torch.equal(fast_dropout(values, 0.5, training=True), first)
    torch.set_rng_state(state)
    assert torch.equal(fast_dropout(values, 0.5, training=True), first)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_done_or_drawn_where_nothing_is_dropped(p, training):
    values, state = torch.ones(10), torch.get_rng_state()
    assert fast_dropout(values, p, training) is values
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [1e-7, 1.0])
def test_extreme_probabilities_are_pytorch_s(p):
    assert fast_dropout(torch.ones(10), p, training=True).tolist() == pytest.approx([1.0 - round(p)] * 10)


def test_modules_are_replaced_in_place():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3)), nn.Dropout(0.2))
    use_fast_dropout(model)
    assert [type(m) for m in (model[1][0], model[2])] == [FastDropout, FastDropout]
    assert (model[1][0].p, model[2].p) == (0.3, 0.2)
    assert torch.equal(model.eval()[2](torch.ones(5)), torch.ones(5))
