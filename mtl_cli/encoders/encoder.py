"""The shared encoder: token ids of a step's rows to hidden states of their tokens.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, R of them that are read, D hidden
width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from mtl_cli.distributed.divided import is_divided
from mtl_cli.encoders.attention import PACKED_ATTENTION
from mtl_cli.encoders.compiling import is_compiled
from mtl_cli.encoders.current_layout import use_layout
from mtl_cli.encoders.dropout import use_fast_dropout
from mtl_cli.encoders.families import check_packing, first_position, max_length, takes_token_types
from mtl_cli.encoders.grouping import group_for_passes
from mtl_cli.encoders.last_block import leave_out_unread
from mtl_cli.encoders.layout import Layout
from mtl_cli.encoders.shape import (
    ANY_SHARING,
    EncoderShape,
    check_num_frozen_blocks,
    no_activation_checkpointing,
    no_blocks,
)
from mtl_cli.encoders.shared_cast import share_casts
from mtl_cli.encoders.sites import Site, SiteName, check_sites, find_sites
from mtl_cli.types import Pooling, Step, UserError


class Encoder(nn.Module):
    """A transformers model that turns the tokens of many tasks' rows into hidden states in one pass.

    Two ways to compute the same: packed, where all rows stand one after the other as (1, N, D) and attention keeps them
    apart (no padding in any other layer); and padded, (B, T, D) with an attention mask, which every family can do.

    Attributes:
        model: the transformers model, without a pooler or a head.
        extras: what a sharing strategy adds outside of the blocks.
        tokenizer: its tokenizer.
        pooling: how a row becomes one vector, unless its task says otherwise.
        packed: which of the two ways.
        hidden_size: D.
        max_length: tokens that a row can have.
    """

    def __init__(self, model: Any, tokenizer: Any, *, pooling: Pooling, packed: bool) -> None:
        super().__init__()
        config = model.config
        if packed:
            check_packing(config.model_type)
        self.model = model
        self.extras = nn.ModuleDict()
        self.tokenizer = tokenizer
        self.pooling: Pooling = pooling
        self.packed = packed
        self.hidden_size: int = config.hidden_size
        self.max_length: int = max_length(config, tokenizer)
        self._first_position = first_position(config)
        self._takes_token_types = takes_token_types(config)
        self._pad_token_id = config.pad_token_id or 0
        self._blocks_path = _find_blocks(model)
        if hasattr(config, "use_cache"):
            config.use_cache = False
        if packed:
            model.set_attn_implementation(PACKED_ATTENTION)
        use_fast_dropout(model)
        for block in self.blocks:
            share_casts(self.family, block)

    @property
    def blocks(self) -> nn.ModuleList:
        """The encoder's blocks, lowest first; setting an item replaces a block in place.

        Empty for families that reuse one block (ALBERT): see `require_blocks`.
        """
        if self._blocks_path is None:
            return nn.ModuleList()
        blocks = self.model.get_submodule(self._blocks_path)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def family(self) -> str:
        """The model type, as transformers names it."""
        family: str = self.model.config.model_type
        return family

    @property
    def shape(self) -> EncoderShape:
        """What the model's config says of it."""
        shape = EncoderShape.of(self.model.config)
        assert shape is not None, "a config that made an encoder counts its blocks"
        return shape

    def sites(self, block: nn.Module, name: SiteName, setting: str) -> list[Site]:
        """Return where in a block the linear layers of a name are.

        Raises:
            UserError: this family's blocks are not known, or have no such layer that sees rows one by one.
        """
        check_sites(self.family, [name], setting)
        return find_sites(self.family, block, name)

    def require_blocks(self, setting: str, instead: str = ANY_SHARING) -> nn.ModuleList:
        """Return the blocks for a setting that cannot do without; `instead` names what can.

        Raises:
            UserError: this family has no list of blocks.
        """
        if self._blocks_path is None:
            raise UserError(no_blocks(setting, self.family, self.model.config.num_hidden_layers, instead))
        return self.blocks

    def forward(self, input_ids_N: torch.Tensor, token_type_ids_N: torch.Tensor | None, layout: Layout) -> torch.Tensor:
        """Encode the rows of a step.

        Args:
            input_ids_N: token ids of all rows, one row after the other, int64.
            token_type_ids_N: segment of each token, int64, or None for zeros. Ignored by families without segments.
            layout: where each row lies.

        Returns:
            Hidden states of the last block (behind its final normalisation, where the family has one), (N, D); where
            the layout says which tokens are read, theirs alone, (R, D).
        """
        if layout.max_length > self.max_length:
            raise UserError(
                f"A row of {layout.max_length} tokens, but the encoder takes at most {self.max_length}. "
                f"Set tasks.<name>.max_length to {self.max_length} or less."
            )
        if layout.packed != self.packed:
            raise RuntimeError(f"The layout is {'' if layout.packed else 'not '}packed, unlike the encoder.")
        if not self._takes_token_types:
            token_type_ids_N = None
        # Taggers alone, of texts without words, read nothing: then all is computed, and gradients are zero.
        if layout.read is not None and len(layout.read.tokens_R) > 0 and self._leaves_out_unread():
            with use_layout(layout):
                return self._encode_packed(input_ids_N, token_type_ids_N, layout)
        whole = layout.reading_all()
        with use_layout(whole):
            encode = self._encode_packed if self.packed else self._encode_padded
            return layout.only_read(encode(input_ids_N, token_type_ids_N, whole))

    def _leaves_out_unread(self) -> bool:
        """Whether the last block computes no more than is read.

        Layers of a strategy may look at all tokens, and a hook would be compiled into a block.
        """
        if not self.packed or self.has_foreign_layers or is_compiled(self.model):
            return False
        return leave_out_unread(self.family, self.blocks)

    def _encode_packed(
        self, input_ids_N: torch.Tensor, token_type_ids_N: torch.Tensor | None, layout: Layout
    ) -> torch.Tensor:
        position_N = layout.positions(input_ids_N.device)
        arguments: dict[str, Any] = {"position_ids": (position_N + self._first_position)[None], "layout": layout}
        if token_type_ids_N is not None:
            arguments["token_type_ids"] = token_type_ids_N[None]
        return self.model(input_ids=input_ids_N[None], **arguments).last_hidden_state[0]

    def _encode_padded(
        self, input_ids_N: torch.Tensor, token_type_ids_N: torch.Tensor | None, layout: Layout
    ) -> torch.Tensor:
        # Rows of tasks with texts of different lengths: a pass for each length, so that few are padded much.
        groups = layout.kept("passes", lambda: layout.groups_for_passes(input_ids_N.device))
        if len(groups) == 1 or self.keeps_rows_together:
            return self._encode_padded_group(input_ids_N, token_type_ids_N, layout)
        hidden = []
        for group in groups:
            with use_layout(group.layout):
                ids_n, types = (
                    None if x is None else x.index_select(0, group.tokens) for x in (input_ids_N, token_type_ids_N)
                )
                assert ids_n is not None
                hidden.append(self._encode_padded_group(ids_n, types, group.layout))
        order_N = layout.kept(
            ("place_of_token", input_ids_N.device), lambda: torch.cat([group.tokens for group in groups]).argsort()
        )
        return torch.cat(hidden).index_select(0, order_N)

    def _encode_padded_group(
        self, input_ids_N: torch.Tensor, token_type_ids_N: torch.Tensor | None, layout: Layout
    ) -> torch.Tensor:
        padding = layout.padding(input_ids_N.device)
        is_padding_BT = ~padding.is_real_BT
        arguments = {"attention_mask": padding.is_real_BT.long()}
        if token_type_ids_N is not None:
            arguments["token_type_ids"] = token_type_ids_N[padding.token_of_slot_BT].masked_fill_(is_padding_BT, 0)
        input_ids_BT = input_ids_N[padding.token_of_slot_BT].masked_fill_(is_padding_BT, self._pad_token_id)
        hidden_BTD = self.model(input_ids=input_ids_BT, **arguments).last_hidden_state
        return hidden_BTD.flatten(0, 1).index_select(0, padding.slot_of_token_N)

    def num_slots(self, lengths_B: np.ndarray, *, divided: bool = False) -> int:
        """Return how many places of hidden states a pass over rows of these lengths computes, padding included.

        Memory goes by them. They are the tokens where rows are packed; columns of a strategy, which repeat rows, are
        not counted.

        Args:
            lengths_B: tokens of each row.
            divided: as it will be once FSDP has divided the model.
        """
        if self.packed or len(lengths_B) == 0:
            return int(lengths_B.sum())
        if self.keeps_rows_together or divided:
            return len(lengths_B) * int(lengths_B.max())
        return sum(len(rows) * int(lengths_B[rows].max()) for rows in group_for_passes(lengths_B))

    @property
    def keeps_rows_together(self) -> bool:
        """Whether rows of all lengths make one padded pass.

        A strategy's layers inside of blocks may mix tasks. Of a divided model each pass gathers all blocks, and all
        processes have to make as many, whatever the lengths of their rows.
        """
        return self.has_foreign_layers or is_divided(self.model)

    @property
    def has_foreign_layers(self) -> bool:
        """Whether a sharing strategy has put layers of its own into the model: modules of ours, but for dropout."""
        return any(_is_foreign(module) for module in self.model.modules())

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of each block for the backward pass, which computes the rest again.

        Raises:
            UserError: the family cannot.
        """
        if not self.model.supports_gradient_checkpointing:
            raise UserError(no_activation_checkpointing(self.family))
        model = self.model  # its method has had two names in transformers 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def ids_read(self, steps: Iterable[Step]) -> torch.Tensor:
        """Return the ids of the word embedding that forward passes over these steps look up, int64, unsorted."""
        found = [batch.input_ids_N for step in steps for batch in step.values()]
        return torch.cat([*found, found[0].new_tensor([self._pad_token_id])])

    def freeze(self, *, embeddings: bool, num_blocks: int) -> None:
        """Exclude the embeddings, or the lowest blocks, from training."""
        blocks = self.require_blocks("encoder.num_frozen_blocks") if num_blocks else nn.ModuleList()
        check_num_frozen_blocks(num_blocks, len(blocks))
        frozen: list[nn.Module] = list(blocks[:num_blocks])
        if embeddings:
            frozen += self._embeddings()
        for module in frozen:
            module.requires_grad_(False)

    def _embeddings(self) -> list[nn.Module]:
        whole = getattr(self.model, "embeddings", None)
        if isinstance(whole, nn.Module):
            return [whole]
        inside = "\n" if self._blocks_path is None else self._blocks_path + "."
        return [
            module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Embedding) and not name.startswith(inside)
        ]


def _find_blocks(model: Any) -> str | None:
    """The path of the outermost list of as many like modules as the config counts blocks."""
    count = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(block) for block in module}) == 1:
            return name
    return None


def _is_foreign(module: nn.Module) -> bool:
    return type(module).__module__.startswith("mtl_cli.") and not isinstance(module, nn.Dropout)
