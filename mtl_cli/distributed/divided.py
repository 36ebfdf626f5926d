"""Models of which each process has a part."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule


def is_divided(model: nn.Module) -> bool:
    """Whether processes have parts of this model's parameters, so that all have to compute each pass together.

    Modules are asked, not parameters: those of the outermost module are whole between a pass without gradients and the
    next one with.
    """
    return any(isinstance(module, FSDPModule) for module in model.modules())
