from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mtl_cli.sampling import RowStream
from mtl_cli.types import UserError

CASES = [
    # rows, batch_size, max_tokens, bucket_window
    (1, 1, None, 50),
    (1, 8, 4, 3),
    (7, 8, None, 50),
    (64, 8, None, 2),
    (65, 8, None, 0),
    (203, 8, None, 3),
    (203, 8, 150, 3),
    (203, 8, 150, 0),
    (500, 32, 400, 50),
    (500, 1, None, 5),
]


def lengths_of(num_rows: int) -> np.ndarray:
    return np.random.default_rng(num_rows).integers(3, 60, num_rows)


def stream(num_rows: int, batch_size: int = 8, max_tokens: int | None = None, window: int = 3, **changes) -> RowStream:
    settings = {"task": "a", "seed": 1, "batch_size": batch_size, "max_tokens": max_tokens, "bucket_window": window}
    return RowStream(lengths_of(num_rows), **{**settings, **changes})


def one_pass(rows: RowStream) -> list[np.ndarray]:
    return [rows.next_batch() for _ in range(rows.batches_in_pass)]


@pytest.mark.parametrize(("num_rows", "batch_size", "max_tokens", "window"), CASES)
def test_every_pass_holds_each_row_once_within_the_limits(num_rows, batch_size, max_tokens, window):
    rows, lengths = stream(num_rows, batch_size, max_tokens, window), lengths_of(num_rows)
    for number in range(3):
        assert rows.passes == number
        batches = one_pass(rows)
        assert sorted(np.concatenate(batches)) == list(range(num_rows))
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            assert max_tokens is None or lengths[batch].sum() <= max_tokens or len(batch) == 1
        if max_tokens is None:
            assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


@pytest.mark.parametrize("max_tokens", [None, 100])
def test_take_never_crosses_the_end_of_a_pass_whatever_is_asked_for(max_tokens):
    rows, lengths = stream(203, max_tokens=max_tokens), lengths_of(203)
    generator = np.random.default_rng(3)
    for _ in range(3):
        taken: list[int] = []
        while len(taken) < 203:
            num_rows = int(generator.integers(1, 40))
            part = rows.take(num_rows, max_tokens)
            assert 1 <= len(part) <= num_rows
            assert max_tokens is None or len(part) == 1 or lengths[part].sum() <= max_tokens
            taken += part.tolist()
        assert sorted(taken) == list(range(203))


def test_take_stops_before_the_row_that_would_exceed_the_tokens():
    rows = RowStream(np.array([5, 5, 5, 5]), task="a", seed=0, batch_size=4)
    # 14 tokens hold two rows of 5, and so do 10; a limit below one row still gives that row.
    assert [len(rows.take(4, limit)) for limit in (14, 4, 5, 10, 10)] == [2, 1, 1, 2, 2]


def test_fill_goes_on_into_the_next_pass():
    rows, plain = stream(10), stream(10)
    expected = np.concatenate([plain.take(10) for _ in range(5)])
    filled = [rows.fill(24), rows.fill(1), rows.fill(25)]
    assert [len(part) for part in filled] == [24, 1, 25]
    assert np.array_equal(np.concatenate(filled), expected)


def test_fill_keeps_to_the_tokens_across_the_end_of_a_pass():
    rows = RowStream(np.array([5, 5, 5]), task="a", seed=0, batch_size=8, max_tokens=24)
    # 24 tokens: the three rows of the first pass and one of the second; a fifth would make 25.
    assert [len(rows.fill(8)) for _ in range(3)] == [4, 4, 4]


def test_bucketed_batches_hold_rows_of_like_length_and_come_in_random_order():
    plain, bucketed = stream(2000, window=0), stream(2000, window=50)
    lengths = lengths_of(2000)

    def spread(batches: list[np.ndarray]) -> float:
        return float(np.mean([np.ptp(lengths[batch]) for batch in batches]))

    plain_batches, batches = one_pass(plain), one_pass(bucketed)
    assert spread(batches) < spread(plain_batches) / 10  # 8 of 400 sorted rows of 57 lengths: a spread of about 1
    means = np.array([lengths[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_a_batch_limited_by_tokens_does_not_join_the_longest_rows_of_a_window_to_the_shortest_of_the_next():
    rows, lengths = stream(208, max_tokens=150, window=3), lengths_of(208)
    # At most 8 neighbours of 24 sorted rows from 3 to 59 tokens; across two windows they would spread by 50 or more.
    assert max(np.ptp(lengths[batch]) for batch in one_pass(rows)) < 45


def test_rows_left_over_by_full_batches_are_a_random_choice_of_lengths():
    rows, lengths = stream(203), lengths_of(203)
    last = np.concatenate([one_pass(rows)[-1] for _ in range(200)])  # 3 rows a pass
    # The mean of 600 of lengths with standard deviation 16.5 lies within 3 x 16.5 / sqrt(600) = 2.0 of theirs.
    assert abs(lengths[last].mean() - lengths.mean()) < 2.0


def test_each_row_is_equally_likely_in_each_place_without_buckets():
    rows = RowStream(np.full(5, 4), task="a", seed=7, batch_size=5, bucket_window=0)
    counts = np.zeros((5, 5))
    for _ in range(2000):
        counts[rows.take(5), np.arange(5)] += 1
    # 400 expected in each cell, standard deviation sqrt(2000 x 0.2 x 0.8) = 17.9
    assert np.abs(counts - 400).max() < 4 * 17.9


def test_seed_task_and_pass_change_the_order():
    orders = [stream(100).take(100), stream(100, seed=2).take(100), stream(100, task="b").take(100)]
    again = stream(100)
    orders += [again.take(100), again.take(100)]
    assert np.array_equal(orders[0], orders[3])
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(("num_rows", "batch_size", "max_tokens", "window"), CASES)
def test_a_stream_resumed_at_any_place_equals_one_that_was_not_stopped(num_rows, batch_size, max_tokens, window):
    rows = stream(num_rows, batch_size, max_tokens, window)
    for _ in range(min(2 * rows.batches_in_pass + 1, 60)):
        state = json.loads(json.dumps(rows.state_dict()))
        resumed = stream(num_rows, batch_size, max_tokens, window)
        resumed.load_state_dict(state)
        assert resumed.passes == rows.passes
        following = rows.next_batch()
        assert np.array_equal(resumed.next_batch(), following)


def test_another_process_with_another_hash_seed_gives_the_same_order():
    program = (
        "import numpy as np; from mtl_cli.sampling import RowStream\n"
        "lengths = np.random.default_rng(100).integers(3, 60, 100)\n"
        "print(RowStream(lengths, task='a', seed=1, batch_size=8, bucket_window=3).take(100).tolist())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "42"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout) == stream(100).take(100).tolist()


def test_other_data_and_no_data_are_refused():
    with pytest.raises(UserError, match=r"tasks\.a: 99 training rows found, 100 in the checkpoint"):
        stream(99).load_state_dict(stream(100).state_dict())
    with pytest.raises(UserError, match=r"tasks\.a: no training rows"):
        stream(0)
