"""Under autocast, one cast of the hidden states for queries, keys and values in the place of one for each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtl_cli.encoders.sites import find_sites, known_sites


def share_casts(family: str, block: nn.Module) -> None:
    """Make a block's attention cast what it gets before its layers for queries, keys and values each do so.

    They then keep one copy for the backward pass, and one gradient is cast back rather than three. Does nothing for
    families with one layer for all three, or whose blocks are not known.
    """
    if not {"query", "key", "value"} <= set(known_sites(family)):
        return
    layers = {site.path for name in ("query", "key", "value") for site in find_sites(family, block, name)}
    modules = {path.rpartition(".")[0] for path in layers}
    if len(layers) == 3 and len(modules) == 1:
        block.get_submodule(modules.pop()).register_forward_pre_hook(_cast)


def _cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    hidden = inputs[0] if inputs else None
    if not isinstance(hidden, torch.Tensor) or not torch.is_autocast_enabled(hidden.device.type):
        return None
    return (hidden.to(torch.get_autocast_dtype(hidden.device.type)), *inputs[1:])
