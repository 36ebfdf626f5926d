"""Rows of words against `is_split_into_words=True` of transformers, and properties of windows."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mtl_cli.tasks.encode_words import WordEncoder, WordRow
from mtl_cli.types import UserError

WORDS = [
    "unbelievable",
    "Marta",
    "opened",
    "a",
    "bakery",
    "near",
    "the",
    "hall",
    ",",
    "nobody",
    "complained",
    "x",
    "ferry",
]


def sentence(generator: random.Random, max_words: int) -> list[str]:
    return [generator.choice(WORDS) for _ in range(generator.randint(1, max_words))]


@pytest.mark.parametrize(
    ("family", "reference"),
    [
        ("bert", "bert"),
        ("t5", "t5"),
        ("gpt2", "gpt2_prefix_space"),
        ("gpt2_prefix_space", "gpt2_prefix_space"),
        ("roberta", "roberta_prefix_space"),
        ("roberta_prefix_space", "roberta_prefix_space"),
    ],
)
def test_rows_equal_transformers_with_a_space_before_each_word_where_spaces_belong_to_tokens(
    family: str, reference: str, request: pytest.FixtureRequest
) -> None:
    generator = random.Random(0)
    texts = [sentence(generator, 12) for _ in range(20)]
    rows = WordEncoder(request.getfixturevalue(family), None, overlap=0).rows(texts)
    expected = request.getfixturevalue(reference)(texts, is_split_into_words=True)
    for text, (row,) in enumerate(rows):
        assert row.input_ids == expected["input_ids"][text]
        assert row.token_type_ids == (expected["token_type_ids"][text] if "token_type_ids" in expected else None)
        word_of_token = expected.word_ids(text)
        assert row.positions == [word_of_token.index(number) for number in range(len(texts[text]))]
        assert row.word_numbers == list(range(len(texts[text])))


@pytest.mark.parametrize("seed", range(20))
def test_every_word_is_labelled_in_one_row_at_its_own_first_token(
    tokenizer: PreTrainedTokenizerBase, seed: int
) -> None:
    generator = random.Random(seed)
    texts = [sentence(generator, 60) for _ in range(5)]
    max_length = generator.randint(tokenizer.num_special_tokens_to_add() + 1, 30)
    encoder = WordEncoder(tokenizer, max_length, overlap=generator.randint(0, 20))
    first_tokens = {
        word: row.input_ids[row.positions[0]]
        for word in WORDS
        for row in WordEncoder(tokenizer, None, 0).rows([[word]])[0]
    }
    for text, rows in zip(texts, encoder.rows(texts), strict=True):
        assert [number for row in rows for number in row.word_numbers] == list(range(len(text)))
        for row in rows:
            assert 1 <= len(row.input_ids) <= max_length
            found = [row.input_ids[position] for position in row.positions]
            assert found == [first_tokens[text[number]] for number in row.word_numbers]


def test_each_row_of_a_long_text_has_the_special_tokens(bert: PreTrainedTokenizerBase) -> None:
    (rows,) = WordEncoder(bert, 10, overlap=4).rows([WORDS * 3])
    assert len(rows) > 2
    for row in rows:
        assert (row.input_ids[0], row.input_ids[-1]) == (bert.cls_token_id, bert.sep_token_id)
        assert bert.sep_token_id not in row.input_ids[1:-1]
        assert row.token_type_ids == [0] * len(row.input_ids)


@pytest.mark.parametrize("word", ["", "\u200b", "\ufe0f", " "])
def test_a_word_without_tokens_becomes_the_unknown_token(tokenizer: PreTrainedTokenizerBase, word: str) -> None:
    ((row,),) = WordEncoder(tokenizer, 32, overlap=0).rows([["a", word, "a"]])
    assert row.word_numbers == [0, 1, 2]
    first, middle, last = row.positions
    assert first < middle < last
    assert row.input_ids[first] == row.input_ids[last]


def test_the_unknown_token_stands_for_a_control_character(bert: PreTrainedTokenizerBase) -> None:
    ((row,),) = WordEncoder(bert, 32, overlap=0).rows([["a", "\u200b", "a"]])
    assert row.input_ids[row.positions[1]] == bert.unk_token_id


def test_a_word_longer_than_a_row_keeps_its_beginning(tokenizer: PreTrainedTokenizerBase) -> None:
    long = "unbelievable" * 5
    ((whole,),) = WordEncoder(tokenizer, None, overlap=0).rows([[long]])
    (rows,) = WordEncoder(tokenizer, 8, overlap=2).rows([["a", long, "a"]])
    assert [number for row in rows for number in row.word_numbers] == [0, 1, 2]
    (row,) = (row for row in rows if 1 in row.word_numbers)
    assert len(row.input_ids) == 8
    position = row.positions[row.word_numbers.index(1)]
    num_after = tokenizer.num_special_tokens_to_add() - whole.positions[0]
    pieces = row.input_ids[position : len(row.input_ids) - num_after]
    assert pieces == whole.input_ids[whole.positions[0] :][: len(pieces)]


def test_a_text_without_words_is_a_row_without_labels(tokenizer: PreTrainedTokenizerBase) -> None:
    ((row,),) = WordEncoder(tokenizer, 8, overlap=2).rows([[]])
    assert row.input_ids
    assert row.positions == row.word_numbers == []
    assert row.token_type_ids is None or len(row.token_type_ids) == len(row.input_ids)


def test_limits_and_padding_left_on_the_tokenizer_do_not_matter(bert: PreTrainedTokenizerBase) -> None:
    expected = WordEncoder(bert, None, overlap=0).rows([WORDS])
    bert(["a", "a a a"], truncation=True, max_length=4, padding=True)
    encoder = WordEncoder(bert, None, overlap=0)
    bert(["a", "a a a"], truncation=True, max_length=4, padding="max_length")
    assert encoder.rows([WORDS]) == expected


def test_a_limit_without_room_for_a_word_is_refused(bert: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"`max_length` is 2, .* Set it to 3 or more"):
        WordEncoder(bert, 2, overlap=0)
    ((row,),) = WordEncoder(bert, 3, overlap=0).rows([["a"]])
    assert isinstance(row, WordRow)
    assert len(row.input_ids) == 3


def test_a_tokenizer_that_is_not_fast_is_refused() -> None:
    class SlowTokenizer:
        is_fast = False
        name_or_path = "some/encoder"

    with pytest.raises(UserError, match=r"'some/encoder' .* is not a fast one"):
        WordEncoder(SlowTokenizer(), 8, overlap=0)  # type: ignore[arg-type]


def test_a_tokenizer_without_a_token_for_a_word_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"b": 0}, [])))
    with pytest.raises(UserError, match=r"gives no token for the word 'a'. Give it an unknown token"):
        WordEncoder(tokenizer, 8, overlap=0)
