"""`mtl evaluate`: score the model of a finished run again, on the data that its configuration names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtl_cli.build import build_tasks
from mtl_cli.check_config import check_settings, check_tasks
from mtl_cli.commands import quiet_libraries
from mtl_cli.commands.settings import EvaluateSettings
from mtl_cli.data import TaskData, prepare
from mtl_cli.evaluation import Evaluator, metric_records, score
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.saved_model import load_model
from mtl_cli.tasks import Task
from mtl_cli.tracking import ConsoleLog, Progress, Results, RunFolder
from mtl_cli.tracking.results_table import plain_table
from mtl_cli.training.measured_choices import use_choices_of

log = logging.getLogger(__name__)


def evaluate(config: Mapping[str, Any]) -> int:
    """Score as `config` (conf/evaluate.yaml) says; return the exit code.

    The data are prepared as in training: with the run's seed, so that a carved validation split is the same, and with
    the label names that the model was trained with.
    """
    settings = check_settings(EvaluateSettings, config)
    run = RunFolder.open(settings.run)
    saved = run.read_config()
    check_tasks(saved["tasks"], settings.allow_targets)
    quiet_libraries()
    with ConsoleLog():
        device = choose_device(settings.device)
        precision = settings.precision or saved["trainer"].get("precision", "auto")
        evaluator = Evaluator(
            device, choose_precision(precision, device), saved["trainer"].get("evaluation_batch_tokens", 8192)
        )
        model = load_model(run.model_folder, device, allow_packages=settings.allow_targets)
        use_choices_of(run)
        output = RunFolder(settings.output) if settings.output else None
        cache_dir = Path(settings.cache_dir) if settings.cache_dir else None
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        with Progress() as progress:
            for name, task, data in tasks_with_data(saved, model, cache_dir):
                metrics[name] = {}
                for split in settings.splits:
                    if split not in data.splits:
                        log.info("%s has no %s split", name, split)
                        continue
                    encoded = data.splits[split]
                    with progress.evaluation(split, name, len(encoded)) as advance:
                        result = evaluator.evaluate(model, name, encoded, advance)
                    if result.metrics:
                        metrics[name][split] = result.metrics
                    if output is not None:
                        records = task.prediction_records(result.logits_MC, encoded, data.examples[split], data.labels)
                        output.write_predictions(name, split, records)
        results = Results(status="finished", tasks=metrics)
        if all("validation" in splits for splits in metrics.values()):
            results.score = score({name: splits["validation"] for name, splits in metrics.items()}, model.tasks)
        print(plain_table(results, {name: task.main_metric or "" for name, task in model.tasks.items()}))
        if output is not None:
            output.write_results(results)
        _compare(metrics, run.read_results())
    return 0


def tasks_with_data(
    saved: Mapping[str, Any], model: MultiTaskModel, cache_dir: Path | None
) -> Iterator[tuple[str, Task, TaskData]]:
    """Yield the tasks of a run's configuration with their data, prepared as in training; `model` gets the tasks."""
    for name, task in build_tasks(saved["tasks"]).items():
        data = prepare(
            task,
            model.encoder.tokenizer,
            seed=saved["seed"],
            cache_dir=cache_dir,
            max_length_limit=model.encoder.max_length,
            labels=model.labels[name],
            name=name,
        )
        train = data.splits.get("train")
        if train is not None and train.labels is not None and data.labels is not None:
            task.fit_class_weights(train.labels, data.labels)
        model.tasks[name] = task
        yield name, task, data


def training_metrics(
    run: RunFolder, most_examples: int, *, cache_dir: Path | None = None, allow_targets: list[str] | None = None
) -> dict[str, dict[str, float]]:
    """Score a run's model on the examples that it was trained on: task -> metric -> value.

    Args:
        run: a finished one.
        most_examples: of each task; drawn by the run's seed where there are more.
        cache_dir: where tokenised texts are kept.
        allow_targets: packages besides the usual ones that the run's tasks may name.
    """
    saved = run.read_config()
    check_tasks(saved["tasks"], allow_targets)
    device = choose_device(saved["trainer"].get("device", "auto"))
    precision = choose_precision(saved["trainer"].get("precision", "auto"), device)
    evaluator = Evaluator(device, precision, saved["trainer"].get("evaluation_batch_tokens", 8192))
    model = load_model(run.model_folder, device, allow_packages=allow_targets or ())
    use_choices_of(run)
    metrics = {}
    for name, _, data in tasks_with_data(saved, model, cache_dir):
        split = data.splits["train"]
        if split.num_examples > most_examples:
            order = np.random.default_rng([saved["seed"], most_examples]).permutation(split.num_examples)
            split = split.select(np.sort(order[:most_examples]))
        metrics[name] = evaluator.evaluate(model, name, split).metrics
    return metrics


def _compare(metrics: Mapping[str, Mapping[str, Mapping[str, float]]], results: Results) -> None:
    """Say whether the figures are those that the run ended with."""
    compared, differences = 0, []
    for name, splits in metrics.items():
        for split, values in splits.items():
            former = results.tasks.get(name, {}).get(split, {})
            compared += len(former.keys() & values.keys())
            now = metric_records(split, {name: values})  # type: ignore[arg-type]
            differences += [
                f"{key} was {former[metric]!r}, is {value!r}"
                for (key, value), metric in zip(now.items(), values, strict=True)
                if metric in former and former[metric] != value
            ]
    if differences:
        log.warning("not the figures that the run ended with: %s", "; ".join(differences))
    elif compared:
        log.info("the same figures as at the end of the run")
