from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from mtl_cli.sampling import AllTasks, Annealed, ProbabilitySampler, Proportional, RoundRobin, Temperature, Uniform
from mtl_cli.types import UserError

SIZES = {"large": 800, "small": 100, "middle": 400}
FAMILY = [Proportional, Uniform, Temperature, Annealed]


def test_proportional_and_uniform_probabilities():
    assert Proportional().probabilities(SIZES, 0.3) == pytest.approx(
        {"large": 8 / 13, "small": 1 / 13, "middle": 4 / 13}
    )
    assert Uniform().probabilities(SIZES, 0.3) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))


def test_temperature_takes_the_root_of_the_capped_sizes():
    # min(900, 400) ** (1/2) = 20 and 100 ** (1/2) = 10
    sampler = Temperature(temperature=2, max_size=400)
    assert sampler.probabilities({"a": 900, "b": 100}, 0.0) == pytest.approx({"a": 2 / 3, "b": 1 / 3})


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_temperature_of_one_is_proportional_and_a_very_large_one_uniform(progress):
    proportional, uniform = Proportional().probabilities(SIZES, 0), Uniform().probabilities(SIZES, 0)
    assert Temperature(temperature=1).probabilities(SIZES, progress) == pytest.approx(proportional)
    assert Temperature(temperature=1e9).probabilities(SIZES, progress) == pytest.approx(uniform)


def test_probabilities_stay_finite_for_extreme_settings():
    assert Temperature(temperature=1e-3).probabilities(SIZES, 0) == pytest.approx({"large": 1, "small": 0, "middle": 0})
    assert sum(Temperature().probabilities({"a": 1, "b": 10**12}, 0).values()) == pytest.approx(1)


def test_annealed_goes_from_proportional_to_its_final_exponent():
    annealed = Annealed(final_exponent=0.2)
    assert annealed.probabilities(SIZES, 0.0) == pytest.approx(Proportional().probabilities(SIZES, 0))
    assert annealed.probabilities(SIZES, 1.0) == pytest.approx(Temperature(temperature=5).probabilities(SIZES, 0))
    assert Annealed(final_exponent=0).probabilities(SIZES, 1.0) == pytest.approx(Uniform().probabilities(SIZES, 0))
    # Epoch 3 of 5 in the paper: alpha = 1 - 0.8 (3 - 1) / (5 - 1) = 0.6
    powers = {task: size**0.6 for task, size in SIZES.items()}
    expected = {task: power / sum(powers.values()) for task, power in powers.items()}
    assert annealed.probabilities(SIZES, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("kind", FAMILY)
def test_tasks_are_drawn_with_their_probabilities(kind):
    sampler = kind(mixed=False)
    plan = sampler.plan(SIZES, seed=1)
    draws = [plan.next(step, progress=0.5) for step in range(4000)]
    assert all(list(draw.values()) == [32] for draw in draws)
    counts = [sum(task in draw for draw in draws) for task in SIZES]
    expected = [4000 * p for p in sampler.probabilities(SIZES, 0.5).values()]
    assert chisquare(counts, expected).pvalue > 0.01


def test_draws_follow_the_progress_of_an_annealed_sampler():
    plan = Annealed(mixed=False, final_exponent=0).plan({"a": 999, "b": 1}, seed=1)
    early = sum("b" in plan.next(step, 0.0) for step in range(1000))  # p = 0.001
    late = sum("b" in plan.next(step, 1.0) for step in range(1000))  # p = 0.5
    assert early < 10
    assert 440 < late < 560  # standard deviation sqrt(1000 / 4) = 16


def test_draws_depend_on_the_seed_but_not_on_the_order_of_tasks():
    backwards = dict(reversed(SIZES.items()))

    def draws(sizes: dict[str, int], seed: int) -> list[str]:
        plan = Uniform(mixed=False).plan(sizes, seed)
        return [next(iter(plan.next(step, 0.0))) for step in range(50)]

    assert draws(SIZES, 1) == draws(backwards, 1)
    assert draws(SIZES, 1) != draws(SIZES, 2)


def test_all_tasks_holds_each_task_in_the_order_of_the_run():
    assert list(AllTasks(batch_size=4).plan(SIZES, 0).next(7, 0.1).items()) == [
        ("large", 4),
        ("small", 4),
        ("middle", 4),
    ]
    own = {"large": 3, "middle": 2, "small": 1}
    assert AllTasks(batch_size=own).plan(SIZES, 0).next(0, 0.0) == own


def test_round_robin_takes_tasks_in_turn():
    plan = RoundRobin(batch_size={"large": 3, "middle": 2, "small": 1}).plan(SIZES, 0)
    turns = [plan.next(step, 0.0) for step in range(4)]
    assert turns == [{"large": 3}, {"small": 1}, {"middle": 2}, {"large": 3}]


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [("largest", 26), ("smallest", 4), ("mean", 15)],  # batches: 801, 100 and 400 by 32 are 26, 4 and 13; mean 14.3
)
def test_an_epoch_follows_the_largest_smallest_or_mean_task(epoch, expected):
    sizes = {**SIZES, "large": 801}
    assert AllTasks(epoch=epoch).steps_per_epoch(sizes) == expected
    assert RoundRobin(epoch=epoch).steps_per_epoch(sizes) == 3 * expected


