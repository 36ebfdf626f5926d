"""What strategies have in common that add low-rank updates to layers of the blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.encoders.sites import SiteName, check_sites
from mtl_cli.sharing.lora_layers import (
    LowRankUpdate,
    RankScaling,
    add_low_rank_updates,
    check_targets,
    scaling_of,
)
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.types import PositiveFloat, PositiveInt, Probability


@dataclass(kw_only=True)
class LowRankSharing(SharingStrategy):
    """Base of strategies with low-rank updates.

    Attributes:
        rank: of an update.
        alpha: numerator of the scaling.
        rank_scaling: "standard" is alpha / rank, "sqrt" is alpha / sqrt(rank).
        dropout: share of the updates' inputs set to zero in training.
        targets: which layers of each block; None: which of query and value the family has.
        train_encoder: whether the encoder is trained, too.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    rank_scaling: RankScaling = "standard"
    dropout: Probability = 0.05
    targets: list[SiteName] | None = None
    train_encoder: bool = False

    def __post_init__(self) -> None:
        check_targets(self.targets)

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse layers that the family does not have, or not for each row by itself."""
        check_sites(encoder.family, self.targets or [], "sharing.targets")

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Add the updates to the layers of all blocks."""
        self.check_encoder(encoder.shape)
        add_low_rank_updates(
            encoder,
            self.targets,
            lambda num_inputs, num_outputs: self.new_update(num_inputs, num_outputs, task_names),
            scaling=scaling_of(self.alpha, self.rank, self.rank_scaling),
            dropout=self.dropout,
            train_encoder=self.train_encoder,
        )

    @abstractmethod
    def new_update(self, num_inputs: int, num_outputs: int, task_names: Sequence[str]) -> LowRankUpdate:
        """Return what is added to the outputs of one layer, or of a part of one."""
