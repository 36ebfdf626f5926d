"""In the last block, what comes behind attention is computed for the tokens alone whose hidden states are read.

A classifier reads one token of a row, a tagger the first piece of each word. What the last block makes of the others
no head ever sees: attention has had their keys and values already, and the rest of a block treats each token by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtl_cli.encoders.current_layout import current_layout_or_none
from mtl_cli.encoders.layout import Layout

# The first module behind attention that gets nothing but hidden states, of which the rest of the block is made.
_BEHIND_ATTENTION = {
    "bert": "attention.output",
    "roberta": "attention.output",
    "xlm-roberta": "attention.output",
    "electra": "attention.output",
    "distilbert": "sa_layer_norm",
}


def leave_out_unread(family: str, blocks: nn.ModuleList) -> bool:
    """Make the last block compute behind its attention only what the current layout says is read.

    The block then returns (1, R, D); where all tokens are read nothing changes. Done once however often it is called.

    Returns:
        False where it cannot be done: the family's blocks are not known, the last one is built otherwise, serves below,
        too, or holds somebody's layers, which may look at all tokens.
    """
    if family not in _BEHIND_ATTENTION or not all(map(_is_known, blocks[-1].modules())):
        return False
    try:
        module = blocks[-1].get_submodule(_BEHIND_ATTENTION[family])
    except AttributeError:
        return False
    if any(module is other for block in blocks[:-1] for other in block.modules()):
        return False
    if not any(isinstance(hook, _LeaveOutUnread) for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_LeaveOutUnread())
    return True


def _is_known(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) or type(module).__module__.partition(".")[0] in ("torch", "transformers")


class _LeaveOutUnread:
    """A forward pre-hook: of each hidden state, (1, N, D), the tokens that are read, (1, R, D)."""

    def __init__(self) -> None:
        self._last: Layout | None = None

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        layout = current_layout_or_none()
        if layout is None:  # activation checkpointing repeats the block
            layout = self._last
        self._last = layout
        if layout is None or layout.read is None:
            return None
        tokens_R = layout.read.tokens_R
        return tuple(hidden_1ND.index_select(1, tokens_R) for hidden_1ND in inputs)
