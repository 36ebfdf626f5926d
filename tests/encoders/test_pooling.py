"""Pooling of flat rows against arithmetic on each row."""

import numpy as np
import pytest
import torch

from mtl_cli.encoders import Layout, pool

LENGTHS = [4, 1, 6]
BY_ROW = {
    "first": lambda row: row[0],
    "last": lambda row: row[-1],
    "mean": lambda row: row.sum(0) / len(row),
    "max": lambda row: row.max(0).values,
}


@pytest.mark.parametrize("pooling", BY_ROW)
def test_each_row_is_pooled_alone(pooling):
    hidden_ND = torch.randn(11, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layout = Layout.from_lengths({"a": np.array(LENGTHS[:1]), "b": np.array(LENGTHS[1:])}, packed=True)
    pooled_BD = pool(hidden_ND, layout, pooling)
    expected_BD = torch.stack([BY_ROW[pooling](row) for row in hidden_ND.split(LENGTHS)])
    torch.testing.assert_close(pooled_BD, expected_BD, atol=1e-6, rtol=1e-6)
    weights_BD = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad((pooled_BD * weights_BD).sum(), hidden_ND)
    (theirs,) = torch.autograd.grad((expected_BD * weights_BD).sum(), hidden_ND)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_half_precision_is_pooled_in_float32(pooling):
    # 256 + 1 is 256 in bfloat16: a running sum of ones in it would stop there.
    hidden_ND = torch.ones(600, 1, dtype=torch.bfloat16)
    pooled_BD = pool(hidden_ND, Layout.from_lengths({"a": np.array([600])}, packed=True), pooling)
    assert pooled_BD.dtype == torch.float32
    assert pooled_BD.item() == 1.0
