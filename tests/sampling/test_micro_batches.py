from __future__ import annotations

import numpy as np
import pytest

from mtl_cli.sampling import split_by_tokens, split_step


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_spread_evenly_and_each_comes_once_in_order(seed):
    generator = np.random.default_rng(seed)
    rows = {f"t{task}": generator.permutation(100)[: generator.integers(1, 20)] for task in range(4)}
    num_parts = int(generator.integers(1, 9))
    parts = split_step(rows, num_parts)
    for task, task_rows in rows.items():
        assert np.array_equal(np.concatenate([part[task] for part in parts if task in part]), task_rows)
        sizes = [len(part.get(task, ())) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    totals = [sum(len(part_rows) for part_rows in part.values()) for part in parts]
    assert max(totals) - min(totals) <= 1
    assert len(parts) == min(num_parts, sum(len(task_rows) for task_rows in rows.values()))
    assert all(len(part_rows) for part in parts for part_rows in part.values())


def test_remainders_of_later_tasks_go_where_those_of_earlier_tasks_did_not():
    # 3 + 3 rows in 2 parts: 2 + 1 and 1 + 2, not 4 and 2.
    parts = split_step({"a": np.arange(3), "b": np.arange(3)}, 2)
    assert [{task: len(rows) for task, rows in part.items()} for part in parts] == [{"a": 2, "b": 1}, {"a": 1, "b": 2}]


def test_one_micro_batch_is_the_step():
    rows = {"a": np.array([4, 2]), "b": np.array([1])}
    (part,) = split_step(rows, 1)
    assert {task: part_rows.tolist() for task, part_rows in part.items()} == {"a": [4, 2], "b": [1]}


def test_parts_without_a_row_are_left_out():
    assert [part["a"].tolist() for part in split_step({"a": np.arange(3)}, 5)] == [[0], [1], [2]]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_no_micro_batch_has_more_tokens_than_it_may_unless_it_is_one_row(seed, padded):
    generator = np.random.default_rng(seed)
    lengths = {f"t{task}": generator.integers(3, 60, 100) for task in range(4)}
    rows = {task: generator.permutation(100)[: generator.integers(1, 40)] for task in lengths}
    most = int(generator.integers(20, 400))
    parts = split_by_tokens(rows, lengths, most, padded=padded)
    for task, task_rows in rows.items():
        assert np.array_equal(np.sort(np.concatenate([part.get(task, []) for part in parts])), np.sort(task_rows))
        for part in parts:  # in the step's order
            mine = part.get(task, task_rows[:0])
            assert np.array_equal(mine, task_rows[np.isin(task_rows, mine)])
    of_parts = [np.concatenate([lengths[task][mine] for task, mine in part.items()]) for part in parts]
    sizes = [len(tokens) * tokens.max() if padded else tokens.sum() for tokens in of_parts]
    assert all(size <= most or len(tokens) == 1 for size, tokens in zip(sizes, of_parts, strict=True))
    # Two parts that fit into one are not left: half full on average, or more.
    total = sum(min(size, most) for size in sizes)
    assert len(parts) <= 1 + 2 * total / most


# Packed: 1 for the row of 128, and 310 other tokens make 4 of at most 100. Padded: ten rows of 10 are 100, so 1 + 4.
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("long", [128, 1_000_000])
def test_a_row_above_the_bound_leaves_the_others_together(long, padded):
    lengths = {"a": np.array([10] * 7 + [long]), "b": np.array([10] * 24)}
    parts = split_by_tokens({"a": np.arange(8), "b": np.arange(24)}, lengths, 100, padded=padded)
    assert len(parts) == 5
    assert {"a": [7]} in [{task: rows.tolist() for task, rows in part.items()} for part in parts]


def test_rows_near_the_bound_are_joined_by_what_fits_beside_them():
    # 6 rows of 60 and 6 of 40, 100 at once: 60 + 40 six times.
    parts = split_by_tokens({"a": np.arange(12)}, {"a": np.array([60, 40] * 6)}, 100, padded=False)
    assert sorted(part["a"].tolist() for part in parts) == [[row, row + 1] for row in range(0, 12, 2)]


def test_where_rows_are_padded_those_of_like_length_stand_together():
    # 2 of 50 are 100, 5 of 20 are 100; a row of 20 beside one of 50 would count 50.
    lengths = {"a": np.array([50, 20, 20, 50]), "b": np.array([20, 20, 20])}
    parts = split_by_tokens({"a": np.arange(4), "b": np.arange(3)}, lengths, 100, padded=True)
    assert [{task: rows.tolist() for task, rows in part.items()} for part in parts] == [
        {"a": [0, 3]},
        {"a": [1, 2], "b": [0, 1, 2]},
    ]
