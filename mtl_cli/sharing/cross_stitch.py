"""Cross-stitch networks.

Shapes: K columns, N tokens of the rows of a step, M places of a column's hidden states (N, or B T where they are
padded), D hidden width, C channels with a stitch of their own (D, or 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.block_numbers import block_numbers
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.mixture_rows import MixtureRows
from mtl_cli.sharing.repeated_rows import ColumnSharing, add_columns, split_columns
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, mark, with_hidden
from mtl_cli.types import Fraction, NonNegativeInt, PositiveFloat

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class CrossStitch(ColumnSharing):
    """A column of the encoder a task, with learnt mixtures of all columns' hidden states between the blocks.

    Behind each stitched block the hidden states h_j of the K columns are mixed into what the next blocks see,

        h_i <- sum_j alpha_ij h_j        (channel by channel with `per_channel`),

    with free weights alpha of that block, row i for column i. A task's features are the last hidden states of its own
    column. Because the states of all columns are mixed row by row, every row of every task goes through all columns:
    a step costs K times as much as with hard sharing, in computation and in memory for activations, and there are K
    times as many weights.

    Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016. As there, alpha_ii begins at 0.9 and the
    rest of each row is shared out evenly (the paper has two tasks: 0.1), so that a row sums to 1 and mixtures are as
    large as what is mixed; during training alpha is free. The paper stitches convolutional networks behind pooling and
    fully connected layers, with one stitch an activation map, and found the best start in networks trained on one task
    each; here every block can be stitched and all columns begin with the same pretrained weights, so that the start is
    the plain encoder whatever alpha.

    The blocks above the last stitch, and a final normalisation, are the tasks' own, and of the last stitch the row of
    each task's column: no other task's features depend on them.

    Attributes:
        self_weight: alpha_ii at the start; 1 begins with separate encoders. Of a convex mixture the rest,
            1 - self_weight, comes from the other columns.
        per_channel: a stitch for each of the D channels, as the paper's for each activation map; else one for all.
        lr_factor: how many times the encoder's learning rate that of the stitches is. The paper found 100 to 1000 best
            with plain SGD, where alpha's gradients are small. AdamW moves every number by about its learning rate
            whatever the gradient's size: at 1e-4, a factor of 10 takes alpha from 0.9 to 0 in 900 steps at the least
            (not tuned).
        blocks: numbers of the blocks behind which there is a stitch, 0 the lowest, -1 the highest; None: all blocks
            of the columns.
        num_shared_layers: blocks below the columns, which all tasks share as in hard sharing, with the embeddings; they
            see each row once. 0: columns are whole encoders.
    """

    self_weight: Fraction = 0.9
    per_channel: bool = True
    lr_factor: PositiveFloat = 10.0
    blocks: list[int] | None = None
    num_shared_layers: NonNegativeInt = 0

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse stitches behind blocks that do not exist or are no part of the columns."""
        super().check_num_blocks(num_blocks)
        self._stitched(num_blocks)

    def _stitched(self, num_blocks: int) -> list[int]:
        return block_numbers(self.blocks, num_blocks, self.num_shared_layers)

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Make the columns and put a stitch behind their blocks."""
        blocks = encoder.require_blocks("sharing=cross_stitch")
        self.check_num_blocks(len(blocks))
        stitched = self._stitched(len(blocks))
        self._columns = tuple(task_names)
        if len(self._columns) == 1:
            return
        add_columns(encoder, self._columns, self.num_shared_layers, "sharing=cross_stitch", last_mixed=max(stitched))
        for index in stitched:
            num_channels = encoder.hidden_size if self.per_channel else 1
            owners = self._columns if index == max(stitched) else None
            stitch = Stitch(len(self._columns), self.self_weight, num_channels, owners)
            mark(stitch, lr_factor=self.lr_factor, decay=False)
            blocks[index] = StitchedBlock(blocks[index], stitch)

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return the number of blocks up to the last stitch: the columns above it are their tasks' own."""
        return max(self._stitched(num_blocks)) + 1

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return alpha of each stitched block, (K, K), the mean over channels: row i is column i's mixture."""
        return {
            f"stitch_{index}": Learnt.of(
                f"Weight of each column (across) in each column's mixture behind block {index}",
                self._columns,
                self._columns,
                block.stitch.alpha().mean(-1),
                "signed",
            )
            for index, block in enumerate(model.encoder.blocks)
            if isinstance(block, StitchedBlock)
        }


class Stitch(nn.Module):
    """Mixes the hidden states of columns: sum_j alpha_ij h_j.

    Args:
        num_columns: K.
        self_weight: alpha_ii at the start.
        num_channels: C, the width of what is mixed, or 1 for the same mixture of all channels.
        owners: the task of each column, where the column's row of alpha is that task's own.

    Attributes:
        alpha: gives the weights, (K, K, C).
    """

    def __init__(
        self, num_columns: int, self_weight: float, num_channels: int, owners: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        alpha_KK = torch.full((num_columns, num_columns), (1 - self_weight) / (num_columns - 1))
        alpha_KK.fill_diagonal_(self_weight)
        self.alpha = MixtureRows(alpha_KK[:, :, None].repeat(1, 1, num_channels), owners)

    def forward(self, states_KMD: torch.Tensor) -> torch.Tensor:
        """Return the mixtures, (K, M, D), in the states' precision; computed in float32."""
        alpha_KKC: torch.Tensor = self.alpha()
        num_columns, _, num_channels = alpha_KKC.shape
        with torch.autocast(states_KMD.device.type, enabled=False):
            if num_channels == 1:
                mixed_KMD = (alpha_KKC[:, :, 0] @ states_KMD.float().flatten(1)).view(states_KMD.shape)
            else:
                # As matrix products, one a channel, all states would be transposed and back.
                mixed_KMD = alpha_KKC[:, 0, None] * states_KMD[0]
                for column in range(1, num_columns):
                    mixed_KMD = mixed_KMD + alpha_KKC[:, column, None] * states_KMD[column]
        return mixed_KMD.to(states_KMD.dtype)


class StitchedBlock(Wrapper):
    """The columns of a block, and the stitch behind them."""

    def __init__(self, wrapped: nn.Module, stitch: Stitch) -> None:
        super().__init__(wrapped)
        self.stitch = stitch

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the columns and mix their hidden states."""
        output = self.wrapped(hidden, *args, **kwargs)
        states = hidden_of(output)
        mixed_KMD = self.stitch(split_columns(states, len(self.layout().tasks)))
        return with_hidden(output, mixed_KMD.view_as(states))
