import pytest
import torch

from mtl_cli.gradients import blocks
from mtl_cli.gradients.blocks import DenseBlock


@pytest.mark.parametrize("length", [1, 4095, 4096, 9000, 70_000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("at_once", [blocks._MULTIPLIED_AT_ONCE, 3 * 10_000])
def test_inner_products_of_gradients_of_any_length_are_those_of_float64(length, dtype, at_once, monkeypatch):
    monkeypatch.setattr(blocks, "_MULTIPLIED_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(length)
    values_KP, others_KP = torch.randn(2, 3, length, generator=generator, dtype=torch.float64).to(dtype).unbind()
    block, other = DenseBlock(values_KP.view(3, length, 1)), DenseBlock(others_KP.view(3, length, 1))
    tolerance = {"rtol": 1e-12, "atol": 1e-10} if dtype is torch.float64 else {"rtol": 1e-5, "atol": 1e-5 * length**0.5}
    for found, right_KP in ((block.inner_products(), values_KP), (block.inner_products(other), others_KP)):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, values_KP.double() @ right_KP.double().T, **tolerance)
