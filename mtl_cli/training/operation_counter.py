"""How many operations the matrix products of a computation take, counted as they come: on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def operation_counter() -> FlopCounterMode:
    """Return PyTorch's counter, to be used by `with`, with fused attention counted on every device.

    Fused attention counts as its products: two forward, and five backward, where plain attention has four, because it
    computes the scores again. What padding or a mask leaves without effect is counted with the rest.
    """
    # Its import adds the formulas of variable-length attention to PyTorch's, which a counter copies when it is made:
    # the first forward pass that imports it is too late.
    import torch.nn.attention.varlen  # noqa: F401

    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def _forward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward(of_output: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(of_output, query, key, value))


# What `scaled_dot_product_attention` calls on a CPU where there is no dropout: PyTorch's counter does not know it.
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
