"""The Hugging Face Trainer as a variant, a run for each task: B1 as run_glue leaves it, B2 as an expert sets it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mtl_cli.bench.protocol import Measured, wait_for
from mtl_cli.bench.single_task import SingleTaskModel, first_losses, pad_id, padded, records, stock_encoder
from mtl_cli.bench.work import Work
from mtl_cli.data import EncodedSplit
from mtl_cli.types import IGNORE_INDEX

BATCH_SIZE = 32  # of run_glue's README; the script's own default is 8
RUN_GLUE_LENGTH = 128  # of run_glue's --max_seq_length


class TrainerRuns:
    """One round: an epoch of the Hugging Face Trainer over each task's rows, one task after the other.

    Timed is from the beginning to the end of the Trainer's epoch: its data loader and collator, forward, backward,
    clipping, optimizer, schedule, callbacks, logging. What it does before (data loader, optimizer) and after is not.
    The tasks share the encoder's weights, each with an optimizer of its own: that changes no time.

    Args:
        work: what is trained.
        heads: a head for each task.
        tuned: False: padded to 128, float32, what else run_glue leaves as it is. True: our precision, rows padded to
            the longest of their batch, batches grouped by length, fused AdamW.
    """

    def __init__(self, work: Work, heads: Mapping[str, nn.Module], tuned: bool) -> None:
        self.work = work
        self.tuned = tuned
        self.precision = work.precision if tuned else "fp32"
        encoder = stock_encoder(work.encoder, share_weights=work.alone).to(work.device)
        self.models = {
            name: SingleTaskModel(encoder, heads[name], task, work.encoder.pooling) for name, task in work.tasks.items()
        }
        self._folder = tempfile.TemporaryDirectory(prefix="mtl-bench-")
        self._clock = _Clock(work.device)
        self.trainers = {
            name: make_trainer(work, model, work.train_splits[name], self._folder.name, tuned=tuned, clock=self._clock)
            for name, model in self.models.items()
        }

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention, over the last round."""
        empty = 1 - self._clock.tokens / max(self._clock.slots, 1)
        return empty, empty

    def round(self) -> Measured:
        """Train for an epoch of each task."""
        self._clock.reset()
        for trainer in self.trainers.values():
            trainer.train()
        return Measured(self._clock.seconds, self._clock.tokens, self._clock.cpu_seconds)

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""
        return first_losses(self.work, self.models, self.precision)

    def close(self) -> None:
        """Remove what the Trainer has written."""
        self._folder.cleanup()


class _Clock:
    """Adds up the epochs of several Trainers, and counts what their batches hold."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.tokens = self.slots = 0

    def begin(self) -> None:
        wait_for(self.device)
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def end(self) -> None:
        wait_for(self.device)
        self.seconds += time.perf_counter() - self._wall
        self.cpu_seconds += time.thread_time() - self._cpu

    def count(self, lengths: Sequence[int], slots: int) -> None:
        self.tokens += sum(lengths)
        self.slots += slots


def make_trainer(
    work: Work,
    model: SingleTaskModel,
    split: EncodedSplit,
    folder: str,
    *,
    tuned: bool,
    clock: _Clock | None = None,
    epochs: float = 1.0,
    lr: float = 5e-5,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 42,
) -> Any:
    """Build a Trainer of transformers over one task's rows; the defaults are those of its arguments."""
    import datasets
    import transformers

    columns = records(split)
    if not tuned:  # run_glue pads when it tokenises
        longest = max(RUN_GLUE_LENGTH, int(split.lengths.max()))
        columns = padded(columns, np.arange(len(split)), pad_id(work.encoder), longest)
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=lr,
        warmup_steps=warmup,
        weight_decay=weight_decay,
        seed=seed,
        bf16=tuned and work.precision == "bf16",
        train_sampling_strategy="group_by_length" if tuned else "random",
        optim="adamw_torch_fused",  # already the default of this version
        use_cpu=work.device.type == "cpu",
        dataloader_pin_memory=work.device.type == "cuda",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        data_collator=_Collator(pad_id(work.encoder), clock),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if clock is not None:
        trainer.add_callback(_clock_callback(clock))
    return trainer


class _Collator:
    """Pads rows to the longest of their batch (which those of B1 already are) and makes tensors of them."""

    def __init__(self, pad_token_id: int, clock: _Clock | None) -> None:
        self.pad_token_id = pad_token_id
        self.clock = clock

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        if self.clock is not None:
            self.clock.count([sum(row["attention_mask"]) for row in rows], length * len(rows))
        fill = {"input_ids": self.pad_token_id, "labels": IGNORE_INDEX}
        batch = {}
        for column, first in rows[0].items():
            values = [row[column] for row in rows]
            if isinstance(first, list):
                values = [value + [fill.get(column, 0)] * (length - len(value)) for value in values]
            batch[column] = torch.tensor(values)
        return batch


def _clock_callback(clock: _Clock) -> Any:
    import transformers

    class ClockCallback(transformers.TrainerCallback):
        """Starts and stops the clock with the Trainer's epoch."""

        def on_epoch_begin(self, *arguments: Any, **more: Any) -> None:
            clock.begin()

        def on_epoch_end(self, *arguments: Any, **more: Any) -> None:
            clock.end()

    return ClockCallback()
