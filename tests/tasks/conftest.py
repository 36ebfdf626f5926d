"""Tiny tokenizers of four families, trained on sentences of our own, and splits made from encoded columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, RobertaTokenizer, T5Tokenizer

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.source import Source

TEXTS = [
    "the harbour master praised a new bridge over the northern canal",
    "unbelievable weather delayed every ferry, and nobody complained",
    "Marta Lindqvist opened a bakery near the old town hall in Verdal",
]


class NoSource(Source):
    """A source for tests that never load."""

    def load(self) -> dict[str, datasets.Dataset]:
        raise AssertionError("a task's settings must not load data")

    def locate(self, split: str, row: int) -> str:
        return f"{split}, row {row + 1}"


@pytest.fixture
def source() -> Source:
    return NoSource()


@pytest.fixture(scope="session")
def bert() -> PreTrainedTokenizerBase:
    """WordPiece with [CLS], [SEP] and segments."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=110, special_tokens=special, show_progress=False)
    )
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=False)


def _byte_level() -> dict[str, Any]:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(TEXTS, trainer)
    model = json.loads(trained.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


@pytest.fixture(scope="session")
def gpt2() -> PreTrainedTokenizerBase:
    """Byte-level BPE without special tokens around a text."""
    return GPT2Tokenizer(**_byte_level())


@pytest.fixture(scope="session")
def gpt2_prefix_space() -> PreTrainedTokenizerBase:
    return GPT2Tokenizer(**_byte_level(), add_prefix_space=True)


@pytest.fixture(scope="session")
def roberta() -> PreTrainedTokenizerBase:
    """Byte-level BPE with <s> and </s>."""
    return RobertaTokenizer(**_byte_level())


@pytest.fixture(scope="session")
def roberta_prefix_space() -> PreTrainedTokenizerBase:
    return RobertaTokenizer(**_byte_level(), add_prefix_space=True)


@pytest.fixture(scope="session")
def t5() -> PreTrainedTokenizerBase:
    """Unigram with </s> at the end only."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    return T5Tokenizer(vocab=[tuple(piece) for piece in pieces])


@pytest.fixture(params=["bert", "gpt2", "roberta", "t5"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """Each family in turn."""
    return request.getfixturevalue(request.param)


def _as_split(columns: Mapping[str, list[Any]], num_examples: int) -> EncodedSplit:
    def starts(rows: list[list[int]]) -> np.ndarray:
        return np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)

    def flat(name: str, dtype: type) -> np.ndarray | None:
        if name not in columns:
            return None
        return np.array([value for row in columns[name] for value in row], dtype=dtype)

    by_word = "positions" in columns
    labels = None
    if "labels" in columns:
        labels = flat("labels", np.int64) if by_word else np.array(columns["labels"])
        labels = labels.astype(np.float32) if labels.dtype == np.float64 else labels
    return EncodedSplit(
        input_ids=flat("input_ids", np.int32),
        row_starts=starts(columns["input_ids"]),
        token_type_ids=flat("token_type_ids", np.uint8),
        labels=labels,
        positions=flat("positions", np.int32),
        label_starts=starts(columns["positions"]) if by_word else None,
        word_numbers=flat("word_numbers", np.int32),
        example_numbers=np.array(columns["example_offset"], dtype=np.int64),
        num_examples=num_examples,
    )


@pytest.fixture
def as_split() -> Callable[[Mapping[str, list[Any]], int], EncodedSplit]:
    """Lay the columns that `Task.encode` gives out as a split."""
    return _as_split