def test_an_epoch_counts_the_batches_of_each_task_by_its_own_batch_size():
    own = {"large": 100, "middle": 8, "small": 50}  # 8, 50 and 2 batches
    assert AllTasks(batch_size=own).steps_per_epoch(SIZES) == 50
    assert RoundRobin(batch_size=own, epoch="smallest").steps_per_epoch(SIZES) == 6


@pytest.mark.parametrize("kind", FAMILY)
def test_an_epoch_of_mixed_steps_is_all_rows_by_the_batch_size(kind):
    assert kind().steps_per_epoch(SIZES) == math.ceil(1300 / 32)


def test_an_epoch_of_drawn_steps_sees_as_many_rows_as_there_are_by_expectation():
    # Mean rows of a batch: 800 / 25 = 32, 100 / 4 = 25, 400 / 13 = 30.77; uniform: 29.26 a step, 1300 / 29.26 = 44.4
    assert Uniform(mixed=False).steps_per_epoch(SIZES) == 45
    assert Proportional(mixed=False).steps_per_epoch({"a": 768, "b": 640}) == 44  # 1408 / 32, whatever floats say
    # Proportional: 32 x 8/13 + 25 x 1/13 + 30.77 x 4/13 = 31.08; 1300 / 31.08 = 41.8
    assert Proportional(mixed=False).steps_per_epoch(SIZES) == 42


@pytest.mark.parametrize("kind", [AllTasks, RoundRobin, *FAMILY])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 8001])
def test_an_epoch_of_one_task_is_one_pass(kind, size):
    assert kind().steps_per_epoch({"a": size}) == math.ceil(size / 32)
    if issubclass(kind, ProbabilitySampler):
        assert kind(mixed=False).steps_per_epoch({"a": size}) == math.ceil(size / 32)


def test_samplers_declare_how_many_tasks_a_step_holds():
    assert AllTasks().tasks_per_step == "all"
    assert RoundRobin().tasks_per_step == "one"
    assert {kind(mixed=mixed).tasks_per_step for kind in FAMILY for mixed in [True]} == {"some"}
    assert {kind(mixed=mixed).tasks_per_step for kind in FAMILY for mixed in [False]} == {"one"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AllTasks(batch_size=0), r"sampler\.batch_size = 0: must be a positive whole number"),
        (lambda: RoundRobin(batch_size={"a": 0}), r"sampler\.batch_size\.a = 0"),
        (lambda: Uniform(max_tokens=0), r"sampler\.max_tokens = 0"),
        (lambda: Uniform(bucket_window=-1), r"sampler\.bucket_window = -1"),
        (lambda: Temperature(temperature=0), r"sampler\.temperature = 0: must be above 0"),
        (lambda: Temperature(max_size=0), r"sampler\.max_size = 0"),
        (lambda: Annealed(final_exponent=1.5), r"sampler\.final_exponent = 1\.5: must be from 0 to 1"),
        (lambda: AllTasks(epoch="longest"), r"sampler\.epoch = 'longest': must be largest, smallest or mean"),
        (lambda: RoundRobin(epoch="longest"), r"sampler\.epoch = 'longest'"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("kind", [AllTasks, RoundRobin])
def test_a_batch_size_for_other_tasks_is_refused_with_their_names(kind):
    sampler = kind(batch_size={"large": 8, "smal": 8})
    message = r"no such task: smal; no batch size for: middle, small\. The tasks of this run are large, small, middle"
    for use in (sampler.steps_per_epoch, sampler.batch_sizes, lambda sizes: sampler.plan(sizes, seed=0)):
        with pytest.raises(UserError, match=message):
            use(SIZES)


@pytest.mark.parametrize("kind", [AllTasks, RoundRobin, *FAMILY])
def test_no_task_and_an_empty_task_are_refused(kind):
    with pytest.raises(UserError, match="there is none to sample from"):
        kind().plan({}, seed=0)
    with pytest.raises(UserError, match="tasks without a training row: b"):
        kind().plan({"a": 1, "b": 0}, seed=0)


def test_a_quota_of_zero_leaves_the_task_out():
    # Shares 0.9 and 0.1 of 4 rows: 0.4 rows of b a step, so that b has a row in 4 of 10 steps.
    plan = Proportional(batch_size=4).plan({"a": 90, "b": 10}, seed=0)
    steps = []
    for step in range(10):
        steps.append(plan.next(step, 0.0))
        plan.record(steps[-1])
    assert sum("b" in counts for counts in steps) == 4
    assert {sum(counts.values()) for counts in steps} == {4}
    assert all(np.all(np.array(list(counts.values())) > 0) for counts in steps)
