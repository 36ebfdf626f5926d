from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from mtl_cli.sampling import (
    AllTasks,
    Annealed,
    Proportional,
    RoundRobin,
    RowStream,
    Sampler,
    StepStream,
    Temperature,
    Uniform,
    count_steps_per_epoch,
)
from mtl_cli.types import UserError

FAMILY = [Proportional, Uniform, Temperature, Annealed]
MAKE: list[Callable[..., Sampler]] = [
    AllTasks,
    RoundRobin,
    *[lambda kind=kind, **settings: kind(mixed=True, **settings) for kind in FAMILY],
    *[lambda kind=kind, **settings: kind(mixed=False, **settings) for kind in FAMILY],
]
NAMES = ["all", "round", *[f"{kind.__name__}-mixed" for kind in FAMILY], *[f"{kind.__name__}-drawn" for kind in FAMILY]]
every_sampler = pytest.mark.parametrize("make", MAKE, ids=NAMES)
LIMITS = [None, 120]


@every_sampler
@pytest.mark.parametrize("max_tokens", LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_each_task_come_exactly_once_a_pass(make_splits, make, max_tokens, seed):
    sizes = np.random.default_rng(seed).integers(1, 90, 3).tolist()
    splits = make_splits(seed, **dict(zip("abc", sizes, strict=True)))
    stream = StepStream(make(batch_size=7, max_tokens=max_tokens), splits, seed=seed, total_steps=60)
    seen: dict[str, list[int]] = {task: [] for task in splits}
    for step in range(60):
        for task, rows in stream.next_step(step).items():
            seen[task] += rows.tolist()
            assert max_tokens is None or splits[task].lengths[rows].sum() <= max_tokens
    for task, split in splits.items():
        assert stream.passes[task] == pytest.approx(len(seen[task]) / len(split))
        for start in range(0, len(seen[task]), len(split)):
            rows = seen[task][start : start + len(split)]
            assert len(set(rows)) == len(rows)


@every_sampler
@pytest.mark.parametrize("max_tokens", LIMITS)
def test_a_stream_resumed_at_any_step_equals_one_that_was_not_stopped(make_splits, make, max_tokens):
    splits = make_splits(a=50, b=9, c=23)
    sampler = make(batch_size=6, max_tokens=max_tokens)
    whole = StepStream(sampler, splits, seed=3, total_steps=40)
    states, steps = [], []
    for step in range(40):
        states.append(json.dumps(whole.state_dict()))
        steps.append(whole.next_step(step))
    for start in range(0, 40, 3):
        resumed = StepStream(sampler, splits, seed=3, total_steps=40)
        resumed.load_state_dict(json.loads(states[start]))
        assert resumed.step == start
        for step in range(start, min(start + 8, 40)):
            rows = resumed.next_step(step)
            assert list(rows) == list(steps[step])
            assert all(np.array_equal(rows[task], steps[step][task]) for task in rows)


@every_sampler
@pytest.mark.parametrize("max_tokens", LIMITS)
def test_one_task_is_plain_training_whichever_sampler(make_splits, make, max_tokens):
    splits = make_splits(a=75)
    plain = RowStream(splits["a"].lengths, task="a", seed=5, batch_size=8, max_tokens=max_tokens)
    sampler = make(batch_size=8, max_tokens=max_tokens)
    assert count_steps_per_epoch(sampler, splits, seed=5) == plain.batches_in_pass
    stream = StepStream(sampler, splits, seed=5, total_steps=30)
    for step in range(30):
        rows = stream.next_step(step)
        assert list(rows) == ["a"]
        assert np.array_equal(rows["a"], plain.next_batch())


@every_sampler
def test_another_task_leaves_the_order_of_a_task_s_rows_as_it_is(make_splits, make):
    splits = make_splits(a=40, b=30)
    orders = []
    for tasks in (["a"], ["a", "b"], ["b", "a"]):
        stream = StepStream(make(batch_size=4), {task: splits[task] for task in tasks}, seed=2, total_steps=80)
        rows = [stream.next_step(step).get("a", np.empty(0, dtype=np.int64)) for step in range(80)]
        orders.append(np.concatenate(rows)[:80].tolist())
    assert orders[0] == orders[1] == orders[2]


def test_a_proportional_epoch_sees_each_row_of_each_task_once(make_splits):
    splits = make_splits(a=101, b=7, c=40)
    stream = StepStream(Proportional(batch_size=16), splits, seed=1, total_steps=30)
    for epoch in range(3):
        steps = [stream.next_step(step) for step in range(10 * epoch, 10 * epoch + 10)]  # 148 rows / 16 = 9.25 -> 10
        for task, split in splits.items():
            rows = np.concatenate([step[task] for step in steps if task in step])
            assert sorted(rows.tolist()) == list(range(len(split)))


@pytest.mark.parametrize("epoch", ["largest", "smallest"])
def test_an_epoch_of_all_tasks_is_a_pass_over_the_largest_or_smallest_task_also_with_limited_tokens(make_splits, epoch):
    splits = make_splits(a=101, b=33)
    sampler = AllTasks(batch_size=8, max_tokens=150, epoch=epoch)
    num_steps = count_steps_per_epoch(sampler, splits, seed=1)
    stream = StepStream(sampler, splits, seed=1, total_steps=num_steps)
    for step in range(num_steps):
        assert list(stream.next_step(step)) == ["a", "b"]
    task = {"largest": "a", "smallest": "b"}[epoch]
    assert stream.passes[task] == 1
    assert num_steps > sampler.steps_per_epoch({"a": 101, "b": 33})  # what it would be without the limit


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("kind", FAMILY)
def test_with_limited_tokens_an_epoch_still_sees_about_as_many_rows_as_there_are(make_splits, kind, mixed):
    splits = make_splits(a=1500, b=400, c=700)
    sampler = kind(batch_size=32, max_tokens=250, mixed=mixed)
    num_steps = count_steps_per_epoch(sampler, splits, seed=1)
    stream = StepStream(sampler, splits, seed=1, total_steps=num_steps)
    num_rows = sum(len(rows) for step in range(num_steps) for rows in stream.next_step(step).values())
    assert num_rows == pytest.approx(2600, rel=0.1)


def test_limited_tokens_keep_the_shares_of_mixed_steps(make_splits):
    splits = {**make_splits(a=900), **make_splits(seed=1, b=900)}
    stream = StepStream(Uniform(batch_size=40, max_tokens=200), splits, seed=1, total_steps=300)
    counts = {"a": 0, "b": 0}
    for step in range(300):
        for task, rows in stream.next_step(step).items():
            counts[task] += len(rows)
    assert counts["a"] == pytest.approx(counts["b"], rel=0.02)


def test_a_small_task_fills_its_share_from_several_passes(make_splits):
    stream = StepStream(Uniform(batch_size=32), make_splits(a=1000, b=3), seed=1, total_steps=20)
    for step in range(20):
        assert {task: len(rows) for task, rows in stream.next_step(step).items()} == {"a": 16, "b": 16}


def test_the_seed_decides_every_step(make_splits):
    splits = make_splits(a=60, b=60)

    def steps(seed: int) -> list[list[int]]:
        stream = StepStream(Uniform(mixed=False), splits, seed=seed, total_steps=10)
        return [rows.tolist() for step in range(10) for rows in stream.next_step(step).values()]

    assert steps(1) == steps(1)
    assert steps(1) != steps(2)


def test_the_annealed_sampler_is_proportional_at_the_first_step_and_at_its_end_at_the_last(make_splits):
    splits = make_splits(a=96, b=32)
    stream = StepStream(Annealed(batch_size=64, final_exponent=0), splits, seed=1, total_steps=50)
    sizes = [{task: len(rows) for task, rows in stream.next_step(step).items()} for step in range(49)]
    assert sizes[0] == {"a": 48, "b": 16}
    last = stream.next_step(49)
    assert len(last["b"]) == pytest.approx(32, abs=1)


@pytest.mark.parametrize(("total_steps", "expected"), [(5, [0, 0.25, 0.5, 0.75, 1, 1]), (1, [0, 1])])
def test_progress_is_0_at_the_first_step_and_1_at_the_last_and_after(make_splits, total_steps, expected):
    seen = []

    class Watched(Uniform):
        def probabilities(self, sizes, progress):
            seen.append(progress)
            return super().probabilities(sizes, progress)

    stream = StepStream(Watched(mixed=False), make_splits(a=9, b=9), seed=1, total_steps=total_steps)
    for step in range(len(expected)):
        stream.next_step(step)
    assert seen == expected


def test_collate_gives_the_batch_of_each_task(make_splits):
    splits = make_splits(a=20, b=20)
    stream = StepStream(AllTasks(batch_size=4), splits, seed=1, total_steps=5)
    rows = stream.next_step(0)
    batches = stream.collate(rows)
    assert list(batches) == ["a", "b"]
    for task, batch in batches.items():
        assert batch.rows_B.tolist() == rows[task].tolist()
        assert batch.lengths_B.tolist() == splits[task].lengths[rows[task]].tolist()
        assert batch.input_ids_N.unique().tolist() == sorted(rows[task].tolist())  # each token is the number of its row


def test_steps_out_of_turn_are_a_fault_of_the_caller(make_splits):
    stream = StepStream(AllTasks(), make_splits(a=20), seed=1, total_steps=5)
    with pytest.raises(AssertionError, match="step 3 was asked for, but step 0 comes next"):
        stream.next_step(3)


def test_a_checkpoint_of_other_tasks_is_refused_with_their_names(make_splits):
    splits = make_splits(a=20, b=20, c=20)
    state = StepStream(AllTasks(), {"a": splits["a"], "b": splits["b"]}, seed=1, total_steps=5).state_dict()
    stream = StepStream(AllTasks(), {"a": splits["a"], "c": splits["c"]}, seed=1, total_steps=5)
    with pytest.raises(UserError, match=r"not in the checkpoint: c; only in the checkpoint: b"):
        stream.load_state_dict(state)


@pytest.mark.parametrize(
    ("sampler", "seed", "message"),
    [
        (Uniform(batch_size=8), 1, r"sampler\.batch_size = 8, in the checkpoint 32"),
        (Uniform(), 2, r"seed = 2, in the checkpoint 1"),
        (Proportional(), 1, r"sampler = 'Proportional', in the checkpoint 'Uniform'"),
        (Temperature(), 1, r"sampler\.temperature = 5\.0, in the checkpoint None"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(make_splits, sampler, seed, message):
    splits = make_splits(a=20, b=20)
    state = StepStream(Uniform(), splits, seed=1, total_steps=5).state_dict()
    with pytest.raises(UserError, match=message):
        StepStream(sampler, splits, seed=seed, total_steps=5).load_state_dict(state)


def test_a_longer_run_continues_from_a_checkpoint_of_a_shorter_one(make_splits):
    splits = make_splits(a=20, b=20)
    short = StepStream(Uniform(), splits, seed=1, total_steps=5)
    for step in range(5):
        short.next_step(step)
    longer = StepStream(Uniform(), splits, seed=1, total_steps=10)
    longer.load_state_dict(short.state_dict())
    assert longer.next_step(5)
