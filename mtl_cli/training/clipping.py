"""Clipping of the gradient's norm that costs no pass over the gradients besides that of the norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mtl_cli.training.lazy_adamw import LazyAdamW


def clip_gradients(optimizer: LazyAdamW, parameters: Sequence[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Let the optimizer divide the gradients by what brings their norm down to `max_norm`; return the norm.

    As `torch.nn.utils.clip_grad_norm_` (Pascanu et al., ICML 2013), but `.grad` stays: the optimizer divides as it
    reads. Nothing waits for a GPU.

    Args:
        optimizer: whose next step is to be clipped.
        parameters: all that it trains; their gradients may be sparse.
        max_norm: None: the norm is computed alone.
    """
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    gradients = [p.grad.values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    optimizer.grad_scale = None if max_norm is None else ((norm + 1e-6) / max_norm).clamp(min=1.0)
    return norm
