"""What a configuration says of an encoder, before anything is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from mtl_cli.encoders.encoder import Encoder
from mtl_cli.encoders.shape import EncoderShape
from mtl_cli.types import PositiveFloat


@dataclass(kw_only=True)
class EncoderSpec(ABC):
    """The settings of an encoder, checked but not yet acted on: what `_target_` in conf/encoder/ names.

    Constructing one is cheap and reads no file. Data can be tokenised before the model exists, so the two are loaded
    apart: first `load_tokenizer`, then `build` with the same tokenizer; or `build` alone.

    Attributes:
        default_lr: learning rate that suits this encoder; conf/optimizer/ takes it unless the user states another.
        default_epochs: passes over the data that suit it, taken by conf/trainer/ in the same way.

    Class attributes:
        pretrained: whether the weights come from somewhere, so that it makes sense to leave them as they are.
    """

    default_lr: PositiveFloat = 5e-5
    default_epochs: PositiveFloat = 3.0

    pretrained: ClassVar[bool] = True

    def known_shape(self) -> EncoderShape | None:
        """Return what can be told of the encoder without its weights; None where nothing can.

        May read the config beside the weights, from the hub too, but runs no code of it. What cannot be read is None:
        loading will say why.
        """
        return None

    def check_settings(self) -> None:  # noqa: B027 - a spec may have nothing to compare
        """Refuse settings that do not fit the config beside the weights, where it can be read.

        Raises:
            UserError: a setting does not fit.
        """

    @abstractmethod
    def load_tokenizer(self, training_texts: Iterable[str]) -> Any:
        """Return the tokenizer.

        Args:
            training_texts: the training texts of all tasks, for a tokenizer that is trained on them; a pretrained one
                leaves the iterable untouched.
        """

    @abstractmethod
    def build(self, training_texts: Iterable[str] = (), tokenizer: Any = None) -> Encoder:
        """Return the encoder with its weights.

        Args:
            training_texts: as in `load_tokenizer`; untouched where `tokenizer` is given.
            tokenizer: what `load_tokenizer` returned, to spare loading or training it again.
        """
