from __future__ import annotations

import json

import numpy as np
import pytest

from mtl_cli.sampling import Annealed, ProbabilitySampler, Proportional, Temperature, Uniform


def random_sizes(seed: int) -> dict[str, int]:
    generator = np.random.default_rng(seed)
    num_tasks = int(generator.integers(2, 40))
    sizes = np.exp(generator.uniform(0, np.log(5000), num_tasks)).astype(int)
    return {f"task{index}": int(size) for index, size in enumerate(sizes)}


def run(sampler: ProbabilitySampler, sizes: dict[str, int], num_steps: int) -> np.ndarray:
    """Rows of each step and task, shape (steps, tasks)."""
    plan = sampler.plan(sizes, seed=0)
    counts = []
    for step in range(num_steps):
        taken = plan.next(step, step / max(num_steps - 1, 1))
        plan.record(taken)
        counts.append([taken.get(task, 0) for task in sizes])
    return np.array(counts)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sampler", [Proportional, Uniform, Temperature])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_no_task_is_ever_a_whole_row_away_from_its_share(sampler, seed, batch_size):
    sizes = random_sizes(seed)
    counts = run(sampler(batch_size=batch_size), sizes, num_steps=200)
    shares = np.array(list(sampler().probabilities(sizes, 0.0).values()))
    rows = counts.sum(axis=1).cumsum()
    drift = counts.cumsum(axis=0) - rows[:, None] * shares
    assert np.abs(drift).max() < 1


def test_no_drift_where_giving_each_row_to_the_largest_credit_would_be_a_row_off():
    sizes = dict(zip("abcdefghijk", [14, 2, 2, 3, 3, 4, 4, 4, 145, 2, 249], strict=True))
    shares = np.array(list(sizes.values())) / 432
    credits_K, largest = np.zeros(11), 0.0
    for _ in range(300):
        credits_K += shares
        credits_K[credits_K.argmax()] -= 1
        largest = max(largest, np.abs(credits_K).max())
    assert largest > 1.08
    drift = run(Proportional(batch_size=1), sizes, 300).cumsum(axis=0) - np.arange(1, 301)[:, None] * shares
    assert np.abs(drift).max() < 1


def test_a_share_of_zero_gets_no_row():
    counts = run(Temperature(temperature=1e-3), {"a": 10, "b": 1000}, 50)  # 0.01 ** 1000 = 0 in floating point
    assert counts.sum(axis=0)[0] == 0


@pytest.mark.parametrize("seed", range(8))
def test_annealed_shares_are_kept_to_a_row(seed):
    sizes = random_sizes(seed)
    sampler = Annealed(batch_size=16)
    counts = run(sampler, sizes, num_steps=300)
    shares = np.array([list(sampler.probabilities(sizes, step / 299).values()) for step in range(300)])
    drift = (counts - counts.sum(axis=1, keepdims=True) * shares).cumsum(axis=0)
    assert np.abs(drift).max() < 1  # proved for shares that stay; seen for slowly falling ones


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("batch_size", [1, 7, 32, 10**6])
def test_a_proportional_epoch_holds_each_task_s_rows_exactly(seed, batch_size):
    sizes = {task: size % 200 + 1 for task, size in random_sizes(seed).items()}
    sampler = Proportional(batch_size=batch_size)
    num_steps = sampler.steps_per_epoch(sizes)
    counts = run(sampler, sizes, num_steps=3 * num_steps)
    for epoch in np.split(counts, 3):
        assert epoch.sum(axis=0).tolist() == list(sizes.values())


@pytest.mark.parametrize("sampler", [Uniform, Temperature, Annealed])
def test_an_epoch_of_any_shares_holds_as_many_rows_as_the_tasks_together(sampler):
    sizes = random_sizes(3)
    num_steps = sampler().steps_per_epoch(sizes)
    counts = run(sampler(), sizes, num_steps)
    assert counts.sum() == sum(sizes.values())
    assert set(counts[:-1].sum(axis=1)) == {32}


def test_the_order_of_tasks_does_not_matter():
    sizes = {"b": 100, "c": 100, "a": 100, "d": 37}
    backwards = dict(reversed(sizes.items()))
    assert np.array_equal(run(Uniform(batch_size=5), sizes, 50), run(Uniform(batch_size=5), backwards, 50)[:, ::-1])


def test_a_task_that_gets_fewer_rows_than_asked_for_keeps_its_share_in_smaller_steps():
    # Task a can give 4 rows a step only; half of all rows are due to it, so that steps settle at 4 + 4 rows.
    plan = Uniform(batch_size=16).plan({"a": 10_000, "b": 10_000}, seed=0)
    totals, sizes = {"a": 0, "b": 0}, []
    for step in range(200):
        counts = plan.next(step, 0.0)
        taken = {task: min(count, 4) if task == "a" else count for task, count in counts.items()}
        plan.record(taken)
        sizes.append(taken)
        totals = {task: totals[task] + taken.get(task, 0) for task in totals}
    assert sizes[-1] == {"a": 4, "b": 4}
    assert abs(totals["a"] - totals["b"]) <= 8


def test_a_plan_resumed_at_any_step_equals_one_that_was_not_stopped():
    sizes = random_sizes(5)
    plan = Annealed(batch_size=9).plan(sizes, seed=0)
    for step in range(100):
        resumed = Annealed(batch_size=9).plan(sizes, seed=0)
        resumed.load_state_dict(json.loads(json.dumps(plan.state_dict())))
        counts = plan.next(step, step / 99)
        assert resumed.next(step, step / 99) == counts
        plan.record(counts)
        resumed.record(counts)
        assert resumed.state_dict() == plan.state_dict()
