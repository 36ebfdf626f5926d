"""`mtl bench of=trainer bench.scores=true`: ours and the tuned Trainer's single-task runs, trained to their end.

Ours twice: all tasks in one run, as composed, and a run a task, which differs from the Trainer's by the program alone.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mtl_cli.bench.epoch import Epoch, check_one_pass
from mtl_cli.bench.epoch_clock import EpochClock
from mtl_cli.bench.hf_trainer import BATCH_SIZE, make_trainer
from mtl_cli.bench.our_training import OurRun
from mtl_cli.bench.protocol import machine_record
from mtl_cli.bench.report import BenchReport
from mtl_cli.bench.single_task import (
    SingleTaskModel,
    as_without_us,
    heads_of,
    pad_id,
    padded,
    records,
    slots_of_words,
    stock_encoder,
)
from mtl_cli.bench.work import Work
from mtl_cli.build import instantiate
from mtl_cli.data import EncodedSplit
from mtl_cli.errors import UserError
from mtl_cli.evaluation import Evaluator
from mtl_cli.evaluation.evaluator import batches_by_length
from mtl_cli.precision import autocast
from mtl_cli.training import Linear, seed_everything

log = logging.getLogger(__name__)

_EVALUATION_TOKENS = 8192
_COLUMNS = (
    "validation, after the last step", "ours, one run", "ours, a run a task", "B2, a run a task", "difference",
    "standard error",
)  # fmt: skip

# What B2 has whatever the composition says: the defaults of transformers' arguments, and one rate for all parameters.
_SAME_FOR_BOTH: dict[str, dict[str, Any]] = {
    "trainer": {"max_steps": None, "steps_per_epoch": None, "early_stopping_patience": None, "max_grad_norm": 1.0},
    "optimizer": {"head_lr": None, "layer_decay": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "schedule": {"warmup_steps": None, "final_fraction": 0.0},
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one seed's training came to.

    Attributes:
        metrics: task -> metric -> value, on validation, of the weights after the last step.
        seconds: of the steps: loading and collating rows, forward, backward, clipping, optimizer, schedule, logging.
        tokens: real tokens that were trained on.
    """

    metrics: dict[str, dict[str, float]]
    seconds: float
    tokens: int


def bench_scores(work_of_seed: Callable[[int], Work], seeds: Sequence[int], load: float) -> BenchReport:
    """Train in each way with each seed and show the scores side by side.

    Args:
        work_of_seed: loads what is trained, all rows of it.
        seeds: the seeds.
        load: of the machine at the start.
    """
    together: list[Trained] = []
    ours: list[Trained] = []
    theirs: list[Trained] = []
    for seed in seeds:
        work = work_of_seed(seed)
        check_sampler_of_both(work)
        for found, name, train in (
            (together, "ours, one run", train_together),
            (ours, "ours, a run a task", train_alone),
            (theirs, "B2", train_tuned),
        ):
            trained = train(work)
            found.append(trained)
            log.info("seed %d, %s: %s", seed, name, _in_words(work, trained))
    rows = []
    figures: dict[str, dict[str, Any]] = {}
    for name, task in work.tasks.items():
        metric = task.main_metric or ""
        one, a, b = ([run.metrics[name][metric] for run in runs] for runs in (together, ours, theirs))
        gap, noise = statistics.mean(a) - statistics.mean(b), _standard_error(a, b)
        shown = "-" if noise is None else f"{noise:.4f}"
        rows.append([f"{name} {metric}", _mean(one), _mean(a), _mean(b), f"{gap:+.4f}", shown])
        figures[name] = {"metric": metric, "together": one, "ours": a, "B2": b}
        figures[name] |= {"difference": gap, "standard_error": noise}
    ways = (together, ours, theirs)
    speeds = [[run.tokens / run.seconds for run in runs] for runs in ways]
    rows.append(["real tokens/s", *(f"{statistics.median(found):,.0f}" for found in speeds), "", ""])
    seconds = [f"{statistics.median(run.seconds for run in runs):,.0f}" for runs in ways]
    rows.append(["seconds of steps", *seconds, "", ""])
    described = work.describe()
    return BenchReport(
        "scores",
        f"mtl bench of=trainer bench.scores=true: {described['encoder']}, {work.precision}, {len(seeds)} seeds",
        machine_record(work.device, load),
        list(_COLUMNS),
        rows,
        {
            "tasks": figures,
            "work": described,
            "together": together,
            "ours": ours,
            "B2": theirs,
            "tokens_per_second": speeds,
        },
        [
            f"rows: {', '.join(f'{name} {number:,}' for name, number in described['tasks'].items())}; "
            f"{instantiate(work.config['trainer']).epochs:g} epochs, learning rate "
            f"{instantiate(work.config['optimizer']).lr} for both; ours with "
            f"{described['sampler']}, in one run with {described['sharing']}, {described['weighting']}",
            "the difference is that of the runs of one task each; what one run of all gains or loses is what tasks do "
            "to each other",
            "mean and standard deviation over seeds; the standard error is that of the difference of means (Welch)",
        ],
        {
            "scores equal within noise (difference within 3 standard errors)": None
            if len(seeds) < 2
            else all(
                abs(found["difference"]) <= 3 * max(found["standard_error"] or 0.0, 1e-9) for found in figures.values()
            )
        },
    )


def _in_words(work: Work, trained: Trained) -> str:
    """One line on what training came to."""
    scores = ", ".join(
        f"{name} {task.main_metric} {trained.metrics[name][task.main_metric or '']:.4f}"
        for name, task in work.tasks.items()
    )
    return f"{scores} after {trained.seconds:,.0f} s of steps"


