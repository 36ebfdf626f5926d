"""A Transformer encoder trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge
from transformers import BertConfig

from mtl_cli.encoders import loading
from mtl_cli.encoders.encoder import Encoder
from mtl_cli.encoders.spec import EncoderSpec
from mtl_cli.encoders.train_tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from mtl_cli.types import Pooling, PositiveInt, Probability, UserError


@dataclass(kw_only=True)
class TransformerEncoder(EncoderSpec):
    """A bidirectional Transformer with random weights and a tokenizer trained on the run's training texts.

    The architecture is BERT's (Devlin et al., NAACL 2019): learnt positions, GELU, normalisation behind each sub-layer.

    Attributes:
        vocab_size: entries of the tokenizer's vocabulary at most; 256 of them are the bytes.
        hidden_size: width of the hidden states, a multiple of num_heads.
        num_layers: blocks.
        num_heads: attention heads a block.
        intermediate_size: width of the feed-forward layers; None means four times hidden_size.
        max_length: tokens that a row can have.
        dropout: probability of all hidden and attention dropouts.
        pooling: how a row becomes one vector.
        lowercase: the tokenizer writes everything in small letters first.
        packing: run rows without padding.
    """

    vocab_size: Annotated[int, Ge(SMALLEST_VOCABULARY)] = 8000
    hidden_size: PositiveInt = 256
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    intermediate_size: PositiveInt | None = None
    max_length: PositiveInt = 128
    dropout: Probability = 0.1
    pooling: Pooling = "first"
    lowercase: bool = True
    packing: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads != 0:
            raise UserError(
                f"encoder.hidden_size: {self.hidden_size} is not a multiple of encoder.num_heads: {self.num_heads}. "
                f"Nearest: {max(1, self.hidden_size // self.num_heads) * self.num_heads}."
            )

    def load_tokenizer(self, training_texts: Iterable[str]) -> Any:
        """Train the tokenizer."""
        return train_tokenizer(
            training_texts, vocab_size=self.vocab_size, lowercase=self.lowercase, max_length=self.max_length
        )

    def build(self, training_texts: Iterable[str] = (), tokenizer: Any = None) -> Encoder:
        """Draw the weights from PyTorch's default generator: normal with deviation 0.02, biases 0."""
        if tokenizer is None:
            tokenizer = self.load_tokenizer(training_texts)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.intermediate_size or 4 * self.hidden_size,
            max_position_embeddings=self.max_length,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
        return Encoder(loading.new_model(config), tokenizer, pooling=self.pooling, packed=self.packing)
