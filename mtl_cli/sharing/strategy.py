"""What every sharing strategy does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mtl_cli.encoders import Encoder


class SharingStrategy(ABC):
    """Decides which parameters of an encoder the tasks share.

    A strategy works on any family of encoders: it replaces blocks of `encoder.blocks` by wrappers, which see hidden
    states and, through `current_layout`, which rows belong to which task. Whatever belongs to one task alone sits in a
    `TaskModules`; all other parameters count as shared.
    """

    @abstractmethod
    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Change `encoder` in place for these tasks.

        Raises:
            UserError: a setting does not fit the encoder.
        """
