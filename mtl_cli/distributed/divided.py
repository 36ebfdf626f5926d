"""Models of which each process has a part."""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import DTensor


def is_divided(model: nn.Module) -> bool:
    """Whether processes have parts of this model's parameters, so that all have to compute each pass together."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
