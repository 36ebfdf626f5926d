"""Our training as a variant: the loop of `mtl train` itself, so many steps a round."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from mtl_cli.bench.protocol import Measured, wait_for
from mtl_cli.bench.work import Work, slots_of
from mtl_cli.build import instantiate
from mtl_cli.encoders import Layout
from mtl_cli.gradients import Losses
from mtl_cli.sampling import StepStream, count_steps_per_epoch
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training import TrainingRun
from mtl_cli.training.loop import Loop

_MANY_STEPS = 10**9  # no evaluation and no checkpoint falls into a round
_MORE_ROUNDS = 3  # one that is dropped, one for memory, and one that keeps the last step, which is evaluated, away


class _Steps(Loop):
    """The loop, some steps at a time."""

    def advance(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self._train_step()
            self._after_step()


class OurTraining:
    """One round: an epoch over the work's training rows, as the composition's sampler mixes them.

    Timed is all that a step of `mtl train` does: choosing and collating rows, forward, backward, weighting, clipping,
    AdamW, the progress display and the lines of metrics.jsonl. Loggers are off; no evaluation or checkpoint comes.
    """

    def __init__(self, work: Work, num_rounds: int) -> None:
        self.work = work
        config = work.config
        self.model = work.build_model().to(work.device)
        splits, seed = work.train_splits, config["seed"]
        sampler = instantiate(config["sampler"])
        self.num_steps = count_steps_per_epoch(sampler, splits, seed=seed)
        self.padding = _padding(work, self.num_steps)
        self._folder = tempfile.TemporaryDirectory(prefix="mtl-bench-")
        folder = RunFolder(Path(self._folder.name))
        self._metrics_file = MetricsFile(folder.metrics_file)
        run = TrainingRun(
            model=self.model,
            data=work.data,
            sampler=sampler,
            weighting=instantiate(config["weighting"]),
            optimizer=instantiate(config["optimizer"]),
            schedule=instantiate(config["schedule"]),
            folder=folder,
            metrics_file=self._metrics_file,
            loggers=Loggers([]),
            progress=Progress(enabled=False),
            seed=seed,
            info=RunInfo(folder=folder.path, name="bench", group=None, config={}, tasks=tuple(work.tasks)),
        )
        settings = dataclasses.replace(
            instantiate(config["trainer"]),
            max_steps=self.num_steps * (num_rounds + _MORE_ROUNDS),
            evaluate_every=_MANY_STEPS,
            checkpoint_every_steps=None,
        )
        self.loop = _Steps(settings, run, resume=False)
        self.model.train()

    def round(self) -> Measured:
        """Train for an epoch of the cut data."""
        before = self.loop.state.tokens
        wait_for(self.work.device)
        wall, cpu = time.perf_counter(), time.thread_time()
        self.loop.advance(self.num_steps)
        wait_for(self.work.device)
        seconds, cpu_seconds = time.perf_counter() - wall, time.thread_time() - cpu
        return Measured(seconds, self.loop.state.tokens - before, cpu_seconds)

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""
        losses = Losses(self.model.eval(), self.work.precision, self.work.device)
        found = {}
        for task, split in self.work.train_splits.items():
            step = {task: split.batch(self.work.first_rows(task)).to(self.work.device)}
            found[task] = losses(step, losses.normalizers([step], [task]))[task].item()
        self.model.train()
        return found

    def close(self) -> None:
        """Remove what the run has written."""
        self._metrics_file.close()
        self._folder.cleanup()


def _padding(work: Work, num_steps: int) -> tuple[float, float]:
    """Share of padding in the slots of linear layers and of attention, over an epoch."""
    stream = StepStream(
        instantiate(work.config["sampler"]), work.train_splits, seed=work.config["seed"], total_steps=num_steps
    )
    tokens, linear, attention = 0, 0, 0
    for number in range(num_steps):
        rows = stream.next_step(number)
        lengths = {task: work.train_splits[task].lengths[of_task] for task, of_task in rows.items()}
        layout = Layout.from_lengths(lengths, packed=work.encoder.packed)
        in_linear, in_attention = slots_of(layout)
        tokens, linear, attention = tokens + layout.num_tokens, linear + in_linear, attention + in_attention
    return 1 - tokens / linear, 1 - tokens / attention
