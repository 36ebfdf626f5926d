"""What soft sharing strategies have in common: an encoder a task, and a penalty that ties them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.sharing.columns import (
    ColumnParameter,
    check_family,
    check_num_shared_layers,
    column_parameters,
    make_columns,
)
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.types import NonNegativeFloat, NonNegativeInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class SoftSharing(SharingStrategy):
    """A copy of the encoder, or of its blocks above the shared ones, for each task; see `make_columns`.

    Attributes:
        strength: factor of the penalty; 0: none is computed.
        num_shared_layers: blocks that all tasks share, counted from the lowest; the embeddings, too, unless it is 0.
    """

    strength: NonNegativeFloat = 0.0
    num_shared_layers: NonNegativeInt = 0

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse to share all blocks."""
        check_num_shared_layers(self.num_shared_layers, num_blocks)

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families all of which cannot be in columns."""
        check_family(encoder, self.num_shared_layers, "sharing.num_shared_layers")

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name the form of a penalty that has no weight."""
        return self.without_effect("form", why="with strength=0") if self.strength == 0 else []

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return the number of blocks below the tasks' own."""
        return self.num_shared_layers

    def shares_parameters(self) -> bool:
        """Whether there are blocks below the tasks' own."""
        return self.num_shared_layers > 0

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Give each task its own copy of the encoder, or of the blocks above the shared ones."""
        make_columns(encoder, task_names, num_shared_layers=self.num_shared_layers, setting="sharing.num_shared_layers")

    def penalised_parameters(self, model: MultiTaskModel) -> Sequence[nn.Parameter]:
        """Return the tasks' own copies."""
        if self.strength == 0:
            return []
        return [copy for found in column_parameters(model.encoder) for copy in found.of_columns]

    def _by_part(self, encoder: Encoder) -> dict[str, list[ColumnParameter]]:
        """The parameters of columns of each part of the encoder, lowest first."""
        parts: dict[str, list[ColumnParameter]] = defaultdict(list)
        for parameter in column_parameters(encoder):
            parts[parameter.part].append(parameter)
        order = ["embeddings", *(f"block_{index}" for index in range(len(encoder.blocks))), "final_norm"]
        return {part: parts[part] for part in order if part in parts}
