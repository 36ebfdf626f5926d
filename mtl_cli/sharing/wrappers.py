"""What strategies put in the place of a module of the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtl_cli.encoders import Layout
from mtl_cli.encoders.current_layout import current_layout_or_none


class Wrapper(nn.Module):
    """Stands in the place of a module, which it holds as `wrapped`.

    Whatever else is read of it (ModernBERT reads its blocks' attention_type, T5 the type of a weight) is the wrapped
    module's.
    """

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self._last_layout: Layout | None = None

    def __getattr__(self, name: str) -> Any:
        """Look a name up in the wrapped module."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "wrapped" not in modules or name.startswith("__"):
                raise
            return getattr(modules["wrapped"], name)

    def layout(self) -> Layout:
        """Return the layout of the rows that the module sees; where activation checkpointing repeats it, the last."""
        layout = current_layout_or_none()
        if layout is None:
            layout = self._last_layout
        assert layout is not None, "a wrapped module runs only inside Encoder.forward"
        self._last_layout = layout
        return layout


def hidden_of(output: Any) -> torch.Tensor:
    """Return the hidden states among what a block returned: the first of several, or all."""
    hidden = output[0] if isinstance(output, tuple | list) else output
    assert isinstance(hidden, torch.Tensor)
    return hidden


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """Return what a block returned, with other hidden states."""
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at `path` inside `root`."""
    parent, _, name = path.rpartition(".")
    holder = root.get_submodule(parent)
    if isinstance(holder, nn.ModuleList | nn.Sequential):
        holder[int(name)] = module
    else:
        setattr(holder, name, module)


@dataclass(frozen=True)
class OptimizerMark:
    """How the optimizer treats a module's parameters.

    Attributes:
        lr_factor: what their learning rate is multiplied by.
        decay: whether they have weight decay.
    """

    lr_factor: float = 1.0
    decay: bool = True


def mark(module: nn.Module, *, lr_factor: float = 1.0, decay: bool = True) -> None:
    """Tell the optimizer how to treat the parameters of a module and of those inside it."""
    module.__dict__["optimizer_mark"] = OptimizerMark(lr_factor, decay)


def marks_of(model: nn.Module) -> dict[int, OptimizerMark]:
    """Return the marks of a model's parameters, by the parameter's id; the innermost marked module counts."""
    found = {}
    for module in model.modules():
        marked = module.__dict__.get("optimizer_mark")
        if marked is not None:
            found.update({id(parameter): marked for parameter in module.parameters()})
    return found
