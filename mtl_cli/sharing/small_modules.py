"""What strategies have in common that add small modules of each task to the blocks of one encoder.

Shapes: D hidden width, E and F narrow widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.block_numbers import block_numbers
from mtl_cli.sharing.strategy import SharingStrategy

INIT_STD = 0.02
"""Standard deviation of a new weight, as in BERT (Devlin et al., NAACL 2019)."""


@dataclass(kw_only=True)
class SmallModules(SharingStrategy):
    """Base of strategies that add modules of each task to some blocks.

    Attributes:
        blocks: numbers of the blocks with modules, from 0 for the lowest or from -1 for the highest; None: all.
        train_encoder: whether the encoder itself is trained, too.
        train_norms: with a frozen encoder, whether its layer normalisations are trained all the same, by all tasks.
    """

    blocks: list[int] | None = None
    train_encoder: bool = True
    train_norms: bool = True

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse blocks that are not there."""
        block_numbers(self.blocks, num_blocks)

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name what is said of the normalisations of an encoder that is trained as a whole."""
        return self.without_effect("train_norms", why="with train_encoder=true") if self.train_encoder else []

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return how many blocks the tasks train together."""
        return num_blocks if self.train_encoder or self.train_norms else 0

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Each block is shared around the modules."""
        return "modules of each task stand between the layers that tasks share"

    def shares_parameters(self) -> bool:
        """Whether any part of the encoder is trained."""
        return self.train_encoder or self.train_norms

    def chosen_blocks(self, encoder: Encoder, setting: str) -> dict[int, nn.Module]:
        """Return the blocks that get modules, by number.

        Raises:
            UserError: the encoder has no such blocks.
        """
        found = encoder.require_blocks(setting)
        return {index: found[index] for index in block_numbers(self.blocks, len(found))}

    def freeze(self, encoder: Encoder) -> None:
        """Exclude what is not to be trained of the encoder as it came; what was frozen before stays so."""
        if self.train_encoder:
            return
        kept = {
            id(parameter)
            for module in encoder.model.modules()
            if self.train_norms and "norm" in type(module).__name__.lower()
            for parameter in module.parameters(recurse=False)
        }
        for parameter in encoder.model.parameters():
            if id(parameter) not in kept:
                parameter.requires_grad_(False)


def block_names(blocks: Sequence[int]) -> list[str]:
    """Return the names of blocks, as the logs have them."""
    return [f"block_{index}" for index in blocks]


def product_norm(left_DE: torch.Tensor, right_FD: torch.Tensor, middle_EF: torch.Tensor | None = None) -> torch.Tensor:
    """Return the Frobenius norm of left @ middle @ right (no middle: E = F) without forming a matrix (D, D)."""
    inner_EE, outer_FF = left_DE.T @ left_DE, right_FD @ right_FD.T
    square = (inner_EE * outer_FF).sum() if middle_EF is None else (inner_EE @ middle_EF * (middle_EF @ outer_FF)).sum()
    return square.clamp(min=0.0).sqrt()
