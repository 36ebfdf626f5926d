"""Pretrained encoders of the Hugging Face hub, or of a folder in its format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mtl_cli.encoders import loading
from mtl_cli.encoders.encoder import Encoder
from mtl_cli.encoders.families import attention_dropout_fields, check_packing, dropout_fields, runs_packed
from mtl_cli.encoders.shape import EncoderShape, check_num_frozen_blocks
from mtl_cli.encoders.spec import EncoderSpec
from mtl_cli.types import NonNegativeInt, Pooling, Probability, UserError


@dataclass(kw_only=True)
class HuggingFaceEncoder(EncoderSpec):
    """A pretrained encoder by hub id or folder: BERT and its kin, decoder-only models such as GPT-2, the encoder of T5.

    Attributes:
        path: hub id such as google-bert/bert-base-uncased, or a folder written by save_pretrained.
        revision: branch, tag or commit on the hub; pin a commit to repeat a run exactly.
        pooling: how a row becomes one vector; decoder-only models need "last" or "mean".
        dropout: probability for all of the encoder's hidden and attention dropouts; None keeps the checkpoint's.
        attention_dropout: that of attention weights, in its place; None: what `dropout` says. At 0 a GPU's
            variable-length attention serves in training.
        freeze_embeddings: keep the embeddings as they are.
        num_frozen_blocks: keep the lowest blocks as they are.
        packing: run rows without padding where the family can ("auto"), insist on it (true), or pad (false).
        trust_remote_code: run the Python code that the checkpoint brings. Only for authors you trust.
        config_overrides: fields of the model's config to replace, such as {layer_norm_eps: 1e-6}.
    """

    path: str
    revision: str | None = None
    pooling: Pooling = "first"
    dropout: Probability | None = None
    attention_dropout: Probability | None = None
    freeze_embeddings: bool = False
    num_frozen_blocks: NonNegativeInt = 0
    packing: bool | Literal["auto"] = "auto"
    trust_remote_code: bool = False
    config_overrides: dict[str, Any] | None = None

    def known_shape(self) -> EncoderShape | None:
        """Return what the model's config says."""
        config = self._readable_config()
        return None if config is None else EncoderShape.of(config)

    def check_settings(self) -> None:
        """Refuse fields that the config does not have, and blocks that are not there."""
        config = self._readable_config()
        if config is None:
            return
        loading.override(config, self.config_overrides or {})
        set_dropout(config, self.dropout, self.attention_dropout)
        if self.packing is True:
            check_packing(config.model_type)
        shape = EncoderShape.of(config)
        if shape is not None:
            check_num_frozen_blocks(self.num_frozen_blocks, shape.num_blocks)

    def _readable_config(self) -> Any:
        """The config with what replaces its fields, as far as it has them; None where it cannot be read as data."""
        if self.trust_remote_code:
            return None
        config = loading.config_if_readable(self.path, self.revision)
        if config is not None:
            known = {name: value for name, value in (self.config_overrides or {}).items() if hasattr(config, name)}
            loading.override(config, known)
        return config

    def load_tokenizer(self, training_texts: Iterable[str] = ()) -> Any:
        """Load the pretrained tokenizer; `training_texts` stays untouched."""
        return loading.load_tokenizer(self.path, self.revision, self.trust_remote_code)

    def build(self, training_texts: Iterable[str] = (), tokenizer: Any = None) -> Encoder:
        """Load the pretrained weights.

        Raises:
            UserError: the id or folder is unknown, lacks a part, or holds pickled weights only; a setting does not fit.
        """
        config = loading.load_config(self.path, self.revision, self.trust_remote_code, self.config_overrides or {})
        set_dropout(config, self.dropout, self.attention_dropout)
        model = loading.load_model(self.path, self.revision, self.trust_remote_code, config)
        encoder = Encoder(
            model,
            self.load_tokenizer() if tokenizer is None else tokenizer,
            pooling=self.pooling,
            packed=runs_packed(self.packing, config.model_type),
        )
        encoder.freeze(embeddings=self.freeze_embeddings, num_blocks=self.num_frozen_blocks)
        return encoder


def set_dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> None:
    """Set every dropout probability of the encoder's config, then those of attention weights; None leaves them.

    Raises:
        UserError: the config has none.
    """
    for key, probability, fields in (
        ("dropout", dropout, dropout_fields(config)),
        ("attention_dropout", attention_dropout, attention_dropout_fields(config)),
    ):
        if probability is None:
            continue
        if not fields:
            raise UserError(
                f"encoder.{key}: {probability}, but a '{config.model_type}' config has no field for it. Leave it null."
            )
        for name in fields:
            setattr(config, name, probability)