def check_settings_of_both(config: Mapping[str, Any]) -> None:
    """Refuse settings of the composition that B2's runs cannot follow: both sides must train alike.

    Raises:
        UserError: with each such key, what was found and what is allowed.
    """
    found = {name: instantiate(config[name]) for name in ("trainer", "optimizer", "schedule")}
    problems = [] if type(found["schedule"]) is Linear else [
        f"schedule: found {type(found['schedule']).__name__}, allowed: schedule=linear"
    ]  # fmt: skip
    for name, settings in _SAME_FOR_BOTH.items():
        for key, allowed in settings.items():
            value = getattr(found[name], key)
            if value != allowed:
                shown = "null" if allowed is None else allowed
                problems.append(f"{name}.{key}: found {value!r}, allowed: {shown}")
    if problems:
        raise UserError(f"bench.scores: B2 trains otherwise with these settings, or not at all. {'; '.join(problems)}")


def check_sampler_of_both(work: Work) -> None:
    """Refuse a sampler whose epochs or steps hold other rows than B2's.

    Raises:
        UserError: with what they hold.
    """
    sampler = work.config["sampler"]
    epoch = Epoch.of(sampler, work.train_splits, work.config["seed"])
    check_one_pass(epoch, sampler, work.train_splits)
    if epoch.steps != math.ceil(len(work.lengths) / BATCH_SIZE):
        raise UserError(
            f"sampler.batch_size: found {sampler.get('batch_size')!r}, with which a step of ours holds up to "
            f"{epoch.most_rows} rows, allowed: {BATCH_SIZE} rows a step, as B2 has, by sampler=proportional "
            f"sampler.batch_size={BATCH_SIZE}. With others it would make another number of updates"
        )


def train_alone(work: Work) -> Trained:
    """Train a run of ours for each task, and score validation: nothing is shared, nothing weighed."""
    config = {**work.config, "sharing": _of("sharing.HardSharing"), "weighting": _of("weighting.Equal")}
    of_tasks = []
    for name, task in work.tasks.items():
        data = {name: work.data[name]}
        of_tasks.append(train_together(dataclasses.replace(work, config=config, tasks={name: task}, data=data)))
    return Trained(
        {name: metrics for trained in of_tasks for name, metrics in trained.metrics.items()},
        sum(trained.seconds for trained in of_tasks),
        sum(trained.tokens for trained in of_tasks),
    )


def _of(target: str) -> dict[str, Any]:
    return {"_target_": f"mtl_cli.{target}"}


def train_together(work: Work) -> Trained:
    """Train the tasks together, as `mtl train` does, and score validation.

    Timed, as for B2: steps with all that belongs to them; no set-up, no evaluation, no checkpoint, no progress display.
    """
    run = OurRun(work)
    loop = run.loop
    seconds = loop.advance(loop.total_steps)
    loop.optimizer.catch_up()
    evaluator = Evaluator(work.device, work.precision, _EVALUATION_TOKENS)
    metrics = {
        task: evaluator.evaluate(run.model, task, of_task.splits["validation"]).metrics
        for task, of_task in work.data.items()
    }
    run.close()
    return Trained(metrics, seconds, loop.state.tokens)


def train_tuned(work: Work) -> Trained:
    """Train each task alone with the tuned Trainer, as long and at the same rate, and score validation."""
    config = work.config
    metrics = {}
    clock = EpochClock(work.device)
    schedule = instantiate(config["schedule"])
    optimizer = instantiate(config["optimizer"])
    for name, task in work.tasks.items():
        seed_everything(config["seed"])
        of_task = work.data[name]
        head = heads_of(dataclasses.replace(work, tasks={name: task}), None)[name]
        model = SingleTaskModel(stock_encoder(work.encoder).to(work.device), head, task, work.encoder.pooling)
        with tempfile.TemporaryDirectory(prefix="mtl-bench-") as folder:
            trainer = make_trainer(
                work,
                model,
                name,
                folder,
                tuned=True,
                clock=clock,
                epochs=instantiate(config["trainer"]).epochs,
                lr=optimizer.lr,
                warmup=schedule.warmup_fraction,
                weight_decay=optimizer.weight_decay,
                seed=config["seed"],
            )
            with as_without_us(work.device):
                trainer.train()
        validation = of_task.splits["validation"]
        logits_MC = padded_logits(work, model, validation)
        assert validation.labels is not None
        metrics[name] = task.compute_metrics(task.predict(logits_MC), validation.labels, validation, of_task.labels)
    return Trained(metrics, clock.seconds, clock.tokens)


def padded_logits(work: Work, model: SingleTaskModel, split: EncodedSplit) -> np.ndarray:
    """Logits of a baseline in the order of the split's labels, float32, shape (M, C)."""
    columns = {column: values for column, values in records(split).items() if column != "labels"}
    of_rows: dict[int, np.ndarray] = {}
    model.eval()
    with torch.inference_mode(), autocast(work.precision, work.device):
        for rows in batches_by_length(split.lengths, _EVALUATION_TOKENS):
            longest = int(split.lengths[rows].max())
            batch = padded(columns, rows, pad_id(work.encoder), longest)
            tensors = {column: torch.tensor(values, device=work.device) for column, values in batch.items()}
            logits = model(**tensors)["logits"].float().cpu().numpy()
            for row, of_row in zip(rows.tolist(), logits, strict=True):
                of_rows[row] = of_row[: split.lengths[row]] if of_row.ndim == 2 else of_row[None]
    flat = np.concatenate([of_rows[row] for row in range(len(split))])
    return flat[slots_of_words(split)] if split.positions is not None else flat


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _standard_error(a: list[float], b: list[float]) -> float | None:
    """Of the difference of the two means, variances not assumed equal."""
    if len(a) < 2:
        return None
    return (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
