"""Sluice networks.

Shapes: K columns, G subspaces of a column's hidden states, E = D / G width of a subspace, L blocks of the columns, N
tokens of the rows of a step, M places of a column's hidden states (N, or B T where they are padded), D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import normalize

from mtl_cli.encoders import Encoder, EncoderShape, Layout
from mtl_cli.sharing.auxiliary import add_auxiliary_loss
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.mixture_rows import MixtureRows
from mtl_cli.sharing.repeated_rows import ColumnSharing, add_columns, running_pass, split_columns, tokens_of_columns
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, mark, with_hidden
from mtl_cli.types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class Sluice(ColumnSharing):
    """A column of the encoder a task; learnt mixtures of parts of their hidden states, and of the depths of each.

    The hidden states of each of the K columns are cut in G subspaces of equal width, h_j = [h_j1, ..., h_jG]. Behind
    each block all K G of them are mixed by free weights alpha of that block,

        h~_ig = sum_j sum_g' alpha_(ig)(jg') h_jg',

    and the next block of column i sees h~_i = [h~_i1, ..., h~_iG]. A task's features are a mixture of what all blocks l
    of its column gave, sum_l beta_il h~_i^(l), with free weights beta of the task. Subspaces are kept from saying the
    same by a penalty on each column and block,

        orthogonality * sum_(g < g') || A_gᵀ A_g' / n ||²,

    Frobenius norm, where row t of A_g is the state of token t in subspace g, scaled to length 1, and n the number of
    tokens: 0 where the subspaces are orthogonal, at most 1. Every row of every task goes through all columns: a step
    costs K times as much as with hard sharing, in computation and in memory for activations, and there are K times as
    many weights.

    Ruder, Bingel, Augenstein and Søgaard, Latent Multi-Task Architecture Learning, AAAI 2019 ("Sluice Networks"). Their
    columns are LSTMs trained from scratch. What is read into the paper, and what differs:

    - alpha begins "with a bias towards one source subspace for each direction"; here at `self_weight` for the subspace
      itself, the rest shared out evenly among the same subspace of the other columns, and 0 between subspaces of
      different place: a column's first half is no use to pretrained weights that read its second half. As all columns
      begin with the same weights, the start is the plain encoder.
    - beta begins "with a bias towards the last layer"; how far is `last_block_weight`.
    - The penalty is written || G_1ᵀ G_2 ||² over subspaces G of layers, which can be read as activations or as
      weights. Activations (as in Bousmalis et al., Domain Separation Networks, NeurIPS 2016) exist in every family of
      encoders. They are taken as a block gives them, before they are mixed, and scaled to length 1, so that the same
      weight suits every width and that small activations are no way out.
    - Which blocks' outputs beta mixes: those of the columns, after alpha; before a family's final normalisation.

    A final normalisation behind the blocks and beta are the tasks' own, and of alpha behind the last block the rows of
    each task's column: no other task's features depend on them.

    Attributes:
        num_subspaces: G; the encoder's hidden width must be a multiple. The paper has 2; with 1 this is `CrossStitch`
            with one weight for all channels, and beta.
        self_weight: weight of a subspace in its own mixture at the start; 1 begins with separate encoders.
        last_block_weight: beta of the last block at the start, the rest shared out evenly among the blocks below; 1
            begins with the plain encoder.
        orthogonality: weight of the penalty (not tuned); 0 for none. It is a sum over columns and blocks: with 3
            columns of 12 blocks and 2 subspaces at most 36 times this.
        lr_factor: how many times the encoder's learning rate that of alpha and beta is. AdamW moves every number by
            about its learning rate: see `CrossStitch`.
        num_shared_layers: blocks below the columns, which all tasks share as in hard sharing, with the embeddings; they
            see each row once. 0: columns are whole encoders.
    """

    num_subspaces: PositiveInt = 2
    self_weight: Fraction = 0.9
    last_block_weight: Fraction = 1.0
    orthogonality: NonNegativeFloat = 0.01
    lr_factor: PositiveFloat = 10.0
    num_shared_layers: NonNegativeInt = 0

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families all of which cannot be in columns, and subspaces that cannot be equally wide."""
        super().check_encoder(encoder)
        if encoder.hidden_size % self.num_subspaces != 0:
            raise UserError(
                f"sharing.num_subspaces: found {self.num_subspaces}, but the encoder's hidden states are "
                f"{encoder.hidden_size} wide; allowed: divisors of {encoder.hidden_size}"
            )

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name the penalty on pairs of subspaces where there is one, and the mixture of depths of a single block."""
        found = []
        if self.num_subspaces == 1 and self.orthogonality:
            found += self.without_effect("orthogonality", why="with num_subspaces=1")
        if num_blocks - self.num_shared_layers == 1:
            found += self.without_effect("last_block_weight", why="with one block above the shared ones")
        return found

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Make the columns, with stitches behind all of their blocks and the mixture of depths behind the last."""
        blocks = encoder.require_blocks("sharing=sluice")
        self.check_num_blocks(len(blocks))
        self.check_encoder(encoder.shape)
        self._columns = tuple(task_names)
        if len(self._columns) == 1:
            return
        add_columns(encoder, self._columns, self.num_shared_layers, "sharing=sluice", last_mixed=len(blocks) - 1)
        numbers = range(self.num_shared_layers, len(blocks))
        for index in numbers:
            depths, owners = None, None
            if index == numbers[-1]:
                owners = self._columns
                depths = Depths(self._columns, tuple(numbers), self.last_block_weight)
                mark(depths, lr_factor=self.lr_factor, decay=False)
            stitch = SubspaceStitch(len(self._columns), self.num_subspaces, self.self_weight, owners)
            mark(stitch, lr_factor=self.lr_factor, decay=False)
            blocks[index] = SluiceBlock(blocks[index], index, stitch, depths, self.orthogonality)

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return alpha of each block, (K G, K G), a row for each subspace's mixture, and beta, (K, L)."""
        names = [f"{column}_{place}" for column in self._columns for place in range(self.num_subspaces)]
        found = {}
        for index, block in enumerate(model.encoder.blocks):
            if not isinstance(block, SluiceBlock):
                continue
            found[f"stitch_{index}"] = Learnt.of(
                f"Weight of each subspace of each column (across) in each one's mixture behind block {index}",
                names,
                names,
                block.stitch.alpha().reshape(len(names), len(names)),
                "signed",
            )
            if block.depths is not None:
                found["depths"] = Learnt.of(
                    "Weight of each block's output in each task's features",
                    self._columns,
                    [f"block_{number}" for number in block.depths.numbers],
                    block.depths.weights(),
                    "signed",
                )
        return found


class SubspaceStitch(nn.Module):
    """Mixes the subspaces of all columns: sum_j sum_g' alpha_(ig)(jg') h_jg'.

    Args:
        num_columns: K.
        num_subspaces: G.
        self_weight: alpha of a subspace in its own mixture at the start.
        owners: the task of each column, where the column's rows of alpha are that task's own.

    Attributes:
        alpha: gives the weights, (K, G, K, G).
    """

    def __init__(
        self, num_columns: int, num_subspaces: int, self_weight: float, owners: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.num_subspaces = num_subspaces
        alpha_KK = torch.full((num_columns, num_columns), (1 - self_weight) / (num_columns - 1))
        alpha_KK.fill_diagonal_(self_weight)
        same_GG = torch.eye(num_subspaces)
        self.alpha = MixtureRows(alpha_KK[:, None, :, None] * same_GG[None, :, None, :], owners)

    def forward(self, states_KMD: torch.Tensor) -> torch.Tensor:
        """Return the mixtures, (K, M, D), in the states' precision; computed in float32."""
        alpha_KGKG: torch.Tensor = self.alpha()
        with torch.autocast(states_KMD.device.type, enabled=False):
            states_KMGE = states_KMD.float().unflatten(-1, (self.num_subspaces, -1))
            mixed_KMGE = torch.einsum("igjh,jmhe->imge", alpha_KGKG, states_KMGE)
            mixed_KMD = mixed_KMGE.reshape(states_KMD.shape)
        return mixed_KMD.to(states_KMD.dtype)


class DepthWeights(nn.Module):
    """One task's weights of the outputs of its column's blocks."""

    def __init__(self, num_blocks: int, last_block_weight: float) -> None:
        super().__init__()
        beta_L = torch.ones(1)
        if num_blocks > 1:
            beta_L = torch.full((num_blocks,), (1 - last_block_weight) / (num_blocks - 1))
            beta_L[-1] = last_block_weight
        self.beta_L = nn.Parameter(beta_L)


class Depths(nn.Module):
    """Mixes what the blocks of each column gave: sum_l beta_il h_i^(l).

    Args:
        columns: names of the K columns.
        numbers: numbers of their L blocks in the encoder.
        last_block_weight: beta of the last of them at the start.
    """

    def __init__(self, columns: Sequence[str], numbers: tuple[int, ...], last_block_weight: float) -> None:
        super().__init__()
        self.numbers = numbers
        self.of_task = TaskModules({column: DepthWeights(len(numbers), last_block_weight) for column in columns})

    def weights(self) -> torch.Tensor:
        """Return beta, (K, L)."""
        return torch.stack([of_task.get_parameter("beta_L") for of_task in self.of_task.values()])

    def forward(self, states_LKMD: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mixtures, (K, M, D), in the states' precision; computed in float32."""
        beta_LK11 = self.weights().T[:, :, None, None]
        mixed_KMD = beta_LK11[0] * states_LKMD[0]
        for beta_K11, states_KMD in zip(beta_LK11[1:], states_LKMD[1:], strict=True):
            mixed_KMD = mixed_KMD + beta_K11 * states_KMD
        return mixed_KMD.to(states_LKMD[-1].dtype)


class SluiceBlock(Wrapper):
    """The columns of a block, the stitch behind them, and behind the last block the mixture of all blocks' outputs.

    Args:
        wrapped: the columns.
        index: number of the block.
        stitch: mixes what the columns give.
        depths: mixes what this and all blocks below gave; None but for the last block.
        orthogonality: weight of the penalty.
    """

    def __init__(
        self, wrapped: nn.Module, index: int, stitch: SubspaceStitch, depths: Depths | None, orthogonality: float
    ) -> None:
        super().__init__(wrapped)
        self.index = index
        self.stitch = stitch
        self.depths = depths
        self.orthogonality = orthogonality

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the columns and mix their hidden states."""
        output = self.wrapped(hidden, *args, **kwargs)
        states = hidden_of(output)
        running = running_pass()
        states_KMD = split_columns(states, len(self.layout().tasks))
        if self.training and self.orthogonality > 0:
            self._penalise(states_KMD, running.layout)
        mixed_KMD = self.stitch(states_KMD)
        if self.depths is None:
            running.states_KMD[self.index] = mixed_KMD
        else:
            below = [running.states_KMD[number] for number in self.depths.numbers[:-1]]
            mixed_KMD = self.depths([*below, mixed_KMD])
        return with_hidden(output, mixed_KMD.view_as(states))

    def _penalise(self, states_KMD: torch.Tensor, layout: Layout) -> None:
        """Add what each task's rows cost in all columns."""
        states_KND = tokens_of_columns(states_KMD, layout)
        for task in layout.tasks:
            value = overlap(states_KND[:, layout.token_slices[task]], self.stitch.num_subspaces)
            add_auxiliary_loss("orthogonality", task, self.orthogonality * value)


def overlap(states_KND: torch.Tensor, num_subspaces: int) -> torch.Tensor:
    """Return how far subspaces say the same: || A_gᵀ A_g' / n ||² summed over columns and pairs of subspaces."""
    with torch.autocast(states_KND.device.type, enabled=False):
        states_KNGE = states_KND.float().unflatten(-1, (num_subspaces, -1))
        unit_GKNE = normalize(states_KNGE, dim=-1).movedim(2, 0)
        num_tokens = states_KND.shape[1]
        found = states_KND.new_zeros((), dtype=torch.float32)
        for first, second in combinations(range(num_subspaces), 2):
            product_KEE = unit_GKNE[first].transpose(1, 2) @ unit_GKNE[second] / num_tokens
            found = found + product_KEE.square().sum()
    return found
