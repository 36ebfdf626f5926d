"""Projected attention layers: a narrow attention of each task beside every block of one encoder.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, S width of the tasks' attention, H
its heads, E = S / H, K tasks, L blocks; hidden states are (1, N, D) or (B, T, D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mtl_cli.encoders import Encoder, EncoderShape, Layout
from mtl_cli.encoders.attention import packed_attention
from mtl_cli.encoders.sites import check_sites
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import apply_by_task
from mtl_cli.sharing.small_modules import INIT_STD, SmallModules, block_names, product_norm
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, replace_module
from mtl_cli.types import PositiveInt, Probability, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel

_SHARE_OF_WIDTH = 204 / 768
"""The paper's width of the tasks' attention beside the 768 of BERT base."""


@dataclass(kw_only=True)
class PAL(SmallModules):
    """Each task has a narrow multi-head attention of its own beside every block (projected attention layers).

    To what a block adds last to its residual stream, for the rows of task k, it adds

        TS(h) = V_k^D g_kl(V_k^E h),

    h the hidden states that enter block l, V_k^E (hidden_size x hidden width) and V_k^D (back) one a task for all
    blocks, g_kl multi-head attention, one a task and block, without an output projection. There are no biases. With
    BERT's normalisation behind the sum that is LN(h + SA(h) + TS(h)).

    Stickland and Murray, BERT and PALs: Projected Attention Layers for Efficient Adaptation in Multi-Task Learning,
    ICML 2019. Where ours differs:

    - TS(h) is added to the output of the feed-forward part's last layer, a place that every family has, so it goes
      through that part's dropout with it.
    - V_k^D begins at zero, so that the first step sees the plain encoder; other weights begin as BERT's do.
    - Encoders that normalise before a part (GPT-2, ModernBERT, T5) hand h over without a normalisation. Whether one
      would help was not tried.
    - Tokens attend within their row: to all of it where the encoder looks both ways, to what stands before them where
      it does not (GPT-2), so that a row's beginning still does not depend on how it goes on. Local attention
      (ModernBERT) is not copied: the tasks' attention sees the whole row.

    Attributes:
        hidden_size: width of the tasks' attention, a multiple of the heads; None: the paper's share of the encoder's
            width (204 of 768), rounded to a multiple of the heads.
        num_heads: heads of the tasks' attention; None: as many as the encoder's attention has, 12 in the paper.
        dropout: share of the tasks' attention weights set to zero in training; BERT's value.
        blocks: numbers of the blocks with such a layer, 0 the lowest, -1 the highest; None: all.
        train_encoder: whether the encoder is trained, too, as in the paper.
        train_norms: with a frozen encoder, whether its layer normalisations are trained all the same, by all tasks.
    """

    hidden_size: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    dropout: Probability = 0.1
    blocks: list[int] | None = None
    train_encoder: bool = True
    train_norms: bool = True

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families whose layers are not known, and a width that the heads do not divide."""
        check_sites(encoder.family, ["feed_forward_output"], "sharing.hidden_size")
        self.sizes(encoder.hidden_size, encoder.num_heads)

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put the tasks' attention beside the blocks, and their projections into the encoder's extras."""
        blocks = self.chosen_blocks(encoder, "sharing.hidden_size")
        width, num_heads = self.sizes(encoder.hidden_size, encoder.shape.num_heads)
        self.freeze(encoder)
        projections = {task: Projections(encoder.hidden_size, width) for task in task_names}
        encoder.extras["pal"] = TaskModules(projections)
        for index, block in blocks.items():
            (site,) = encoder.sites(block, "feed_forward_output", "sharing.hidden_size")
            layer = ProjectedAttention(
                block.get_submodule(site.path),
                TaskModules({task: _linear(width, 3 * width) for task in task_names}),
                projections,
                num_heads=num_heads,
                causal=any(getattr(module, "is_causal", False) for module in block.modules()),
                dropout=self.dropout,
            )
            replace_module(block, site.path, layer)
            encoder.blocks[index] = KeepsItsInput(block, layer)

    def sizes(self, hidden_size: int, num_heads: int) -> tuple[int, int]:
        """Return the width of the tasks' attention and its heads for an encoder of this width and these heads.

        Raises:
            UserError: the width is no multiple of the heads.
        """
        heads = self.num_heads or num_heads
        if self.hidden_size is None:
            return max(1, round(hidden_size * _SHARE_OF_WIDTH / heads)) * heads, heads
        if self.hidden_size % heads != 0:
            raise UserError(
                f"sharing.hidden_size: found {self.hidden_size} with {heads} heads; allowed: multiples of {heads}, or "
                "another sharing.num_heads"
            )
        return self.hidden_size, heads

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return how much each task's attention adds beside each block, as far as its linear maps go."""
        tasks, blocks = list(model.tasks), self.chosen_blocks(model.encoder, "sharing.hidden_size")
        norms_KL = torch.zeros(len(tasks), len(blocks))
        with torch.no_grad():
            for column, block in enumerate(blocks.values()):
                (layer,) = (module for module in block.modules() if isinstance(module, ProjectedAttention))
                for row, task in enumerate(tasks):
                    outer, value_SS = layer.projections[task], layer.attention(task).weight.chunk(3)[2]
                    norms_KL[row, column] = product_norm(outer.decode.weight, outer.encode.weight, value_SS)
        title = "Frobenius norm of the values' way V^D W^V V^E through each task's attention, by block"
        return {"pal_norms": Learnt.of(title, tasks, block_names(list(blocks)), norms_KL)}


