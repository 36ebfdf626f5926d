import numpy as np
import pytest
import torch

from mtl_cli.data import EncodedSplit


@pytest.fixture
def texts() -> EncodedSplit:
    """Three rows: 10 11 | 20 21 22 | 30."""
    return EncodedSplit(
        input_ids=np.array([10, 11, 20, 21, 22, 30], dtype=np.int32),
        row_starts=np.array([0, 2, 5, 6]),
        token_type_ids=np.array([0, 1, 0, 0, 1, 0], dtype=np.uint8),
        labels=np.array([5, 6, 7]),
        positions=None,
        label_starts=None,
        word_numbers=None,
        example_numbers=np.array([0, 1, 2]),
        num_examples=3,
    )


@pytest.fixture
def words() -> EncodedSplit:
    """Example 0 in two rows (words 0 and 1; word 2), example 1 in one (word 0, of two tokens)."""
    return EncodedSplit(
        input_ids=np.array([1, 10, 11, 2, 1, 11, 12, 2, 1, 20, 21, 2], dtype=np.int32),
        row_starts=np.array([0, 4, 8, 12]),
        token_type_ids=None,
        labels=np.array([0, 1, 2, 3]),
        positions=np.array([1, 2, 2, 1], dtype=np.int32),
        label_starts=np.array([0, 2, 3, 4]),
        word_numbers=np.array([0, 1, 2, 0], dtype=np.int32),
        example_numbers=np.array([0, 0, 1]),
        num_examples=2,
    )


def test_a_batch_holds_the_rows_in_the_order_asked_for(texts):
    batch = texts.batch(np.array([2, 0]))
    assert batch.input_ids_N.tolist() == [30, 10, 11]
    assert batch.lengths_B.tolist() == [1, 2]
    assert batch.token_type_ids_N.tolist() == [0, 0, 1]
    assert batch.labels_M.tolist() == [7, 5]
    assert batch.positions_M is None
    assert batch.rows_B.tolist() == [2, 0]
    assert (batch.num_rows, batch.num_tokens) == (2, 3)
    assert {batch.input_ids_N.dtype, batch.lengths_B.dtype, batch.token_type_ids_N.dtype} == {torch.int64}


def test_positions_of_words_point_into_the_tokens_of_the_batch(words):
    batch = words.batch(np.array([2, 0, 1]))
    # Tokens: 1 20 21 2 | 1 10 11 2 | 1 11 12 2. Words: 20 of row 2, then 10 and 11 of row 0, then 12 of row 1.
    assert batch.input_ids_N[batch.positions_M].tolist() == [20, 10, 11, 12]
    assert batch.labels_M.tolist() == [3, 0, 1, 2]
    assert words.label_slots(np.array([2, 0, 1])).tolist() == [3, 0, 1, 2]


def test_an_unlabelled_split_still_knows_its_words(words):
    unlabelled = EncodedSplit(**{**vars(words), "labels": None})
    batch = unlabelled.batch(np.array([1]))
    assert batch.labels_M is None
    assert batch.positions_M.tolist() == [2]


def test_a_batch_does_not_share_memory_with_the_split(texts):
    batch = texts.batch(np.array([0, 1, 2]))
    batch.labels_M[0] = 99
    batch.input_ids_N[0] = 99
    assert texts.labels[0] == 5
    assert texts.input_ids[0] == 10


def test_the_empty_batch_is_empty(texts, words):
    for split in (texts, words):
        batch = split.batch(np.array([], dtype=np.int64))
        assert (batch.num_rows, batch.num_tokens) == (0, 0)


def test_lengths_count_tokens_a_row(texts):
    assert texts.lengths.tolist() == [2, 3, 1]
    assert len(texts) == 3


def test_selecting_examples_keeps_all_their_rows_and_numbers_them_anew(words, texts):
    first = words.select(np.array([0]))
    assert first.input_ids.tolist() == [1, 10, 11, 2, 1, 11, 12, 2]
    assert first.example_numbers.tolist() == [0, 0]
    assert first.labels.tolist() == [0, 1, 2]
    second = words.select(np.array([1]))
    assert second.row_starts.tolist() == [0, 4]
    assert second.label_starts.tolist() == [0, 1]
    assert second.word_numbers.tolist() == [0]
    assert (second.example_numbers.tolist(), second.num_examples) == ([0], 1)
    chosen = texts.select(np.array([0, 2]))
    assert chosen.input_ids.tolist() == [10, 11, 30]
    assert chosen.token_type_ids.tolist() == [0, 1, 0]
    assert chosen.labels.tolist() == [5, 7]


def test_batches_of_a_selection_equal_those_of_the_whole(words):
    whole, part = words.batch(np.array([2])), words.select(np.array([1])).batch(np.array([0]))
    assert torch.equal(whole.input_ids_N, part.input_ids_N)
    assert torch.equal(whole.positions_M, part.positions_M)
    assert torch.equal(whole.labels_M, part.labels_M)
