"""torch.compile for an encoder's blocks, once for all lengths of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mtl_cli.encoders.attention import PACKED_ATTENTION, packed_attention
from mtl_cli.encoders.families import PACKED_FAMILIES
from mtl_cli.types import UserError

if TYPE_CHECKING:
    from mtl_cli.encoders.encoder import Encoder


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile runs any part of a model."""
    return any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())


def check_can_compile(family: str, *, packed: bool, foreign_layers: bool) -> None:
    """Refuse to compile blocks that cannot be compiled once for all steps.

    Args:
        family: the encoder's.
        packed: whether it runs packed rows.
        foreign_layers: whether the sharing strategy puts layers of its own into the blocks.

    Raises:
        UserError: with all reasons.
    """
    reasons, else_helps = [], []
    if not packed:
        reasons.append(f"a '{family}' model runs padded rows, whose shape differs in each step")
        else_helps.append("take encoder.packing=auto" if family in PACKED_FAMILIES else "choose another encoder")
    if foreign_layers:
        reasons.append("the sharing strategy puts layers into the blocks, which read whose tokens they see")
        else_helps.append("take sharing=hard")
    if reasons:
        raise UserError(
            f"trainer.compile: true, but {', and '.join(reasons)}; leave trainer.compile out, or "
            f"{' and '.join(else_helps)}"
        )


def compile_blocks(encoder: Encoder, **options: Any) -> None:
    """Compile each block of a packed encoder, in place, with any number of tokens.

    Attention stays outside: it reads the step's layout, which differs from step to step, and has a kernel of its own.
    So no block is compiled again after the first two steps (the first one fixes a number of tokens, the second one
    frees it).

    Args:
        encoder: the encoder, as the sharing strategy left it.
        options: as `torch.compile` takes them.

    Raises:
        UserError: the encoder pads, or a sharing strategy put layers of its own into the blocks.
    """
    check_can_compile(encoder.family, packed=encoder.packed, foreign_layers=encoder.has_foreign_layers)
    blocks = encoder.require_blocks("trainer.compile")
    attention: Any = torch.compiler.disable(packed_attention)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, attention)
    for block in blocks:
        block.compile(dynamic=True, **options)
