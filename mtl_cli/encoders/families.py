"""What differs between model families: packed rows, positions, dropout fields, the class to load."""

from __future__ import annotations

from typing import Any, Literal

from mtl_cli.types import UserError

PACKED_FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "electra", "distilbert", "gpt2", "modernbert"})
"""Model types whose attention goes through transformers' `AttentionInterface` and whose positions can be given."""

FAMILIES_OF_ONE_BLOCK = frozenset({"albert"})
"""Model types that run one block over and over, and so have no list of blocks."""

_POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta"})

_DROPOUT_FIELDS = (
    "hidden_dropout_prob",  # BERT, RoBERTa, XLM-R, ELECTRA, DeBERTa
    "attention_probs_dropout_prob",
    "pooler_dropout",  # DeBERTa
    "dropout",  # DistilBERT
    "attention_dropout",  # DistilBERT, ModernBERT
    "embedding_dropout",  # ModernBERT
    "mlp_dropout",
    "embd_pdrop",  # GPT-2
    "resid_pdrop",
    "attn_pdrop",
    "dropout_rate",  # T5
)
_ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")

_UNBOUNDED = 1_000_000
"""Tokenizers without a limit of their own report a length far above this."""


def runs_packed(packing: bool | Literal["auto"], family: str) -> bool:
    """Whether a model of this family runs packed rows under a value of `encoder.packing`."""
    return family in PACKED_FAMILIES if packing == "auto" else packing


def check_packing(family: str) -> None:
    """Refuse to run packed rows where a family cannot.

    Raises:
        UserError: naming the setting.
    """
    if family not in PACKED_FAMILIES:
        raise UserError(
            f"encoder.packing: true, but a '{family}' model cannot run packed rows "
            f"(can: {', '.join(sorted(PACKED_FAMILIES))}). Set encoder.packing=auto."
        )


def first_position(config: Any) -> int:
    """The position of a row's first token. RoBERTa's positions begin behind the padding token's id."""
    return config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0


def max_length(config: Any, tokenizer: Any) -> int:
    """Tokens that a row can have: the positions that the model knows, and no more than the tokenizer states."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limits = [] if positions is None else [positions - first_position(config)]
    if 0 < tokenizer.model_max_length < _UNBOUNDED:
        limits.append(tokenizer.model_max_length)
    return min(limits) if limits else 512


def dropout_fields(config: Any) -> list[str]:
    """The fields of this config that hold a dropout probability inside the encoder."""
    return [name for name in _DROPOUT_FIELDS if isinstance(getattr(config, name, None), int | float)]


def attention_dropout_fields(config: Any) -> list[str]:
    """Those of them that drop attention weights and nothing else."""
    return [name for name in dropout_fields(config) if name in _ATTENTION_DROPOUT_FIELDS]


def takes_token_types(config: Any) -> bool:
    """Whether the model tells a first text from a second one by segment embeddings."""
    return config.model_type != "distilbert" and (getattr(config, "type_vocab_size", 0) or 0) > 1
