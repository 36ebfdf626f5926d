from __future__ import annotations

import numpy as np
import pytest

from mtl_cli.sampling import split_step


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
