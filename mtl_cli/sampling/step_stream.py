"""The steps of a run: which rows of which tasks each optimizer update sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.sampling.row_stream import RowStream
from mtl_cli.sampling.sampler import Sampler
from mtl_cli.types import IGNORE_INDEX, Batch, UserError


def count_steps_per_epoch(sampler: Sampler, splits: Mapping[str, EncodedSplit], seed: int) -> int:
    """Return the steps of an epoch over these training splits.

    With `max_tokens` the number of batches depends on which rows come together, and is counted in the first pass over
    each task: later passes may take a few batches more or less, while an epoch stays this number of steps.
    """
    streams = _row_streams(sampler, splits, seed)
    sizes = {task: len(stream) for task, stream in streams.items()}
    return sampler.steps_per_epoch(sizes, {task: stream.batches_in_pass for task, stream in streams.items()})


class StepStream:
    """Gives out the rows of one step after the other; resumed from its state, the same as if never stopped.

    Args:
        sampler: which tasks a step holds, and how much of each.
        splits: the training split of each task, in the order of the run.
        seed: the seed of the run.
        total_steps: steps of the whole run, for samplers that change on the way.
    """

    def __init__(self, sampler: Sampler, splits: Mapping[str, EncodedSplit], *, seed: int, total_steps: int) -> None:
        self._sampler = sampler
        self._splits = dict(splits)
        self._seed = seed
        self._last_step = max(total_steps - 1, 1)
        self._step = 0
        self._plan = sampler.plan({task: len(split) for task, split in splits.items()}, seed)
        self._streams = _row_streams(sampler, splits, seed)

    @property
    def step(self) -> int:
        """The step that comes next, counting from 0."""
        return self._step

    @property
    def passes(self) -> dict[str, float]:
        """Passes over each task's rows so far."""
        return {task: stream.passes for task, stream in self._streams.items()}

    def next_step(self, step: int) -> dict[str, np.ndarray]:
        """Return the rows of each task in a step, tasks in the order of the run; steps come in turn, from 0."""
        assert step == self._step, f"step {step} was asked for, but step {self._step} comes next"
        counts = self._plan.next(step, progress=min(step / self._last_step, 1.0))
        if self._plan.whole_batches:
            rows = {task: self._streams[task].next_batch() for task in counts}
        else:
            rows = {task: self._streams[task].fill(count) for task, count in counts.items()}
        self._plan.record({task: len(task_rows) for task, task_rows in rows.items()})
        self._step += 1
        return rows

    def labelled(self, parts: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Leave out tasks without a valid label in some part: a loss of 0 would be no loss but the lack of one.

        Args:
            parts: rows of the independent batches of a step.

        Returns:
            The same without the rows of such tasks; unchanged where no task would be left.
        """
        kept = set.intersection(*({t for t, rows in part.items() if self._has_label(t, rows)} for part in parts))
        return [{t: rows for t, rows in part.items() if t in kept or not kept} for part in parts]

    def _has_label(self, task: str, rows: np.ndarray) -> bool:
        split = self._splits[task]
        if split.labels is None or split.labels.dtype.kind == "f":
            return True
        return bool((split.labels[split.label_slots(rows)] != IGNORE_INDEX).any())

    def collate(self, rows: Mapping[str, np.ndarray]) -> dict[str, Batch]:
        """Return the batch of each task that holds these rows: a step, or a micro-batch of one."""
        return {task: self._splits[task].batch(task_rows) for task, task_rows in rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream and the settings that it holds for, as JSON takes them."""
        return {
            "step": self._step,
            "settings": {"seed": self._seed, **self._sampler.settings()},
            "plan": self._plan.state_dict(),
            "rows": {task: stream.state_dict() for task, stream in self._streams.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; raises UserError where tasks, data, seed or sampler are others."""
        _check_tasks(found=self._streams, written=state["rows"])
        _check_settings(found={"seed": self._seed, **self._sampler.settings()}, written=state["settings"])
        for task, stream in self._streams.items():
            stream.load_state_dict(state["rows"][task])
        self._plan.load_state_dict(state["plan"])
        self._step = state["step"]


def _row_streams(sampler: Sampler, splits: Mapping[str, EncodedSplit], seed: int) -> dict[str, RowStream]:
    batch_sizes = sampler.batch_sizes(splits)
    return {
        task: RowStream(
            split.lengths,
            task=task,
            seed=seed,
            batch_size=batch_sizes[task],
            max_tokens=sampler.max_tokens,
            bucket_window=sampler.bucket_window,
        )
        for task, split in splits.items()
    }


def _check_tasks(found: Iterable[str], written: Iterable[str]) -> None:
    added, gone = sorted(set(found) - set(written)), sorted(set(written) - set(found))
    if added or gone:
        differences = [f"not in the checkpoint: {', '.join(added)}"] if added else []
        differences += [f"only in the checkpoint: {', '.join(gone)}"] if gone else []
        raise UserError(
            f"The tasks are not those of the checkpoint ({'; '.join(differences)}). "
            "Resume with the tasks of that run, or start a new one."
        )


def _check_settings(found: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    keys = [key for key in {**written, **found} if found.get(key) != written.get(key)]
    if keys:
        paths = {"seed": "seed", "sampler": "sampler"}
        differences = [
            f"{paths.get(key, f'sampler.{key}')} = {found.get(key)!r}, in the checkpoint {written.get(key)!r}"
            for key in keys
        ]
        raise UserError(
            f"Settings differ from the checkpoint's: {'; '.join(differences)}. "
            "Resume with the settings of that run, or start a new one."
        )
