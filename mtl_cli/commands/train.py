"""`mtl train`: check, prepare, train, score the test split once, save."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_cli.build import build_tasks, build_training_run, instantiate
from mtl_cli.check_config import check_config
from mtl_cli.commands import quiet_libraries
from mtl_cli.commands.dry_run import compare_with_hard_sharing
from mtl_cli.data import TaskData, prepare, training_texts
from mtl_cli.distributed.launched import launched
from mtl_cli.distributed.processes import Processes, check_folder_in_common, prepared_by_main_first, processes_of_run
from mtl_cli.distributed.ranks import from_main, is_main, largest_over_ranks
from mtl_cli.encoders import Encoder
from mtl_cli.errors import UserError
from mtl_cli.evaluation import Evaluator, StopEvaluation, metric_records, score, sum_usage_over_ranks
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.saved_model import save_model
from mtl_cli.sharing import SharingStrategy
from mtl_cli.sweeps.sweep_folder import group_of_run
from mtl_cli.tasks import Task
from mtl_cli.tracking import (
    ConsoleLog,
    Loggers,
    MetricsFile,
    NoMetricsFile,
    ParameterCounts,
    Progress,
    Results,
    RunFolder,
    RunInfo,
    Seen,
    TrainingCost,
    environment_record,
)
from mtl_cli.tracking.console_log import ALREADY_SHOWN
from mtl_cli.tracking.run_folder import remove_if_empty
from mtl_cli.training import (
    Interrupted,
    Progression,
    StopRequest,
    TrainingRun,
    agreed_signal,
    peak_memory_bytes,
    seed_everything,
)
from mtl_cli.training.fsdp import whole_weights

log = logging.getLogger(__name__)

# Settings of a resumed run that may differ from those it was started with: they do not change what it computes.
_OF_THE_MOMENT = ("resume", "debug")


def train(config: dict[str, Any], output_folder: Path, overrides: list[str]) -> int:
    """Train as `config` says, or go on with the run that it names in `resume`; return the exit code.

    Of several processes that were started together, rank 0 has the say: the others do as its configuration says, in its
    run folder, into which it alone writes.
    """
    if config.get("dry_run"):
        if launched().rank > 0:
            return 0
        remove_if_empty(output_folder)
        if config.get("resume"):
            raise UserError("dry_run: says what a new run would train; leave out resume")
        check_config(config, config.get("allow_targets"))
        encoder, tasks, data = load(config)
        compare_with_hard_sharing(
            config, encoder, data, lambda encoder, strategy: _build(config, encoder, strategy, tasks, data)
        )
        return 0
    ending = _Ending()
    with processes_of_run(_device_setting(config), ending) as processes:
        opened = _open(config, output_folder, overrides, processes) if is_main() else None
        path, config, resume = from_main(opened)
        folder = RunFolder(path)
        with folder.in_use() if is_main() else nullcontext():
            ending.folder = folder  # not before it is held: a run that another process trains has not failed
            check_folder_in_common(folder.path)
            _train_in(folder, config, resume, processes)
    return 0


def _device_setting(config: Mapping[str, Any]) -> str:
    """Return trainer.device before anything is checked."""
    trainer = config.get("trainer")
    return str(trainer.get("device", "auto")) if isinstance(trainer, Mapping) else "auto"


class _Ending:
    """Says in results.json that a process of the run has ended before its time, where the loop cannot."""

    def __init__(self) -> None:
        self.folder: RunFolder | None = None

    def __call__(self, error: UserError) -> None:
        if is_main() and self.folder is not None:
            results = self.folder.read_results()
            results.fail(error)
            self.folder.write_results(results)


def _open(
    config: dict[str, Any], output_folder: Path, overrides: list[str], processes: Processes
) -> tuple[str, dict[str, Any], bool]:
    """Check the configuration; make or open the run folder. Return its path, the configuration, and if it resumes."""
    if config.get("resume"):
        folder, config = _reopen(config, overrides)
        return str(folder.path), config, True
    try:
        check_config(config, config.get("allow_targets"))
    except UserError:
        remove_if_empty(output_folder)
        raise
    folder = RunFolder.create(output_folder)
    folder.write_config(config)
    folder.write_overrides(overrides)
    folder.write_environment({**environment_record(), "num_processes": processes.place.world_size})
    return str(folder.path), config, False


def _train_in(folder: RunFolder, config: dict[str, Any], resume: bool, processes: Processes) -> None:
    """Train in a folder that holds the configuration already, and write down how it ends."""
    results = folder.read_results() if resume else Results()
    results.status, results.error = "running", None
    if is_main():
        folder.write_results(results)
    file_level = logging.NOTSET if is_main() else logging.WARNING
    with ConsoleLog(folder.log_file_of(processes.place.rank), terminal=is_main(), file_level=file_level):
        nodes = (config.get("loggers") or {}).values() if is_main() else ()
        loggers = Loggers([instantiate(node) for node in nodes])
        try:
            with processes.explaining():
                _run(config, folder, results, loggers, resume)
        except KeyboardInterrupt:
            results.status = "interrupted"
            log.warning("interrupted; go on with: mtl train resume=%s", folder.path)
            raise
        except BaseException as error:
            results.fail(error)
            # The caller shows the error; the log file keeps it with its traceback.
            log.error("%s", results.error, exc_info=error, extra={ALREADY_SHOWN: True})
            raise
        finally:
            if is_main():
                folder.write_results(results)
            loggers.finish(results.flat(), results.status)


def _reopen(config: dict[str, Any], overrides: list[str]) -> tuple[RunFolder, dict[str, Any]]:
    """Open the run to go on with and return the configuration that it was started with."""
    others = [override for override in overrides if override.split("=")[0] not in (*_OF_THE_MOMENT, "allow_targets")]
    if others:
        raise UserError(
            f"resume: a run goes on with the settings it was started with; leave out {', '.join(others)}, or start a "
            "new run with them"
        )
    folder = RunFolder.open(config["resume"])
    if folder.read_results().status == "finished":
        raise UserError(f"resume: the run in {folder.path} is finished; there is nothing to go on with")
    saved = folder.read_config()
    check_config(saved, config.get("allow_targets"))
    return folder, saved


@dataclass(frozen=True)
class _Prepared:
    model: MultiTaskModel
    data: dict[str, TaskData]


def _training_texts(tasks: Mapping[str, Task], seed: int) -> Iterator[str]:
    """All texts that are trained on, for an encoder that trains its own tokenizer."""
    for name, task in tasks.items():
        yield from training_texts(task, seed=seed, name=name)


def _prepare(config: Mapping[str, Any]) -> _Prepared:
    """Load the encoder and the data of all tasks, and put the model together."""
    with prepared_by_main_first():
        encoder, tasks, data = load(config)
    return _Prepared(_build(config, encoder, instantiate(config["sharing"]), tasks, data), data)


def load(config: Mapping[str, Any]) -> tuple[Encoder, dict[str, Task], dict[str, TaskData]]:
    """Load the encoder and the data of all tasks."""
    quiet_libraries()
    seed_everything(config["seed"])
    tasks = build_tasks(config["tasks"])
    encoder = instantiate(config["encoder"]).build(_training_texts(tasks, config["seed"]))
    cache_dir = Path(config["cache_dir"]) if config.get("cache_dir") else None
    data = {
        name: prepare(
            task,
            encoder.tokenizer,
            seed=config["seed"],
            cache_dir=cache_dir,
            max_length_limit=encoder.max_length,
            name=name,
        )
        for name, task in tasks.items()
    }
    for name, task_data in data.items():
        sizes = ", ".join(f"{split} {split_data.num_examples:,}" for split, split_data in task_data.splits.items())
        log.info("%s: %s examples", name, sizes)
        train_labels = task_data.splits["train"].labels
        if train_labels is not None and task_data.labels is not None:
            tasks[name].fit_class_weights(train_labels, task_data.labels)
        for note in task_data.notes:
            log.info("  %s", note)
    return encoder, tasks, data


def _build(
    config: Mapping[str, Any],
    encoder: Encoder,
    strategy: SharingStrategy,
    tasks: Mapping[str, Task],
    data: Mapping[str, TaskData],
) -> MultiTaskModel:
    """Put the model together."""
    # Seeded again: initial weights do not depend on what preparing the data drew.
    seed_everything(config["seed"])
    return MultiTaskModel(encoder, strategy, tasks, {name: task_data.labels for name, task_data in data.items()})


def _run(config: dict[str, Any], folder: RunFolder, results: Results, loggers: Loggers, resume: bool) -> None:
    prepared = _prepare(config)
    model, data = prepared.model, prepared.data
    counts = model.parameter_counts()
    results.parameters = ParameterCounts(counts["total"], counts["shared"], counts["task_specific"])
    log.info("parameters: %s, of which %s shared", f"{counts['total']:,}", f"{counts['shared']:,}")
    trainer = instantiate(config["trainer"])
    with (
        MetricsFile(folder.metrics_file) if is_main() else NoMetricsFile() as metrics_file,
        Progress(enabled=is_main()) as progress,
    ):
        run = build_training_run(
            config,
            model,
            data,
            folder,
            metrics_file,
            loggers,
            progress,
            RunInfo(
                folder=folder.path,
                name=folder.path.name,
                group=group_of_run(folder.path),
                config=config,
                tasks=tuple(model.tasks),
            ),
        )
        state = trainer.fit(run, resume=resume)
        device = choose_device(trainer.device)
        with StopRequest() as stop:
            evaluator = Evaluator(
                device, choose_precision(trainer.precision, device), trainer.evaluation_batch_tokens, lambda: bool(stop)
            )
            try:
                _score_and_save(run, evaluator, results, state, largest_over_ranks(peak_memory_bytes(device)))
            except StopEvaluation:
                raise Interrupted(agreed_signal(stop)) from None
        results.status = "finished"
        if is_main():
            folder.write_results(results)
        progress.results_table(
            results, {name: task.main_metric or "" for name, task in model.tasks.items()}, folder.path
        )


def _score_and_save(
    run: TrainingRun, evaluator: Evaluator, results: Results, state: Progression, peak_memory: int
) -> None:
    """Score validation and test with the best weights, write the predictions and the model."""
    weights = whole_weights(run.model)
    if is_main():
        save_model(run.model, run.folder.model_folder, weights)
    run.model.sharing.forget_usage(run.model)
    results.tasks = {name: {} for name in run.model.tasks}
    for split in ("validation", "test"):
        for name, task in run.model.tasks.items():
            task_data = run.data[name]
            if split not in task_data.splits:
                continue
            encoded, examples = task_data.splits[split], task_data.examples[split]
            with run.progress.evaluation(split, name, len(encoded)) as advance:
                result = evaluator.evaluate(run.model, name, encoded, advance)
            if result.metrics:
                results.tasks[name][split] = result.metrics
            if not is_main():
                continue
            records = list(task.prediction_records(result.logits_MC, encoded, examples, task_data.labels))
            run.folder.write_predictions(name, split, records)
            run.loggers.log_predictions(name, split, records)
            if encoded.labels is not None and task_data.labels is not None:
                matrix = task.confusion_matrix(task.predict(result.logits_MC), encoded.labels, task_data.labels)
                if matrix is not None:
                    run.loggers.log_confusion_matrix(name, split, task_data.labels, matrix)
        if split == "validation":  # what evaluation has used is counted on this split
            sum_usage_over_ranks(run.model)
            learnt = run.model.sharing.learnt(run.model)
            results.sharing = {name: found.to_dict() for name, found in learnt.items()}
            for warning in run.model.sharing.warnings_at_end(run.model):
                log.warning(warning)
    test = {name: splits["test"] for name, splits in results.tasks.items() if "test" in splits}
    if test:
        record = metric_records("test", test)
        run.metrics_file.append({"step": state.step, **record})
        run.loggers.log(record, state.step)
    results.score = score({name: splits["validation"] for name, splits in results.tasks.items()}, run.model.tasks)
    results.training = TrainingCost(
        steps=state.step,
        seconds=state.seconds,
        tokens=state.tokens,
        tokens_per_second=state.tokens / state.training_seconds if state.training_seconds else 0.0,
        peak_memory_bytes=peak_memory,
    )
    results.seen = {
        name: Seen(state.tokens_of_tasks.get(name, 0), state.passes_of_tasks.get(name, 0.0)) for name in run.model.tasks
    }
