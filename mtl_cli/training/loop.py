"""The training loop: steps, logging, evaluation, checkpoints, stopping. It names no task type or method."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtl_cli.distributed.ranks import from_main, is_distributed, is_main, num_ranks, rank, wait_for_all
from mtl_cli.encoders.attention_choice import use_fused_from
from mtl_cli.encoders.compiling import compile_blocks
from mtl_cli.evaluation import Evaluator, StopEvaluation, metric_records, score, sum_usage_over_ranks
from mtl_cli.gradients import GradientEngine, Losses, StepResult
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.sampling import StepStream, shard_step, split_by_tokens, split_step
from mtl_cli.sharing import TrainingMoment
from mtl_cli.stopping import Interrupted, StopRequest
from mtl_cli.training import fsdp
from mtl_cli.training.agreement import agreed_signal, check_agreement, generators_of_all, restore_generators_of_rank
from mtl_cli.training.allocator import keep_freed_memory
from mtl_cli.training.batch_tokens import measure_batch_tokens
from mtl_cli.training.checkpoint import Checkpoints
from mtl_cli.training.clipping import clip_gradients
from mtl_cli.training.length import run_length
from mtl_cli.training.measured_choices import fused_attention_from, lower_measured, measured_once, of_so_many_processes
from mtl_cli.training.run import Progression, TrainingRun
from mtl_cli.training.seeding import seed_rank
from mtl_cli.training.window import Window
from mtl_cli.types import Step, UserError

if TYPE_CHECKING:
    from mtl_cli.training.trainer import Trainer

log = logging.getLogger(__name__)

_BATCH_TOKENS = "batch_tokens"


class Loop:
    """One call of `Trainer.fit`."""

    def __init__(self, settings: Trainer, run: TrainingRun, resume: bool) -> None:
        self.settings = settings
        self.run = run
        self.model = run.model
        self.tasks = run.model.tasks
        self.device = choose_device(settings.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = choose_precision(settings.precision, self.device)
        self.splits = {name: run.data[name].splits["train"] for name in self.tasks}
        self.lengths = {name: split.lengths for name, split in self.splits.items()}
        length = run_length(settings, run.sampler, self.splits, seed=run.seed)
        self.steps_per_epoch, self.total_steps = length.steps_per_epoch, length.total_steps
        self.stream = StepStream(run.sampler, self.splits, seed=run.seed, total_steps=self.total_steps)
        self.evaluate_every = self.steps_per_epoch if settings.evaluate_every == "epoch" else settings.evaluate_every
        if settings.activation_checkpointing:
            self.model.encoder.checkpoint_activations()
        if settings.compile:
            compile_blocks(self.model.encoder)
        self.divided = settings.parallelism == "fsdp" and is_distributed()
        fsdp.spread(self.model, self.device, self.divided)
        seed_rank(run.seed, rank())
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        # One process of trainer=fsdp, too, leaves no row waiting: its checkpoints may go on divided.
        self.optimizer = run.optimizer.build(self.model, lazy=settings.parallelism == "ddp")
        self.optimizer_state = fsdp.DividedOptimizer(self.optimizer) if self.divided else self.optimizer
        self.checkpoints = Checkpoints(run.folder.checkpoints_folder, keep=settings.keep_checkpoints)
        self.state = Progression()
        self.stop = StopRequest()
        self.evaluator = Evaluator(
            self.device, self.precision, settings.evaluation_batch_tokens, lambda: bool(self.stop)
        )
        self.unchecked: list[tuple[int, StepResult, torch.Tensor]] = []
        self.window = Window()
        self.warned_of_few_rows = False
        self.parts: list[list[Step]] = []  # of the step that is being made, or was last
        run.weighting.start(tuple(self.tasks), seed=run.seed, steps_per_epoch=self.steps_per_epoch)
        longest_row = max(int(split.lengths.max()) for data in run.data.values() for split in data.splits.values())
        encoder = self.model.encoder
        use_fused_from(fused_attention_from(run.folder, encoder, self.precision, self.device, longest_row))
        losses = Losses(self.model, self.precision, self.device)
        self.engine = GradientEngine(self.model, run.weighting, losses)
        self.batch_tokens = self._choose_batch_tokens()
        if resume:
            self._resume()
        log.info(
            "%s steps, %s an epoch, on %s in %s; %s: %s",
            f"{self.total_steps:,}",
            f"{self.steps_per_epoch:,}",
            f"{num_ranks()} processes, {self.device.type}" if is_distributed() else self.device,
            self.precision,
            type(run.weighting).__name__,
            self.engine.how,
        )
        self.started = time.monotonic() - self.state.seconds

    def _choose_batch_tokens(self) -> float:
        """Most tokens at once; what was measured holds as long as as many processes share their machines' memory."""
        wanted = self.settings.batch_tokens
        if wanted != "auto":
            return math.inf if wanted is None else wanted
        key = of_so_many_processes(_BATCH_TOKENS)
        return measured_once(self.run.folder, key, lambda: measure_batch_tokens(self.engine, self.splits))

    def run_to_end(self) -> Progression:
        """Train until the last step, an early stop, or a signal; see `Trainer.fit`."""
        state = self.state
        self.run.loggers.start(replace(self.run.info, initial_step=state.step))
        self.run.progress.start(self.total_steps, state.step, list(self.tasks))
        self.model.train()
        try:
            with self.stop:
                if state.evaluation_due:
                    self._evaluate()
                while state.step < self.total_steps and not state.stopped_early:
                    self._train_step()
                    self._after_step()
        except torch.OutOfMemoryError as error:
            raise UserError(f"{self._out_of_memory()} ({str(error).splitlines()[0]})") from error
        finally:
            self.run.progress.close()
        self.checkpoints.load_best(state.best_step, self.model)
        return state

    def _out_of_memory(self) -> str:
        """Say where memory ran out and what helps; lower what was measured, for when the run goes on."""
        state, settings = self.state, self.settings
        if state.evaluation_due:
            return (
                f"the GPU ran out of memory in the evaluation of step {state.step}. Lower "
                f"trainer.evaluation_batch_tokens (now {settings.evaluation_batch_tokens}) or tasks.<name>.max_length."
            )
        where = f"the GPU ran out of memory at step {state.step + 1}"
        else_helps = (
            "set trainer.activation_checkpointing=true, lower tasks.<name>.max_length, or take a smaller encoder"
        )
        if settings.batch_tokens is None:
            return (
                f"{where}. Set trainer.batch_tokens=auto (or raise trainer.num_micro_batches), lower "
                f"sampler.batch_size (or set sampler.max_tokens), or {else_helps}."
            )
        lower = max(1, int(min(self.batch_tokens, self._most_at_once())) // 2)
        if settings.batch_tokens != "auto":
            return f"{where}. Lower trainer.batch_tokens (now {settings.batch_tokens}, try {lower}), or {else_helps}."
        lower_measured(self.run.folder, of_so_many_processes(_BATCH_TOKENS), lower)
        return (
            f"{where}, although the {self.batch_tokens:,.0f} tokens at once that trainer.batch_tokens=auto found had "
            f"fit: what else runs on this GPU may have grown, or memory is in pieces. resume={self.run.folder.path} "
            f"goes on with {lower:,} at once (measured.json); where that is too much again, or a single row is, "
            f"{else_helps}."
        )

    def _most_at_once(self) -> float:
        """Tokens of the step's largest micro-batch: a bound above them would change nothing."""
        pieces = [list(piece.values()) for part in self.parts for piece in part if piece]
        lengths = [np.concatenate([batch.lengths_B.cpu().numpy() for batch in piece]) for piece in pieces]
        return max(map(self.model.encoder.num_slots, lengths), default=math.inf)

    # One step

    def _train_step(self) -> None:
        state, settings = self.state, self.settings
        began = time.monotonic()
        parts, tokens_of_tasks = self._parts_of_step()
        self.parts = parts
        self.model.sharing.start_step(self.model, TrainingMoment(state.step, self.total_steps, self.steps_per_epoch))
        if self.optimizer.is_lazy:
            self.optimizer.catch_up(self.model.encoder.ids_read(batch for part in parts for batch in part))
        result = self.engine.step(parts, list(tokens_of_tasks))
        if self.divided:
            self.grad_norm = fsdp.clip_gradients(self.parameters, settings.max_grad_norm)
        else:
            self.grad_norm = clip_gradients(self.optimizer, self.parameters, settings.max_grad_norm)
        self.unchecked.append((state.step + 1, result, self.grad_norm))
        if self.device.type == "cpu":  # on a GPU each check waits for the device: done when a line is logged
            self._check_finite()
        self.factor = self.run.schedule.factor(state.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.after_update()
        state.step += 1
        state.window_tokens += self._count_tokens(tokens_of_tasks)
        seconds = time.monotonic() - began
        state.training_seconds += seconds
        state.window_seconds += seconds
        self.step_losses = result.losses

    def _parts_of_step(self) -> tuple[list[list[Step]], dict[str, int]]:
        """The rows of the next step: the independent batches that the weighting asks for, each in micro-batches.

        Of several processes, which all draw the same rows, each takes its shard of every batch, in as many
        micro-batches as the others: some may be empty. Also returns how many tokens the whole step holds of which task.
        """
        num_batches = self.run.weighting.num_batches
        rows = self.stream.next_step(self.state.step)
        if any(len(of_task) < num_batches for of_task in rows.values()):
            # The short end of a pass over a task's rows, say.
            if not self.warned_of_few_rows:
                self.warned_of_few_rows = True
                log.warning(
                    "step %d holds fewer than %d rows of a task: %s cannot cut it into %d batches, and such steps have "
                    "equal weights",
                    self.state.step + 1,
                    num_batches,
                    type(self.run.weighting).__name__,
                    num_batches,
                )
            num_batches = 1
        parts = self.stream.labelled(split_step(rows, num_batches) if num_batches > 1 else [rows])
        tokens = {
            name: sum(int(self.lengths[name][part[name]].sum()) for part in parts if name in part)
            for name in self.tasks
            if any(name in part for part in parts)
        }
        shards = [shard_step(part, self.lengths, num_ranks()) if is_distributed() else [part] for part in parts]
        of_ranks = [[self._micro_batches(shard) for shard in of_part] for of_part in shards]
        cut = [of_part[rank()] for of_part in of_ranks]
        if self.divided:  # all processes gather the encoder's parameters at the same time, also without rows
            self.engine.losses.filler = self._first_row(rows)
        if is_distributed():
            count = max(len(pieces) for of_part in of_ranks for pieces in of_part)
            cut = [[*pieces, *({} for _ in range(count - len(pieces)))] for pieces in cut]
        return [[self._to_device(self.stream.collate(piece)) for piece in pieces] for pieces in cut], tokens

    def _micro_batches(self, rows: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Cut rows into `num_micro_batches`, and those of more than `batch_tokens` further, but for single rows."""
        count = self.settings.num_micro_batches
        pieces = split_step(rows, count) if count > 1 else [rows]
        if self.batch_tokens == math.inf:
            return pieces
        found = []
        for piece in pieces:
            if self._num_tokens(piece) <= self.batch_tokens:
                found.append(piece)
            else:
                padded = not self.model.encoder.packed
                found += split_by_tokens(piece, self.lengths, self.batch_tokens, padded=padded)
        return found

    def _num_tokens(self, rows: Mapping[str, np.ndarray]) -> int:
        """Tokens of these rows, with padding where the encoder pads: memory goes by them."""
        lengths = [self.lengths[name][of_task] for name, of_task in rows.items()]
        return self.model.encoder.num_slots(np.concatenate(lengths)) if lengths else 0

    def _first_row(self, rows: Mapping[str, np.ndarray]) -> Step:
        task = next(iter(rows))
        return self._to_device(self.stream.collate({task: rows[task][:1]}))

    def _to_device(self, step: Step) -> Step:
        return {name: batch.to(self.device) for name, batch in step.items()}

    def _count_tokens(self, tokens_of_tasks: Mapping[str, int]) -> int:
        """Add the tokens of a step to those of the run and of each task; return them."""
        state = self.state
        for name, tokens in tokens_of_tasks.items():
            state.tokens_of_tasks[name] = state.tokens_of_tasks.get(name, 0) + tokens
        total = sum(tokens_of_tasks.values())
        state.tokens += total
        state.passes_of_tasks = self.stream.passes
        return total

    def _check_finite(self) -> None:
        """Stop at the first step whose loss or gradient is not a finite number."""
        for step, result, grad_norm in self.unchecked:
            losses = result.losses
            broken = [f"loss of task {name!r} is {float(loss)}" for name, loss in losses.items() if not loss.isfinite()]
            if not broken and not grad_norm.isfinite():
                broken = [f"norm of the gradient is {float(grad_norm)} (tasks in the step: {', '.join(losses)})"]
            if broken:
                latest = self.checkpoints.latest() if is_main() else None
                kept = f"the last good checkpoint is {latest[1]}" if latest else "there is no checkpoint yet"
                raise UserError(
                    f"step {step}: {'; '.join(broken)}; {kept}. Lower optimizer.lr, lengthen schedule.warmup_fraction, "
                    "set trainer.max_grad_norm, or try trainer.precision=fp32"
                )
        for _, result, _ in self.unchecked:
            self.window.add(result)
        self.unchecked.clear()

    def _after_step(self) -> None:
        state, settings = self.state, self.settings
        self.run.progress.step(
            state.step,
            self.step_losses,
            state.window_tokens / state.window_seconds,
            state.step / self.steps_per_epoch,
        )
        last = state.step == self.total_steps
        if state.step % settings.log_every_steps == 0 or last:
            self._log_window()
        state.evaluation_due = last or state.step % self.evaluate_every == 0
        stop = agreed_signal(self.stop)
        if state.evaluation_due:
            self._evaluate()
        elif stop or (settings.checkpoint_every_steps and state.step % settings.checkpoint_every_steps == 0):
            self._checkpoint()
        if stop and state.step < self.total_steps and not state.stopped_early:
            raise Interrupted(stop)

    def _log_window(self) -> None:
        state = self.state
        self._check_finite()
        record: dict[str, float] = {
            **self.window.record(),
            "train/lr": self.run.optimizer.lr * self.factor,
            "train/grad_norm": float(self.grad_norm),
            "train/tokens": state.tokens,
            "train/epoch": state.step / self.steps_per_epoch,
            "train/tokens_per_second": state.window_tokens / state.window_seconds,
        }
        self.run.metrics_file.append({"step": state.step, **record})
        self.run.loggers.log(record, state.step)
        self.window = Window()
        state.window_tokens, state.window_seconds = 0, 0.0

    # Evaluation, checkpoints, stopping

    def _evaluate(self) -> None:
        """Score the validation splits, keep the weights if they are the best so far, write a checkpoint."""
        state, settings = self.state, self.settings
        self._check_finite()
        self.optimizer.catch_up()
        check_agreement(self.model, self.run.weighting.memory, state.step)
        metrics: dict[str, dict[str, float]] = {}
        self.model.sharing.forget_usage(self.model)
        try:
            for name in self.tasks:
                split = self.run.data[name].splits["validation"]
                with self.run.progress.evaluation("validation", name, len(split)) as advance:
                    metrics[name] = self.evaluator.evaluate(self.model, name, split, advance).metrics
        except StopEvaluation:
            self._checkpoint()
            raise Interrupted(agreed_signal(self.stop)) from None
        sum_usage_over_ranks(self.model)
        total = score(metrics, self.tasks)
        record = {**metric_records("validation", metrics), "validation/score": total}
        for name, found in self.model.sharing.learnt(self.model).items():
            record.update(found.flat(name))
        self.run.metrics_file.append({"step": state.step, **record})
        self.run.loggers.log(record, state.step)
        value = self._best_value(metrics, total)
        state.evaluation_due = False
        is_best = state.best_value is None or value > state.best_value + settings.min_improvement
        if is_best:
            state.best_step, state.best_value, state.best_metrics = state.step, value, metrics
            state.evaluations_since_best = 0
            weights = fsdp.whole_weights(self.model)
            if is_main():
                self.checkpoints.save_best(state.step, self.model if weights is None else weights)
        else:
            state.evaluations_since_best += 1
        patience = settings.early_stopping_patience
        if patience is not None and state.evaluations_since_best >= patience:
            state.stopped_early = True
            log.info("stopped early at step %d: no new best in %d evaluations", state.step, patience)
        self.run.progress.evaluation_summary("validation", state.step, metrics, total, is_best)
        self._checkpoint()
        if is_main():
            self.checkpoints.remove_other_bests(state.best_step)

    def _best_value(self, metrics: Mapping[str, Mapping[str, float]], total: float) -> float:
        """What the best checkpoint is chosen by; higher is better."""
        name = self.settings.best_metric.removeprefix("validation/")
        if name == "score":
            return total
        task, _, metric = name.partition("/")
        return metrics[task][metric] if self.tasks[task].higher_is_better(metric) else -metrics[task][metric]

    def _checkpoint(self) -> None:
        state = self.state
        self._check_finite()
        state.seconds = time.monotonic() - self.started
        state.window = asdict(self.window)
        rest = {
            "progression": asdict(state),
            "optimizer": self.optimizer_state.state_dict(),
            "stream": self.stream.state_dict(),
            "weighting": self.run.weighting.state_dict(),
            **generators_of_all(),
            "metrics_position": self.run.metrics_file.position(),
            "total_steps": self.total_steps,
        }
        weights = fsdp.whole_weights(self.model)
        if is_main():
            self.checkpoints.save(state.step, self.model if weights is None else weights, rest)
        wait_for_all()

    def _resume(self) -> None:
        found = self.checkpoints.latest() if is_main() else None
        folder = from_main(None if found is None else str(found[1]))
        if folder is None:
            log.warning("no checkpoint in %s yet: the run starts again from its beginning", self.run.folder.path)
            self.run.metrics_file.truncate(0)
            return
        state: dict[str, Any] = self.checkpoints.load(Path(folder), self.model)
        if state["total_steps"] != self.total_steps:
            raise UserError(
                f"{folder} belongs to a run of {state['total_steps']} steps, the data and settings now give "
                f"{self.total_steps}: were the data files changed?"
            )
        self.state = Progression(**state["progression"])
        self.window = Window(**self.state.window)
        self.optimizer_state.load_state_dict(state["optimizer"])
        self.stream.load_state_dict(state["stream"])
        self.run.weighting.load_state_dict(state["weighting"])
        self.run.metrics_file.truncate(state["metrics_position"])
        measures = self.settings.batch_tokens == "auto"
        restore_generators_of_rank(state, self.run.seed, self.state.step, measures_batch_tokens=measures)
        log.info("resumed at step %d of %d", self.state.step, self.total_steps)
