"""`mtl bench of=trainer bench.scores=true`: ours and the tuned Trainer's single-task runs, trained to their end."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl_cli.bench.hf_trainer import make_trainer
from mtl_cli.bench.protocol import machine_record
from mtl_cli.bench.report import BenchReport
from mtl_cli.bench.single_task import SingleTaskModel, heads_of, pad_id, padded, records, slots_of_words, stock_encoder
from mtl_cli.bench.work import Work
from mtl_cli.build import instantiate
from mtl_cli.data import EncodedSplit
from mtl_cli.evaluation import Evaluator
from mtl_cli.evaluation.evaluator import batches_by_length
from mtl_cli.precision import autocast
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training import Trainer, TrainingRun, seed_everything

_EVALUATION_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one seed's training came to.

    Attributes:
        metrics: task -> metric -> value, on validation, of the weights after the last step.
        seconds: of training, evaluation apart.
        tokens: real tokens that were trained on.
    """

    metrics: dict[str, dict[str, float]]
    seconds: float
    tokens: int


def bench_scores(work_of_seed: Callable[[int], Work], seeds: Sequence[int], load: float) -> BenchReport:
    """Train both ways with each seed and show the scores side by side.

    Args:
        work_of_seed: loads what is trained, all rows of it.
        seeds: the seeds.
        load: of the machine at the start.
    """
    ours, theirs = [], []
    for seed in seeds:
        work = work_of_seed(seed)
        ours.append(train_ours(work))
        theirs.append(train_tuned(work))
    rows = []
    figures: dict[str, dict[str, Any]] = {}
    for name, task in work.tasks.items():
        metric = task.main_metric or ""
        a, b = ([run.metrics[name][metric] for run in runs] for runs in (ours, theirs))
        gap, noise = statistics.mean(a) - statistics.mean(b), _standard_error(a, b)
        rows.append([f"{name} {metric}", _mean(a), _mean(b), f"{gap:+.4f}", "-" if noise is None else f"{noise:.4f}"])
        figures[name] = {"metric": metric, "ours": a, "B2": b, "difference": gap, "standard_error": noise}
    speeds = [[run.tokens / run.seconds for run in runs] for runs in (ours, theirs)]
    rows.append(["real tokens/s", *(f"{statistics.median(found):,.0f}" for found in speeds), "", ""])
    rows.append(["seconds", *(f"{statistics.median(r.seconds for r in runs):,.0f}" for runs in (ours, theirs)), "", ""])
    described = work.describe()
    trainer = work.config["trainer"]
    return BenchReport(
        "scores",
        f"mtl bench of=trainer bench.scores=true: {described['encoder']}, {work.precision}, {len(seeds)} seeds",
        machine_record(work.device, load),
        ["validation, after the last step", "ours, one run", "B2, a run a task", "difference", "standard error"],
        rows,
        {"tasks": figures, "work": described, "ours": ours, "B2": theirs, "tokens_per_second": speeds},
        [
            f"rows: {', '.join(f'{name} {number:,}' for name, number in described['tasks'].items())}; "
            f"{trainer['epochs']} epochs, learning rate {work.config['optimizer']['lr']} for both; ours with "
            f"{described['sampler']}, {described['sharing']}, {described['weighting']}",
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


def train_ours(work: Work) -> Trained:
    """Train all tasks together, as `mtl train` does, and score validation."""
    config = work.config
    model = work.build_model()
    settings = instantiate(config["trainer"])
    assert isinstance(settings, Trainer)
    with (
        tempfile.TemporaryDirectory(prefix="mtl-bench-") as name,
        MetricsFile(Path(name) / "metrics.jsonl") as metrics_file,
        Progress() as progress,
    ):
        folder = RunFolder(name)
        run = TrainingRun(
            model=model,
            data=work.data,
            sampler=instantiate(config["sampler"]),
            weighting=instantiate(config["weighting"]),
            optimizer=instantiate(config["optimizer"]),
            schedule=instantiate(config["schedule"]),
            folder=folder,
            metrics_file=metrics_file,
            loggers=Loggers([]),
            progress=progress,
            seed=config["seed"],
            info=RunInfo(folder=folder.path, name="bench", group=None, config={}, tasks=tuple(work.tasks)),
        )
        # Evaluated once, after the last step, whose weights are then the best: no choice among epochs.
        state = dataclasses.replace(settings, evaluate_every=10**9, early_stopping_patience=None).fit(run)
    evaluator = Evaluator(work.device, work.precision, _EVALUATION_TOKENS)
    metrics = {
        task: evaluator.evaluate(model, task, of_task.splits["validation"]).metrics
        for task, of_task in work.data.items()
    }
    return Trained(metrics, state.training_seconds, state.tokens)


def train_tuned(work: Work) -> Trained:
    """Train each task alone with the tuned Trainer, as long and at the same rate, and score validation."""
    config = work.config
    metrics, seconds, tokens = {}, 0.0, 0
    epochs = config["trainer"]["epochs"]
    for name, task in work.tasks.items():
        seed_everything(config["seed"])
        of_task = work.data[name]
        head = heads_of(dataclasses.replace(work, tasks={name: task}), None)[name]
        model = SingleTaskModel(stock_encoder(work.encoder).to(work.device), head, task, work.encoder.pooling)
        split = of_task.splits["train"]
        with tempfile.TemporaryDirectory(prefix="mtl-bench-") as folder:
            trainer = make_trainer(
                work,
                model,
                split,
                folder,
                tuned=True,
                epochs=epochs,
                lr=config["optimizer"]["lr"],
                warmup=config["schedule"].get("warmup_fraction") or 0.0,
                weight_decay=config["optimizer"].get("weight_decay", 0.0),
                seed=config["seed"],
            )
            began = time.perf_counter()
            trainer.train()
            seconds += time.perf_counter() - began
        tokens += round(int(split.lengths.sum()) * epochs)
        validation = of_task.splits["validation"]
        logits_MC = padded_logits(work, model, validation)
        assert validation.labels is not None
        metrics[name] = task.compute_metrics(task.predict(logits_MC), validation.labels, validation, of_task.labels)
    return Trained(metrics, seconds, tokens)


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
