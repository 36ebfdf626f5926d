"""The settings of training."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mtl_cli.encoders import EncoderShape
from mtl_cli.precision import Precision, check_device
from mtl_cli.sharing import HardSharing, SharingStrategy
from mtl_cli.tasks import Task
from mtl_cli.training import fsdp
from mtl_cli.training.loop import Loop
from mtl_cli.training.run import Progression, TrainingRun
from mtl_cli.types import NonNegativeFloat, PositiveFloat, PositiveInt, UserError
from mtl_cli.weighting import LossWeighting, Weighting


@dataclass(kw_only=True)
class Trainer:
    """Trains a model on all of its tasks.

    Args:
        epochs: length of the run as passes over the data; what a pass is, the sampler says (its `epoch` setting).
        max_steps: length of the run as a number of steps; wins over `epochs`.
        steps_per_epoch: length of an epoch as a number of steps; None: the sampler's.
        evaluate_every: "epoch", or a number of steps. The last step is always evaluated.
        checkpoint_every_steps: write a resumable checkpoint each so many steps, besides the one after each evaluation.
        keep_checkpoints: how many resumable checkpoints stay.
        log_every_steps: steps between two lines of metrics.jsonl.
        num_micro_batches: cut each step into so many parts whose gradients add up (gradient accumulation): less memory,
            the same update.
        batch_tokens: most tokens that go through the model at once, padding of encoders that pad included: a step of
            more is cut into micro-batches, so that its size and the update stay; a longer row has one to itself. auto:
            as many as memory holds, found by trying the run's own steps before the first one, and kept in the run
            folder.
        activation_checkpointing: keep only what enters each block, and compute the rest again in the backward pass:
            far less memory, about a third more time.
        compile: compile the encoder's blocks (torch.compile), for any number of tokens; meant for GPUs. A weighting of
            gradients then takes a backward pass a task.
        max_grad_norm: clip the norm of the whole gradient to this; None: no clipping.
        precision: bf16 is autocast to bfloat16 with float32 weights; auto takes it where the hardware is fast at it.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, ...
        best_metric: what chooses the best checkpoint: "score" (mean over tasks of the main metric) or
            "<task>/<metric>", on the validation split. Of errors such as mse or loss the lowest is best.
        early_stopping_patience: stop after so many evaluations in a row without a new best; None: never.
        min_improvement: what counts as a new best.
        evaluation_batch_tokens: tokens a batch in evaluation.
        parallelism: how several processes (torchrun) hold the model. "ddp": each has all of it; "fsdp": each has a part
            of every encoder parameter, for encoders that do not fit. One process has all of it either way.
    """

    epochs: PositiveFloat = 3.0
    max_steps: PositiveInt | None = None
    steps_per_epoch: PositiveInt | None = None
    evaluate_every: Literal["epoch"] | PositiveInt = "epoch"
    checkpoint_every_steps: PositiveInt | None = None
    keep_checkpoints: PositiveInt = 1
    log_every_steps: PositiveInt = 10
    num_micro_batches: PositiveInt = 1
    batch_tokens: Literal["auto"] | PositiveInt | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    max_grad_norm: PositiveFloat | None = 1.0
    precision: Precision = "auto"
    device: str = "auto"
    best_metric: str = "score"
    early_stopping_patience: PositiveInt | None = None
    min_improvement: NonNegativeFloat = 0.0
    evaluation_batch_tokens: PositiveInt = 8192
    parallelism: Literal["ddp", "fsdp"] = "ddp"

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """Refuse settings that name a task or a metric that the run does not have."""
        check_device(self.device)
        name = self.best_metric.removeprefix("validation/")
        known = ["score", *(f"{task}/{metric}" for task, t in tasks.items() for metric in [*(t.metrics or []), "loss"])]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"trainer.best_metric: found {self.best_metric!r}, allowed: {', '.join(known)}{hint}")

    def check_parallelism(
        self, weighting: Weighting, sharing: SharingStrategy, encoder: EncoderShape | None = None
    ) -> None:
        """Refuse what needs more of a parameter than the part that a process has of it, and what cannot be divided.

        Args:
            weighting: of the run.
            sharing: of the run.
            encoder: what is known of it before it is loaded.

        Raises:
            UserError: with what works.
        """
        if self.parallelism == "ddp":
            return
        if self.batch_tokens == "auto":
            raise UserError(
                "trainer.batch_tokens: found 'auto', which tries passes on each process by itself; with trainer=fsdp "
                "allowed: a number of tokens, or null"
            )
        key = "trainer.parallelism: found 'fsdp', with which a process has a part of each encoder parameter, but"
        if not isinstance(weighting, LossWeighting):
            raise UserError(
                f"{key} {type(weighting).__name__} looks at each task's whole gradient; use a weighting of losses, "
                "such as weighting=uncertainty, or trainer=default"
            )
        if weighting.track_conflict_every is not None:
            raise UserError(
                f"{key} weighting.track_conflict_every={weighting.track_conflict_every} looks at each task's whole "
                "gradient; leave it out, or use trainer=default"
            )
        if not isinstance(sharing, HardSharing) or sharing.num_shared_layers is not None:
            raise UserError(
                f"{key} with {type(sharing).__name__}'s settings some parameters serve only some rows, and a process "
                "without such rows would keep the others waiting; use sharing=hard with all layers shared, or "
                "trainer=default"
            )
        if encoder is not None:
            encoder.check_has_blocks(*fsdp.NEEDS_BLOCKS)

    def fit(self, run: TrainingRun, resume: bool = False) -> Progression:
        """Train to the end and leave the best weights in `run.model`.

        Raises:
            Interrupted: after a signal, with a checkpoint written.
            UserError: a loss that is not finite, or a GPU that is out of memory.
        """
        return Loop(self, run, resume).run_to_end()