class Projections(nn.Module):
    """V^E and V^D of one task: from the encoder's width to the narrow one and back."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.encode = _linear(hidden_size, width)
        self.decode = nn.Linear(width, hidden_size, bias=False)
        nn.init.zeros_(self.decode.weight)


class KeepsItsInput(Wrapper):
    """A block that shows what it is given to the projected attention inside of it."""

    def __init__(self, block: nn.Module, layer: ProjectedAttention) -> None:
        super().__init__(block)
        self._layer = (layer,)  # in a tuple: it is registered inside of the block

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block."""
        (layer,) = self._layer
        layer.block_input = hidden
        try:
            return self.wrapped(hidden, *args, **kwargs)
        finally:
            # Activation checkpointing computes the block again in the backward pass, without coming by here.
            if not (self.training and getattr(self.wrapped, "gradient_checkpointing", False)):
                layer.block_input = None


class ProjectedAttention(Wrapper):
    """The last layer of a block's feed-forward part, to whose outputs TS(h) is added, h the block's input."""

    def __init__(
        self,
        layer: nn.Module,
        of_task: TaskModules,
        projections: Mapping[str, Projections],
        *,
        num_heads: int,
        causal: bool,
        dropout: float,
    ) -> None:
        super().__init__(layer)
        self.of_task = of_task
        self.num_heads = num_heads
        self.causal = causal
        self.dropout = dropout
        self.block_input: torch.Tensor | None = None
        self.projections = dict(projections)  # all blocks have the same, which the extras register

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: not the hidden states of a step, which cannot be copied."""
        return {**self.__dict__, "block_input": None}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the layer, and beside it the attention of all rows, each with its task's weights."""
        output: torch.Tensor = self.wrapped(inputs)
        layout, hidden = self.layout(), self.block_input
        assert hidden is not None, "the block around it has kept no input"
        narrow = apply_by_task(
            lambda task, part: self.attention(task)(self.projections[task].encode(part)), hidden, layout
        )
        query, key, value = narrow.chunk(3, dim=-1)
        dropout = self.dropout if self.training else 0.0
        attended = attend_within_rows(
            query, key, value, layout, num_heads=self.num_heads, causal=self.causal, dropout=dropout
        )
        added = apply_by_task(lambda task, part: self.projections[task].decode(part), attended, layout)
        return output + added.to(output.dtype)

    def attention(self, task: str) -> nn.Linear:
        """Return what makes a task's queries, keys and values."""
        found = self.of_task[task]
        assert isinstance(found, nn.Linear)
        return found


def attend_within_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    num_heads: int,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """Return multi-head attention in which the tokens of a row see that row alone.

    Args:
        query: (1, N, S) packed or (B, T, S) padded, as the layout is.
        key: the same.
        value: the same.
        layout: of the rows.
        num_heads: H.
        causal: whether a token sees only itself and what stands before it.
        dropout: share of the attention weights set to zero.
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    if layout.packed:
        attended_1NHE, _ = packed_attention(
            _ACTIVE, query, key, value, None,
            dropout=dropout, dropout_setting="sharing.dropout", is_causal=causal, layout=layout,
        )  # fmt: skip
        return attended_1NHE.flatten(2)
    is_seen = layout.padding(query.device).is_real_BT[:, None, None, :]
    if causal:
        T = query.shape[2]
        # Padding stands behind a row's tokens, so that even padding sees at least the first of them.
        is_seen = is_seen & torch.ones(T, T, dtype=torch.bool, device=query.device).tril()
    attended_BHTE = scaled_dot_product_attention(query, key, value, attn_mask=is_seen, dropout_p=dropout)
    return attended_BHTE.transpose(1, 2).flatten(2)


_ACTIVE = nn.Identity()
"""A module in training mode: `packed_attention` asks it whether to apply the dropout that it is given."""


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs, bias=False)
    nn.init.normal_(layer.weight, std=INIT_STD)
    return layer
