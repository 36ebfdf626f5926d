"""Our training as a variant: the loop of `mtl train` itself, so many steps a round."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mtl_cli.bench.epoch import Epoch
from mtl_cli.bench.protocol import Measured, wait_for
from mtl_cli.bench.work import Work, slots_of
from mtl_cli.build import build_training_run, instantiate
from mtl_cli.encoders import Layout
from mtl_cli.gradients import Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training.loop import Loop
from mtl_cli.types import Step


class StepsOfLoop(Loop):
    """The loop, some steps at a time; nothing is evaluated, and no checkpoint is written.

    Attributes:
        passes: tokens in each row of each task that went through the model at once, since it was emptied.
    """

    passes: list[dict[str, np.ndarray]]

    def advance(self, num_steps: int) -> float:
        """Make some steps, to their end on the device; return the seconds."""
        wait_for(self.device)
        began = time.perf_counter()
        for _ in range(num_steps):
            self._train_step()
            self._after_step()
        wait_for(self.device)
        return time.perf_counter() - began

    def _parts_of_step(self) -> tuple[list[list[Step]], dict[str, int]]:
        parts, tokens = super()._parts_of_step()
        self.passes += [
            {task: batch.lengths_B.numpy() for task, batch in piece.items()} for pieces in parts for piece in pieces
        ]
        return parts, tokens

    def _evaluate(self) -> None:
        self.state.evaluation_due = False


class OurRun:
    """What `mtl train` would train, with its loop in hand: loggers off, no progress display.

    Args:
        work: what is trained.
        settings: of the trainer, in the place of the composition's.
    """

    def __init__(self, work: Work, **settings: Any) -> None:
        self.work = work
        model, self.size = work.build_model()
        self.model: MultiTaskModel = model.to(work.device)
        self._folder = tempfile.TemporaryDirectory(prefix="mtl-bench-")
        folder = RunFolder(Path(self._folder.name))
        self._metrics_file = MetricsFile(folder.metrics_file)
        run = build_training_run(
            work.config,
            self.model,
            work.data,
            folder,
            self._metrics_file,
            Loggers([]),
            Progress(enabled=False),
            RunInfo(folder=folder.path, name="bench", group=None, config={}, tasks=tuple(work.tasks)),
        )
        trainer = dataclasses.replace(instantiate(work.config["trainer"]), checkpoint_every_steps=None, **settings)
        self.loop = StepsOfLoop(trainer, run, resume=False)
        self.loop.passes = []
        self.model.train()

    def close(self) -> None:
        """Remove what the run has written."""
        self._metrics_file.close()
        self._folder.cleanup()


class OurTraining(OurRun):
    """One round: some steps over the work's training rows, as the composition's sampler mixes them.

    Timed is all that a step of `mtl train` does: choosing and collating rows, forward, backward, weighting, clipping,
    AdamW, and the lines of metrics.jsonl. Loggers and the progress display are off, as they are for the baselines; no
    evaluation or checkpoint comes.

    Args:
        work: what is trained.
        num_rounds: that count; one more is dropped.
        rows_of_task: a round is so many steps as see so many rows of a task, on average over tasks, but no more than an
            epoch; None: an epoch.
    """

    def __init__(self, work: Work, num_rounds: int, rows_of_task: int | None = None) -> None:
        self.epoch = epoch = Epoch.of(work.config["sampler"], work.train_splits, work.config["seed"])
        self.steps_of_round = epoch.steps
        if rows_of_task is not None:
            share = rows_of_task * len(work.tasks) / sum(epoch.rows.values())
            self.steps_of_round = max(1, min(epoch.steps, round(share * epoch.steps)))
        super().__init__(work, max_steps=self.steps_of_round * (num_rounds + 1))
        self.precision = work.precision
        self._passes: list[dict[str, np.ndarray]] = []

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention, over the last round."""
        return padding_of(self._passes, self.model)

    def round(self) -> Measured:
        """Make the steps."""
        self.loop.passes = self._passes = []
        cpu = time.thread_time()
        seconds = self.loop.advance(self.steps_of_round)
        cpu_seconds = time.thread_time() - cpu
        lengths = np.concatenate([of_task for one in self._passes for of_task in one.values()])
        tokens, squares = int(lengths.sum()), int(np.square(lengths).sum())
        return Measured(seconds, tokens, cpu_seconds, len(lengths), squares, self.steps_of_round)

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""
        losses = Losses(self.model.eval(), self.work.precision, self.work.device)
        found = {}
        for task, split in self.work.train_splits.items():
            step = {task: split.batch(self.work.first_rows(task)).to(self.work.device)}
            found[task] = losses(step, losses.normalizers([step], [task]))[task].item()
        self.model.train()
        return found


def padding_of(passes: list[dict[str, np.ndarray]], model: MultiTaskModel) -> tuple[float, float]:
    """Share of padding in the slots of linear layers and of attention, over passes through the model."""
    slots = []
    for lengths in passes:
        layout = Layout.from_lengths(lengths, packed=model.encoder.packed)
        slots.append((layout.num_tokens, *slots_of(layout, model.encoder)))
    tokens, linear, attention = map(sum, zip(*slots, strict=True))
    return 1 - tokens / linear, 1 - tokens / attention
