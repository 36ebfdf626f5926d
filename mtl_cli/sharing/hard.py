"""Hard parameter sharing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.columns import ColumnBlock
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.types import NonNegativeInt, UserError


@dataclass(kw_only=True)
class HardSharing(SharingStrategy):
    """Tasks share the lower part of the encoder (Caruana, Multitask Learning, Machine Learning 28, 1997).

    Embeddings and the lowest `num_shared_layers` blocks are one for all tasks; the blocks above are each task's own,
    all beginning with the same weights. A final normalisation behind the last block, where the family has one, is
    shared.

    Attributes:
        num_shared_layers: blocks that all tasks share, counted from the lowest; None means all, so that only the heads
            are the tasks' own.
    """

    num_shared_layers: NonNegativeInt | None = None

    def needs_blocks(self) -> bool:
        """Whether some blocks are the tasks' own."""
        return self.num_shared_layers is not None

    def has_layers_in_blocks(self, task_names: Sequence[str], num_blocks: int) -> bool:
        """Whether some blocks are the tasks' own; none are with as many shared ones as there are."""
        return self.num_shared_layers is not None and self.num_shared_layers < num_blocks

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse more shared blocks than there are."""
        if self.num_shared_layers is not None and self.num_shared_layers > num_blocks:
            raise UserError(
                f"sharing.num_shared_layers: {self.num_shared_layers}, but the encoder has {num_blocks} blocks. "
                f"Give 0 to {num_blocks}, or null for all."
            )

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return the number of blocks below the tasks' own."""
        return num_blocks if self.num_shared_layers is None else self.num_shared_layers

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Replace the blocks above the shared ones by a copy a task."""
        if self.num_shared_layers is None:
            return
        blocks = encoder.require_blocks("sharing.num_shared_layers")
        self.check_num_blocks(len(blocks))
        for index in range(self.num_shared_layers, len(blocks)):
            blocks[index] = ColumnBlock.of_tasks(blocks[index], task_names)
