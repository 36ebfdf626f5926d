"""Rows of texts against what transformers makes of one text at a time."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from mtl_cli.tasks.encode_texts import encode_texts, filler_token
from mtl_cli.types import UserError

FIRST = ["the harbour master praised a bridge", "a ferry", "Marta opened a bakery near the old town hall"]
SECOND = ["nobody complained", "unbelievable weather delayed every ferry over the northern canal", "a bakery"]


def test_single_texts_follow_the_template_of_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = encode_texts(FIRST, None, tokenizer, max_length=None)
    assert rows["input_ids"] == [tokenizer(text)["input_ids"] for text in FIRST]
    assert ("token_type_ids" in rows) == ("token_type_ids" in tokenizer.model_input_names)


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_pairs_follow_the_template_of_the_tokenizer(family: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(family)
    rows = encode_texts(FIRST, SECOND, tokenizer, max_length=None)
    for row, (first, second) in enumerate(zip(FIRST, SECOND, strict=True)):
        expected = tokenizer(first, second)
        for key in rows:
            assert rows[key][row] == expected[key]


def test_the_second_text_of_a_pair_has_its_own_segment(bert: PreTrainedTokenizerBase) -> None:
    rows = encode_texts(["a ferry"], ["a bakery"], bert, max_length=None)
    num_first = 2 + len(bert.tokenize("a ferry"))  # with [CLS] and the first [SEP]
    num_second = 1 + len(bert.tokenize("a bakery"))
    assert rows["token_type_ids"] == [[0] * num_first + [1] * num_second]


def test_a_tokenizer_without_a_template_gets_a_separator_between_texts(gpt2: PreTrainedTokenizerBase) -> None:
    for max_length in (None, 12):
        rows = encode_texts(FIRST, SECOND, gpt2, max_length)
        for row in rows["input_ids"]:
            assert row.count(gpt2.eos_token_id) == 1
            assert 0 < row.index(gpt2.eos_token_id) < len(row) - 1
    uncut = encode_texts(["a ferry"], ["a bakery"], gpt2, max_length=None)["input_ids"][0]
    assert gpt2.decode(uncut) == "a ferry<|endoftext|>a bakery"


@pytest.mark.parametrize("max_length", [6, 9, 15])
def test_rows_are_cut_at_the_limit_and_never_padded(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    long = [f"{first} {second}" for first, second in zip(FIRST, SECOND, strict=True)]
    for pairs in (None, SECOND):
        rows = encode_texts(long, pairs, tokenizer, max_length)["input_ids"]
        assert [len(row) for row in rows] == [max_length] * 3
        short = encode_texts(["a", "a"], None if pairs is None else ["a", "a"], tokenizer, 15)["input_ids"]
        assert tokenizer.pad_token_id is None or tokenizer.pad_token_id not in short[0]
        assert short[0] == short[1]


def test_the_longer_text_of_a_pair_is_cut_first(bert: PreTrainedTokenizerBase) -> None:
    row = encode_texts([FIRST[0]], ["a ferry"], bert, max_length=12)["input_ids"][0]
    assert bert.decode(row[-len(bert.tokenize("a ferry")) - 1 : -1]) == "a ferry"


def test_a_limit_left_by_an_earlier_call_is_gone(tokenizer: PreTrainedTokenizerBase) -> None:
    expected = encode_texts(FIRST, None, tokenizer, max_length=None)
    encode_texts(FIRST, None, tokenizer, max_length=4)
    assert encode_texts(FIRST, None, tokenizer, max_length=None) == expected


def test_a_text_without_tokens_still_is_a_row(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = encode_texts(["", "a"], None, tokenizer, max_length=8)
    assert all(len(row) > 0 for row in rows["input_ids"])
    assert [len(row) for row in rows.get("token_type_ids", rows["input_ids"])] == [
        len(row) for row in rows["input_ids"]
    ]


def test_an_empty_text_of_gpt2_is_an_end_of_text_token(gpt2: PreTrainedTokenizerBase) -> None:
    assert encode_texts([""], None, gpt2, max_length=8)["input_ids"] == [[gpt2.eos_token_id]]
    assert filler_token(gpt2) == gpt2.eos_token_id


@pytest.mark.parametrize(("pairs", "max_length", "needed"), [(None, 2, 3), (["a"], 4, 5)])
def test_a_limit_without_room_for_text_is_refused(
    bert: PreTrainedTokenizerBase, pairs: list[str] | None, max_length: int, needed: int
) -> None:
    with pytest.raises(UserError, match=f"`max_length` is {max_length}, .* Set it to {needed} or more"):
        encode_texts(["a"], pairs, bert, max_length)
    assert len(encode_texts(["a"], pairs, bert, needed)["input_ids"][0]) == needed
