"""How long each run of a study is, so that tasks are seen as often alone as together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_cli.data import EncodedSplit
from mtl_cli.sampling import Sampler, StepStream
from mtl_cli.training.length import RunLength, run_length
from mtl_cli.training.trainer import Trainer

Splits = Mapping[str, EncodedSplit]
"""The training split of each task."""


@dataclass(frozen=True)
class Reference:
    """The joint run of all tasks, which the other runs of the same data are measured by.

    Attributes:
        length: its steps.
        rows: of each task that its steps hold in total.
    """

    length: RunLength
    rows: dict[str, int]


def reference_run(trainer: Trainer, sampler: Sampler, splits: Splits, seed: int, least_steps: int = 0) -> Reference:
    """Go through the steps of the joint run without a model and count the rows of each task.

    Args:
        trainer: says how long the run is.
        sampler: says what its steps hold.
        splits: of all tasks.
        seed: of the run.
        least_steps: the run is at least so long.
    """
    length = stretched(run_length(trainer, sampler, splits, seed), least_steps)
    stream = StepStream(sampler, splits, seed=seed, total_steps=length.total_steps)
    rows = dict.fromkeys(splits, 0)
    for step in range(length.total_steps):
        for task, taken in stream.next_step(step).items():
            rows[task] += len(taken)
    return Reference(length, rows)


def steps_for_rows(sampler: Sampler, splits: Splits, seed: int, num_rows: int) -> int:
    """Return how many steps hold so many rows in total, to the nearest step; at least 1."""
    sampler = fitting(sampler, splits)
    per_pass = run_length(Trainer(epochs=1.0), sampler, splits, seed).steps_per_epoch
    estimate = max(1, math.ceil(num_rows * per_pass / sum(len(split) for split in splits.values())))
    stream = StepStream(sampler, splits, seed=seed, total_steps=estimate)
    seen, step = 0, 0
    while True:
        taken = sum(map(len, stream.next_step(step).values()))
        if seen + taken / 2 > num_rows and step:  # without this step, it is nearer
            return step
        seen, step = seen + taken, step + 1
        if seen >= num_rows:
            return step


def matched_length(reference: Reference, sampler: Sampler, splits: Splits, seed: int, by: str) -> RunLength:
    """Return the length of a run of some of the tasks, or with another sampler, with the budget of the joint run.

    By "epochs", the run holds as many rows in total as the joint run holds of these tasks. With the same sampler, each
    task is then seen as often as there: its rows come in the same shares, or alone. By "steps", it has as many updates.
    Either way its epochs, after which it is evaluated, are as many as the joint run's.

    Args:
        reference: the joint run.
        sampler: of the run; batch sizes of other tasks are passed over.
        splits: of the tasks of the run.
        seed: of the run.
        by: epochs or steps.
    """
    joint = reference.length
    if by == "steps":
        return joint
    num_rows = sum(reference.rows[task] for task in splits)
    total = steps_for_rows(sampler, splits, seed, num_rows)
    num_epochs = joint.total_steps / joint.steps_per_epoch
    return RunLength(max(1, math.ceil(total / num_epochs)), total)


def stretched(length: RunLength, least_steps: int) -> RunLength:
    """Return a length of at least so many steps and as many epochs."""
    if length.total_steps >= least_steps:
        return length
    num_epochs = length.total_steps / length.steps_per_epoch
    return RunLength(max(1, math.ceil(least_steps / num_epochs)), least_steps)


def fitting(sampler: Sampler, tasks: Mapping[str, object] | Sequence[str]) -> Sampler:
    """Leave out the batch sizes of tasks that are not there."""
    if not isinstance(sampler.batch_size, dict):
        return sampler
    return replace(sampler, batch_size={task: size for task, size in sampler.batch_size.items() if task in tasks})


def limited(splits: Splits, sizes: Mapping[str, int]) -> dict[str, EncodedSplit]:
    """Keep so many examples of each task named, the first ones.

    Which ones a run draws changes its length only where its sampler has `max_tokens`, and little there.
    """
    return {
        task: split.select(np.arange(sizes[task])) if task in sizes and sizes[task] < split.num_examples else split
        for task, split in splits.items()
    }
