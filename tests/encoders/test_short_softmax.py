"""Softmax of short rows against PyTorch's own."""

import pytest
import torch

from mtl_cli.encoders.short_softmax import softmax, softmax_gradient

LENGTHS = [1, 2, 7, 15, 16, 17, 31, 32, 33, 36, 40, 63, 64, 100]
# Of the largest value: float32's and bfloat16's rounding.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-8}


def scores(length, dtype):
    generator = torch.Generator().manual_seed(length)
    found = 3 * torch.randn(6, length, length, generator=generator, dtype=torch.float64)
    found[0, :, length // 2 + 1 :] = torch.finfo(torch.bfloat16).min / 2  # as padding has it
    found[1] *= 40.0
    return found.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", LENGTHS)
def test_weights_are_those_of_torch(length, dtype):
    found = softmax(scores(length, dtype))
    assert found.dtype == dtype
    expected = torch.softmax(scores(length, dtype).double(), dim=-1)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    assert (found[0, :, length // 2 + 1 :] == 0).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_gradient_is_that_of_torch(length, dtype):
    weights = softmax(scores(length, dtype))
    gradient = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = softmax_gradient(gradient, weights)
    assert found.dtype == dtype
    wide, given = weights.double(), gradient.double()
    expected = wide * (given - (given * wide).sum(-1, keepdim=True))
    torch.testing.assert_close(found.double(), expected, atol=4 * TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("length", [5, 20])
def test_nothing_that_was_given_is_changed(length):
    given = scores(length, torch.float32)
    kept = given.clone()
    weights = softmax(given)
    gradient, weights_kept = torch.ones_like(weights), weights.clone()
    softmax_gradient(gradient, weights)
    assert torch.equal(given, kept)
    assert torch.equal(weights, weights_kept)
    assert torch.equal(gradient, torch.ones_like(gradient))
