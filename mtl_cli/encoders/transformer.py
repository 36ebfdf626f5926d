"""A Transformer encoder trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from transformers import ModernBertConfig

from mtl_cli.encoders import loading
from mtl_cli.encoders.encoder import Encoder
from mtl_cli.encoders.shape import EncoderShape
from mtl_cli.encoders.spec import EncoderSpec
from mtl_cli.encoders.train_tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from mtl_cli.types import Pooling, PositiveInt, Probability, UserError

# Texts here are short, and a base far below the usual 10,000 lets nearby positions differ from the first step on.
_ROTARY_BASE = 1000.0


@dataclass(kw_only=True)
class TransformerEncoder(EncoderSpec):
    """A bidirectional Transformer with random weights and a tokenizer trained on the run's training texts.

    The architecture is ModernBERT's (Warner et al., 2024) with attention over the whole row in each block:
    normalisation in front of each sub-layer (Xiong et al., ICML 2020), rotary positions (Su et al., 2021), gated GELU
    layers (Shazeer, 2020). Weights begin with deviation 1 / sqrt(hidden_size): with the usual 0.02 a narrow encoder
    finds no use for attention for long (embedded corpus, entities after six passes: span F1 0.35, against 1.00). The
    two texts of a pair are told apart by the separator alone.

    Attributes:
        vocab_size: entries of the tokenizer's vocabulary at most; 256 of them are the bytes.
        hidden_size: width of the hidden states, a multiple of num_heads.
        num_layers: blocks.
        num_heads: attention heads a block.
        intermediate_size: width of the gated feed-forward layers; None means 8/3 of hidden_size, which has as many
            weights as an ungated layer of four times hidden_size.
        max_length: tokens that a row can have.
        dropout: probability of all hidden and attention dropouts.
        attention_dropout: that of attention weights, in its place; None: what `dropout` says.
        pooling: how a row becomes one vector.
        lowercase: the tokenizer writes everything in small letters first.
        packing: run rows without padding.
    """

    pretrained: ClassVar[bool] = False

    vocab_size: Annotated[int, Ge(SMALLEST_VOCABULARY)] = 8000
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4
    intermediate_size: PositiveInt | None = None
    max_length: PositiveInt = 128
    dropout: Probability = 0.1
    attention_dropout: Probability | None = None
    pooling: Pooling = "mean"
    lowercase: bool = True
    packing: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads != 0:
            raise UserError(
                f"encoder.hidden_size: {self.hidden_size} is not a multiple of encoder.num_heads: {self.num_heads}. "
                f"Nearest: {max(1, self.hidden_size // self.num_heads) * self.num_heads}."
            )

    def known_shape(self) -> EncoderShape:
        """Return what the settings say."""
        return EncoderShape("modernbert", self.num_layers, self.hidden_size, self.num_heads)

    def load_tokenizer(self, training_texts: Iterable[str]) -> Any:
        """Train the tokenizer."""
        return train_tokenizer(
            training_texts, vocab_size=self.vocab_size, lowercase=self.lowercase, max_length=self.max_length
        )

    def build(self, training_texts: Iterable[str] = (), tokenizer: Any = None) -> Encoder:
        """Draw the weights from PyTorch's default generator; there are no biases."""
        if tokenizer is None:
            tokenizer = self.load_tokenizer(training_texts)
        config = ModernBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.intermediate_size or round(8 * self.hidden_size / 3),
            max_position_embeddings=self.max_length,
            initializer_range=self.hidden_size**-0.5,
            global_attn_every_n_layers=1,
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": _ROTARY_BASE}},
            embedding_dropout=self.dropout,
            mlp_dropout=self.dropout,
            attention_dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )
        return Encoder(loading.new_model(config), tokenizer, pooling=self.pooling, packed=self.packing)
