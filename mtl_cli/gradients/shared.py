"""Which parameters several tasks train, and which of them a weighting looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing.task_modules import SHARED
from mtl_cli.types import UserError


@dataclass(frozen=True)
class SharedParameter:
    """A parameter that several tasks train.

    Attributes:
        name: its name in the model.
        parameter: the parameter.
        group: the part of the model that `grouping: block` balances by itself.
        in_scope: whether a weighting looks at its gradients.
        is_sparse: whether its gradient may hold the rows of an embedding that a step touches alone.
    """

    name: str
    parameter: nn.Parameter
    group: str
    in_scope: bool = True
    is_sparse: bool = False


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a model that are trained, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def shared_parameters(
    model: MultiTaskModel, scope: Literal["all", "representation"] | int
) -> dict[str, SharedParameter]:
    """Describe the shared parameters of a model, by name.

    Args:
        model: the model.
        scope: what a weighting looks at: a number n means the n highest blocks that hold shared parameters.

    Raises:
        UserError: there are not so many such blocks.
    """
    names = [name for name, part in model.parameter_partition().items() if part == SHARED]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    block_of = {id(p): i for i, block in enumerate(model.encoder.blocks) for p in block.parameters()}
    in_encoder = {id(p) for p in model.encoder.parameters()}
    extras = {id(p) for p in model.encoder.extras.parameters()}
    blocks = sorted({block_of[id(parameters[name])] for name in names if id(parameters[name]) in block_of})
    if isinstance(scope, int) and scope > len(blocks):
        raise UserError(
            f"weighting.scope: found {scope}, but there are {len(blocks)} blocks with shared trainable parameters; "
            f"allowed: all, representation, or 1 to {len(blocks)}"
        )
    highest = set(blocks[-scope:]) if isinstance(scope, int) else set()
    found = {}
    for name in names:
        parameter = parameters[name]
        block = block_of.get(id(parameter))
        if block is None and id(parameter) not in in_encoder and blocks:
            # A head of some of the tasks has no gradient of the others: it is balanced with the block below it.
            group = f"block_{blocks[-1]}"
        elif id(parameter) in extras:
            group = "extras"
        else:
            group = "embeddings" if block is None else f"block_{block}"
        is_sparse = bool(getattr(modules[name.rpartition(".")[0]], "sparse", False))
        found[name] = SharedParameter(name, parameter, group, not isinstance(scope, int) or block in highest, is_sparse)
    return found
