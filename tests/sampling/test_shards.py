"""Shards of a step: every row once, about as many tokens each, the same on every process."""

from dataclasses import replace

import numpy as np
import pytest

from mtl_cli.sampling import AllTasks, StepStream, assign_rows, shard_step


@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_each_row_is_in_one_shard_and_shards_have_about_as_many_tokens(num_shards, seed):
    generator = np.random.default_rng(seed)
    lengths = {task: generator.integers(3, 60, 90) for task in "abc"}
    rows = {task: generator.permutation(90)[:20] for task in "abc"}
    shards = shard_step(rows, lengths, num_shards)
    for task, of_task in rows.items():
        found = np.concatenate([shard.get(task, of_task[:0]) for shard in shards])
        assert sorted(found) == sorted(of_task)
        for shard in shards:  # in the step's order
            kept = [row for row in of_task if row in shard.get(task, [])]
            assert kept == shard.get(task, of_task[:0]).tolist()
    tokens = [sum(int(lengths[task][mine].sum()) for task, mine in shard.items()) for shard in shards]
    assert max(tokens) - min(tokens) <= 60


def test_fewer_rows_than_shards_leave_some_empty():
    shards = shard_step({"a": np.array([4]), "b": np.array([0])}, {"a": np.full(5, 9), "b": np.full(2, 3)}, 4)
    assert [{task: mine.tolist() for task, mine in shard.items()} for shard in shards] == [
        {"a": [4]},
        {"b": [0]},
        {},
        {},
    ]
    assert assign_rows(np.zeros(0, dtype=np.int64), 3).tolist() == []


def test_long_rows_go_first_to_whoever_has_least():
    # 9 -> 0; 5 -> 1; 4 -> 1 (9 : 9, ties by number of rows); 3 -> 0; 2 -> 1.
    assert assign_rows(np.array([3, 9, 5, 2, 4]), 2).tolist() == [0, 0, 1, 1, 1]


def test_tasks_without_a_valid_label_are_left_out_of_a_step(make_splits):
    splits = make_splits(a=4, b=4)
    splits["b"] = replace(splits["b"], labels=np.array([-100, -100, 1, -100]))
    stream = StepStream(AllTasks(batch_size=2), splits, seed=0, total_steps=1)
    bare, labelled, other = np.array([0, 1]), np.array([1, 2]), np.array([0, 3])
    assert list(stream.labelled([{"a": bare, "b": bare}])[0]) == ["a"]
    assert list(stream.labelled([{"a": bare, "b": labelled}])[0]) == ["a", "b"]
    # A task that one of several batches lacks goes from all.
    parts = [{"a": bare, "b": labelled}, {"a": other, "b": bare}]
    assert [list(part) for part in stream.labelled(parts)] == [["a"], ["a"]]
    # Nothing else to train on: the step stays as it is.
    assert list(stream.labelled([{"b": bare}])[0]) == ["b"]
    # Scores are always labels.
    splits["b"] = replace(splits["b"], labels=np.zeros(4, dtype=np.float32))
    stream = StepStream(AllTasks(batch_size=2), splits, seed=0, total_steps=1)
    assert list(stream.labelled([{"a": bare, "b": bare}])[0]) == ["a", "b"]
