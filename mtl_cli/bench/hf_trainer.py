"""The Hugging Face Trainer as a variant, a run for each task: B1 as run_glue leaves it, B2 as an expert sets it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mtl_cli.bench.epoch_clock import EpochClock
from mtl_cli.bench.protocol import Measured
from mtl_cli.bench.single_task import (
    SingleTaskModel,
    as_without_us,
    first_losses,
    pad_id,
    padded,
    records,
    stock_encoder,
)
from mtl_cli.bench.work import Work
from mtl_cli.data import EncodedSplit
from mtl_cli.encoders import Encoder
from mtl_cli.errors import UserError
from mtl_cli.types import IGNORE_INDEX

BATCH_SIZE = 32  # of run_glue's README; the script's own default is 8
RUN_GLUE_LENGTH = 128  # of run_glue's --max_seq_length


class TrainerRuns:
    """One round: an epoch of the Hugging Face Trainer over each task's rows, one task after the other.

    Timed is from the beginning to the end of the Trainer's epoch: its data loader and collator, forward, backward,
    clipping, optimizer, schedule, callbacks, logging. What it does before (data loader, optimizer) and after is not.
    Its progress bar is off, as ours is.
    The tasks share the encoder's weights, each with an optimizer of its own: that changes no time.

    Args:
        work: what is trained.
        heads: a head for each task.
        tuned: False: padded to 128, float32, what else run_glue leaves as it is. True: our precision, rows padded to
            the longest of their batch, batches grouped by length, fused AdamW.
    """

    def __init__(self, work: Work, heads: Mapping[str, nn.Module], tuned: bool) -> None:
        self.work = work
        self.size = work.size
        self.tuned = tuned
        self.precision: Literal["bf16", "fp32"] = work.precision if tuned else "fp32"
        encoder = stock_encoder(work.encoder, share_weights=work.alone).to(work.device)
        self.models = {
            name: SingleTaskModel(encoder, heads[name], task, work.encoder.pooling) for name, task in work.tasks.items()
        }
        if not tuned:
            for name, split in work.train_splits.items():
                _check_lengths(name, split, work.encoder)
        self._folder = tempfile.TemporaryDirectory(prefix="mtl-bench-")
        self._clock = EpochClock(work.device)
        self.trainers = {
            name: make_trainer(work, model, name, self._folder.name, tuned=tuned, clock=self._clock)
            for name, model in self.models.items()
        }

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention, over the last round."""
        return self._clock.padding

    def round(self) -> Measured:
        """Train for an epoch of each task."""
        self._clock.reset()
        with as_without_us(self.work.device):
            for trainer in self.trainers.values():
                trainer.train()
        return self._clock.measured(sum(trainer.state.global_step for trainer in self.trainers.values()))

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""
        return first_losses(self.work, self.models, self.precision)

    def close(self) -> None:
        """Remove what the Trainer has written."""
        self._folder.cleanup()


def make_trainer(
    work: Work,
    model: SingleTaskModel,
    task: str,
    folder: str,
    *,
    tuned: bool,
    clock: EpochClock,
    epochs: float = 1.0,
    lr: float = 5e-5,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 42,
) -> Any:
    """Build a Trainer of transformers over one task's rows; the defaults are those of its arguments."""
    import datasets
    import transformers

    split = work.train_splits[task]
    columns = records(split)
    if not tuned:  # run_glue pads when it tokenises, to no more than the encoder takes
        columns = padded(columns, np.arange(len(split)), pad_id(work.encoder), _length_of_rows(work.encoder))
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
    trainer.add_callback(_clock_callback(clock))
    return trainer


def _length_of_rows(encoder: Encoder) -> int:
    """What run_glue cuts and pads rows to."""
    return min(RUN_GLUE_LENGTH, encoder.max_length)


def _check_lengths(task: str, split: EncodedSplit, encoder: Encoder) -> None:
    length, longest = _length_of_rows(encoder), int(split.lengths.max())
    if longest > length:
        raise UserError(
            f"tasks.{task}.max_length: found a row of {longest} tokens, where B1 pads all to {length}, as run_glue "
            f"does, and would cut it, so that it trained on other tokens than the rest. Set tasks.{task}.max_length="
            f"{length}, or leave B1 out: 'bench.baselines=[B2,B3]'"
        )


class _Collator:
    """Pads rows to the longest of their batch (which those of B1 already are) and makes tensors of them."""

    def __init__(self, pad_token_id: int, clock: EpochClock) -> None:
        self.pad_token_id = pad_token_id
        self.clock = clock

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        self.clock.count([sum(row["attention_mask"]) for row in rows], length * len(rows))
        fill = {"input_ids": self.pad_token_id, "labels": IGNORE_INDEX}
        batch = {}
        for column, first in rows[0].items():
            values = [row[column] for row in rows]
            if isinstance(first, list):
                values = [value + [fill.get(column, 0)] * (length - len(value)) for value in values]
            batch[column] = torch.tensor(values)
        return batch


def _clock_callback(clock: EpochClock) -> Any:
    import transformers

    class ClockCallback(transformers.TrainerCallback):
        """Starts and stops the clock with the Trainer's epoch."""

        def on_epoch_begin(self, *arguments: Any, **more: Any) -> None:
            clock.begin()

        def on_epoch_end(self, *arguments: Any, **more: Any) -> None:
            clock.end()

    return ClockCallback()
