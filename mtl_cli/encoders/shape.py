"""What a model's config says of an encoder: enough to refuse settings before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mtl_cli.encoders.families import FAMILIES_OF_ONE_BLOCK
from mtl_cli.encoders.loading import has_activation_checkpointing
from mtl_cli.types import UserError

ANY_SHARING = "sharing=hard with sharing.num_shared_layers=null"
"""How encoders without a list of blocks are shared."""


@dataclass(frozen=True)
class EncoderShape:
    """The family, depth and width of an encoder.

    Attributes:
        family: the model type, as transformers names it.
        num_blocks: blocks.
        hidden_size: width of the hidden states.
        num_heads: attention heads of a block; 1 where the config does not say.
    """

    family: str
    num_blocks: int
    hidden_size: int
    num_heads: int

    @classmethod
    def of(cls, config: Any) -> EncoderShape | None:
        """Read a config of transformers; None where it does not count blocks or state a width."""
        num_blocks, hidden_size = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
        if not isinstance(num_blocks, int) or not isinstance(hidden_size, int):
            return None
        return cls(config.model_type, num_blocks, hidden_size, getattr(config, "num_attention_heads", None) or 1)

    def check_has_blocks(self, setting: str, instead: str = ANY_SHARING) -> None:
        """Refuse families that are known to have no list of blocks.

        Args:
            setting: what asks for one.
            instead: settings that work with any encoder.

        Raises:
            UserError: naming the setting that asks for one.
        """
        if self.family in FAMILIES_OF_ONE_BLOCK:
            raise UserError(no_blocks(setting, self.family, self.num_blocks, instead))

    def check_activation_checkpointing(self) -> None:
        """Refuse families that are known to have none.

        Raises:
            UserError: naming the setting.
        """
        if not has_activation_checkpointing(self.family):
            raise UserError(no_activation_checkpointing(self.family))


def no_blocks(setting: str, family: str, num_blocks: int, instead: str = ANY_SHARING) -> str:
    """Say that a setting asks for blocks that a family does not have."""
    return (
        f"{setting} needs an encoder with a list of {num_blocks} blocks, which a '{family}' model does not have; "
        f"choose another encoder, or what works with any: {instead}"
    )


def no_activation_checkpointing(family: str) -> str:
    """Say that a family computes no activations again in the backward pass."""
    return (
        f"trainer.activation_checkpointing: true, but a '{family}' model of transformers has none; set "
        "trainer.batch_tokens=auto, which cuts steps into smaller parts instead"
    )


def check_num_frozen_blocks(num_frozen_blocks: int, num_blocks: int) -> None:
    """Refuse to freeze more blocks than there are.

    Raises:
        UserError: naming the setting.
    """
    if num_frozen_blocks > num_blocks:
        raise UserError(
            f"encoder.num_frozen_blocks: found {num_frozen_blocks}, but the encoder has {num_blocks} blocks; allowed: "
            f"0 to {num_blocks}"
        )
