"""The budget: how long runs must be so that each task's rows are seen as often alone as together."""

import numpy as np
import pytest
from made_up_study import split_of_rows

from mtl_cli.sampling import AllTasks, Annealed, Proportional, RoundRobin, StepStream, Temperature, Uniform
from mtl_cli.studies.lengths import (
    fitting,
    limited,
    matched_length,
    reference_run,
    steps_for_rows,
    stretched,
)
from mtl_cli.training import Trainer
from mtl_cli.training.length import RunLength

SIZES = {"a": 300, "b": 70, "c": 33}


def split_of(num_rows, seed=0):
    return split_of_rows(np.random.default_rng(seed).integers(4, 30, num_rows))


SPLITS = {task: split_of(size, place) for place, (task, size) in enumerate(SIZES.items())}
WHOLE_BATCHES = {
    "all_tasks": AllTasks(batch_size=8),
    "all_tasks, smallest": AllTasks(batch_size=8, epoch="smallest"),
    "all_tasks, sizes": AllTasks(batch_size={"a": 8, "b": 4, "c": 2}),
    "all_tasks, tokens": AllTasks(batch_size=8, max_tokens=90),
    "round_robin": RoundRobin(batch_size=8),
    "proportional, one task a step": Proportional(batch_size=8, mixed=False),
    "uniform, one task a step": Uniform(batch_size=8, mixed=False),
}
MIXED = {
    "proportional": Proportional(batch_size=8),
    "uniform": Uniform(batch_size=8),
    "temperature": Temperature(batch_size=8, temperature=3.0),
    "annealed": Annealed(batch_size=8),
}


def rows_of(sampler, splits, length, seed=1):
    """The rows that a run of these tasks takes, one after the other, by task."""
    stream = StepStream(fitting(sampler, splits), splits, seed=seed, total_steps=length.total_steps)
    taken = {task: [] for task in splits}
    for step in range(length.total_steps):
        for task, rows in stream.next_step(step).items():
            taken[task].extend(rows.tolist())
    return taken


@pytest.mark.parametrize("name", WHOLE_BATCHES)
@pytest.mark.parametrize("task", SIZES)
def test_where_steps_hold_whole_batches_a_task_sees_the_very_same_rows_alone(name, task):
    sampler = WHOLE_BATCHES[name]
    reference = reference_run(Trainer(epochs=2.0), sampler, SPLITS, seed=1)
    together = rows_of(sampler, SPLITS, reference.length)
    alone = {task: SPLITS[task]}
    length = matched_length(reference, sampler, alone, 1, "epochs")
    assert rows_of(sampler, alone, length)[task] == together[task]
    assert reference.rows[task] == len(together[task])


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("task", SIZES)
def test_where_tasks_share_steps_a_task_sees_as_many_rows_alone_to_within_a_batch(name, task):
    sampler = MIXED[name]
    reference = reference_run(Trainer(epochs=2.0), sampler, SPLITS, seed=1)
    alone = {task: SPLITS[task]}
    length = matched_length(reference, sampler, alone, 1, "epochs")
    assert abs(len(rows_of(sampler, alone, length)[task]) - reference.rows[task]) <= sampler.batch_size / 2 + 1


@pytest.mark.parametrize("name", sorted({*WHOLE_BATCHES, *MIXED} - {"annealed", "proportional, one task a step"}))
def test_in_a_pair_both_tasks_are_seen_as_often_as_among_all(name):
    sampler = {**WHOLE_BATCHES, **MIXED}[name]
    reference = reference_run(Trainer(epochs=2.0), sampler, SPLITS, seed=1)
    pair = {task: SPLITS[task] for task in ("a", "c")}
    length = matched_length(reference, sampler, pair, 1, "epochs")
    taken = rows_of(sampler, pair, length)
    slack = 16 if "one task" in name else 9  # which task a step holds is drawn anew
    for task in pair:
        assert abs(len(taken[task]) - reference.rows[task]) <= max(slack, 0.1 * reference.rows[task])


def test_proportional_sampling_alone_is_as_many_epochs_as_together():
    # 403 rows in steps of 8: 51 steps an epoch. Alone, 300 rows are 38 steps of 8 (the last one of 4).
    sampler = Proportional(batch_size=8)
    reference = reference_run(Trainer(epochs=2.0), sampler, SPLITS, seed=1)
    assert reference.length == RunLength(51, 102)
    assert reference.rows == {task: 2 * size for task, size in SIZES.items()}
    assert matched_length(reference, sampler, {"a": SPLITS["a"]}, 1, "epochs") == RunLength(38, 76)


def test_by_steps_every_run_has_the_updates_of_the_joint_run():
    sampler = Proportional(batch_size=8)
    reference = reference_run(Trainer(epochs=2.0), sampler, SPLITS, seed=1)
    assert matched_length(reference, sampler, {"c": SPLITS["c"]}, 1, "steps") == reference.length


def test_another_sampler_gets_as_many_rows_in_total():
    reference = reference_run(Trainer(epochs=2.0), AllTasks(batch_size=8), SPLITS, seed=1)
    other = Proportional(batch_size=8)
    length = matched_length(reference, other, SPLITS, 1, "epochs")
    total = sum(map(len, rows_of(other, SPLITS, length).values()))
    assert abs(total - sum(reference.rows.values())) <= 8


def test_the_number_of_evaluations_stays():
    # 2.5 epochs: evaluated after 1, 2 and at the end, alone as together
    sampler = AllTasks(batch_size=8)
    reference = reference_run(Trainer(epochs=2.5), sampler, SPLITS, seed=1)
    length = matched_length(reference, sampler, {"c": SPLITS["c"]}, 1, "epochs")
    assert -(-length.total_steps // length.steps_per_epoch) == 3


def test_a_run_is_stretched_to_the_least_steps_with_its_epochs():
    assert stretched(RunLength(4, 12), 100) == RunLength(34, 100)
    assert stretched(RunLength(4, 120), 100) == RunLength(4, 120)
    few = limited(SPLITS, {"c": 8})
    assert {task: split.num_examples for task, split in few.items()} == {"a": 300, "b": 70, "c": 8}
    assert limited(SPLITS, {"c": 1000})["c"].num_examples == 33


def test_steps_for_rows_go_to_the_nearest_step():
    sampler, alone = AllTasks(batch_size=10), {"a": SPLITS["a"]}
    assert [steps_for_rows(sampler, alone, 1, rows) for rows in (1, 10, 14, 16, 20, 304)] == [1, 1, 1, 2, 2, 30]
