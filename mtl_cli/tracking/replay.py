"""Tells a logger, after a run, all that the run would have told it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from mtl_cli.tracking.logger import RunInfo, RunLogger
from mtl_cli.tracking.metrics_file import read_metrics
from mtl_cli.tracking.run_folder import RunFolder

_SPLITS = ("validation", "test")


def replay(folder: RunFolder, logger: RunLogger, *, group: str | None = None, replaces: bool = False) -> None:
    """Drive a logger with what a run folder holds, in the order in which training does.

    What is not in the folder is left out: confusion matrices of taggers of spans, whose predictions are kept in a
    mended form, and values of the machine that the run was on.

    Args:
        folder: a run that has come to an end, whichever.
        logger: opened, told and closed here.
        group: the sweep, study or search that the run belongs to.
        replaces: whether what the dashboard may have of this run is to be replaced.

    Raises:
        Exception: whatever a logger raises, or reading the folder.
    """
    config, results = folder.read_config(), folder.read_results()
    tasks = tuple(config.get("tasks") or ())
    records = read_metrics(folder.metrics_file)
    labels = _label_names(folder)
    name = folder.path.resolve().name
    logger.start(RunInfo(folder=folder.path, name=name, group=group, config=config, tasks=tasks, replaces=replaces))
    try:
        at_the_end = [record for record in records if any(key.startswith("test/") for key in record)]
        for record in records:
            if record not in at_the_end:
                _log(logger, record)
        for split, task in ((split, task) for split in _SPLITS for task in tasks):
            _log_predictions(folder, logger, task, split, labels.get(task))
        for record in at_the_end:
            _log(logger, record)
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            logger.finish({}, "failed")
        raise
    logger.finish(results.flat(), results.status)


def _log(logger: RunLogger, record: Mapping[str, Any]) -> None:
    """One line of metrics.jsonl, where null stands for what was not a finite number."""
    values = {key: math.nan if value is None else value for key, value in record.items() if key != "step"}
    logger.log(values, record["step"])


def _log_predictions(folder: RunFolder, logger: RunLogger, task: str, split: str, labels: Sequence[str] | None) -> None:
    if not folder.predictions_file(task, split).is_file():
        return
    records = folder.read_predictions(task, split)
    logger.log_predictions(task, split, records)
    labels = labels or _names_with_probabilities(records)
    matrix = None if labels is None else confusion_matrix(records, labels)
    if labels is not None and matrix is not None:
        logger.log_confusion_matrix(task, split, labels, matrix)


def confusion_matrix(records: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> np.ndarray | None:
    """Count labels (rows) against predictions (columns) of predictions.jsonl, int64, shape (C, C).

    None where the records do not tell: unlabelled ones, scores, and names that are no labels.
    """
    ids = {name: number for number, name in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    try:
        for record in records:
            for label, prediction in _pairs(record):
                matrix[ids[label], ids[prediction]] += 1
    except (KeyError, TypeError, ValueError):
        return None
    return matrix if matrix.any() else None


def _pairs(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Label and prediction, or those of each word that has a label."""
    label, prediction = record["label"], record["prediction"]
    if isinstance(label, list):
        yield from (pair for pair in zip(label, prediction, strict=True) if pair[0] is not None)
    else:
        yield label, prediction


def _names_with_probabilities(records: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The labels of classification, in the order of their ids, where the folder has no model to ask."""
    probabilities = records[0].get("probabilities") if records else None
    return list(probabilities) if isinstance(probabilities, Mapping) else None


def _label_names(folder: RunFolder) -> dict[str, list[str]]:
    """Labels of each task in the order of their ids, as the saved model has them; without taggers of spans."""
    try:
        tasks = json.loads((folder.model_folder / "mtl.json").read_text(encoding="utf-8"))["tasks"]
        return {
            name: [str(label) for label in task["labels"]]
            for name, task in tasks.items()
            if task["labels"] is not None and task["args"].get("scheme", "none") == "none"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
