"""`mtl predict`: what the model of a finished run says about the texts of a file."""

from __future__ import annotations

import csv
import difflib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_cli.check_config import check_settings
from mtl_cli.commands.settings import PredictSettings
from mtl_cli.data import FileSource
from mtl_cli.errors import UserError
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import autocast, choose_device, choose_precision
from mtl_cli.saved_model import load_model
from mtl_cli.tasks import Task
from mtl_cli.tracking import ConsoleLog, Progress

log = logging.getLogger(__name__)

_OUTPUT_FORMATS = (".jsonl", ".csv", ".tsv")
_ROWS_AT_ONCE = 4096  # bounds the memory that long files take

Row = dict[str, Any]


def predict(config: Mapping[str, Any]) -> int:
    """Predict as `config` (conf/predict.yaml) says; return the exit code."""
    settings = check_settings(PredictSettings, config)
    output = Path(settings.output)
    if output.suffix not in _OUTPUT_FORMATS:
        raise UserError(
            f"output: found {settings.output!r}, allowed are names that end in {', '.join(_OUTPUT_FORMATS)}"
        )
    with ConsoleLog():
        model = load_model(settings.run, choose_device(settings.device), allow_packages=settings.allow_targets)
        rows = _read(Path(settings.input), model, settings)
        inputs = _inputs(rows, model, settings)
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".{output.name}.partial")
        with Progress() as progress:
            records = _records(rows, inputs, model, settings, progress)
            if output.suffix == ".jsonl":
                _write_jsonl(partial, records)
            else:
                _write_table(partial, records, delimiter="\t" if output.suffix == ".tsv" else ",")
        os.replace(partial, output)
        log.info("%s texts, tasks %s: %s", f"{len(rows):,}", ", ".join(inputs), output)
    return 0


def _read(path: Path, model: MultiTaskModel, settings: PredictSettings) -> list[Row]:
    """The rows of the input file as dictionaries."""
    if not path.is_file():
        raise UserError(f"input: no file {str(path)!r} (from {Path.cwd()})")
    if path.suffix == ".txt":
        return _read_lines(path, model, settings)
    return list(FileSource(test=str(path)).load()["test"])


def _read_lines(path: Path, model: MultiTaskModel, settings: PredictSettings) -> list[Row]:
    """A text a line: for pairs two texts with a tab between, for tagging words with spaces between."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; convert it, for example with iconv") from error
    names = _chosen(model, settings) or list(model.tasks)
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        row: Row = {}
        for name in names:
            task = model.tasks[name]
            columns = task.input_columns()
            parts = [line.split()] if task.level == "word" else line.split("\t") if len(columns) > 1 else [line]
            if len(parts) != len(columns):
                if settings.tasks is None:
                    continue  # a task on pairs does not fit a file of single texts
                raise UserError(f"{path}, line {number}: task {name!r} takes {len(columns)} texts with a tab between")
            row.update(zip(columns, parts, strict=True))
        rows.append({"text": line, **row})
    return rows


def _chosen(model: MultiTaskModel, settings: PredictSettings) -> list[str] | None:
    """The tasks that the user names, or None."""
    if settings.tasks is None:
        return None
    names = [settings.tasks] if isinstance(settings.tasks, str) else settings.tasks
    for name in names:
        if name not in model.tasks:
            near = difflib.get_close_matches(name, model.tasks, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"tasks: found {name!r}, the run has {', '.join(model.tasks)}{hint}")
    return names


def _inputs(rows: Sequence[Row], model: MultiTaskModel, settings: PredictSettings) -> dict[str, list[str]]:
    """For each task that is predicted, the columns of the input that its texts come from."""
    if not rows:
        raise UserError(f"input: {settings.input} holds no row")
    present = list(rows[0])
    needed = {
        name: [settings.columns.get(column, column) for column in task.input_columns()]
        for name, task in model.tasks.items()
    }
    chosen = _chosen(model, settings)
    fitting = {name: columns for name, columns in needed.items() if set(columns) <= set(present)}
    unfit = [name for name in chosen or () if name not in fitting]
    if unfit or not fitting:
        lacking = {name: needed[name] for name in unfit or needed}
        wanted = "; ".join(f"{name} needs {', '.join(columns)}" for name, columns in lacking.items())
        example = next(column for columns in lacking.values() for column in columns if column not in present)
        raise UserError(
            f"input: {settings.input} has the columns {', '.join(present)}, but {wanted}. Rename a column, or say "
            f"which one to take: columns.{example}=COLUMN"
        )
    return fitting if chosen is None else {name: fitting[name] for name in chosen}


def _records(
    rows: Sequence[Row],
    inputs: Mapping[str, Sequence[str]],
    model: MultiTaskModel,
    settings: PredictSettings,
    progress: Progress,
) -> Iterator[tuple[Row, dict[str, Row]]]:
    """Each input row with what is predicted for it: task -> prediction record."""
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    with progress.evaluation("predict", ", ".join(inputs), len(rows)) as advance:
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[begin : begin + _ROWS_AT_ONCE]
            predictions: dict[str, list[Row]] = {}
            for name, columns in inputs.items():
                task = model.tasks[name]
                texts = [_text(row, columns, task, settings.input, begin + i) for i, row in enumerate(part)]
                with autocast(precision, device):
                    predictions[name] = model.predict(name, texts, settings.batch_tokens)
            advance(len(part))
            added = {name: {"index", *model.tasks[name].input_columns()} for name in inputs}
            for i, row in enumerate(part):
                yield (
                    row,
                    {
                        name: {key: value for key, value in found[i].items() if key not in added[name]}
                        for name, found in predictions.items()
                    },
                )


def _text(row: Row, columns: Sequence[str], task: Task, path: str, number: int) -> Any:
    """What `MultiTaskModel.predict` takes: a text, a pair, or a list of words."""
    values = [row[column] for column in columns]
    for column, value in zip(columns, values, strict=True):
        if isinstance(value, str) and task.level == "word":
            values = [value.split()]
            value = values[0]
        if not isinstance(value, str | list | None):
            raise UserError(f"{path}, row {number + 1}, column {column!r}: found {value!r}, which is no text.")
        empty = value is None or len(value) == 0 or (isinstance(value, str) and not value.strip())
        if empty:
            raise UserError(f"{path}, row {number + 1}, column {column!r}: no text. Fill it in or remove the row.")
    return values[0] if len(values) == 1 else tuple(values)


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value


def _write_jsonl(path: Path, records: Iterable[tuple[Row, dict[str, Row]]]) -> None:
    """One object a row: the input's columns, and "predictions": {task: {"prediction": ..., ...}}."""
    with path.open("w", encoding="utf-8") as file:
        for row, predictions in records:
            file.write(json.dumps({**row, "predictions": predictions}, ensure_ascii=False, default=_jsonable) + "\n")


def _write_table(path: Path, records: Iterable[tuple[Row, dict[str, Row]]], delimiter: str) -> None:
    """The input's columns, then for each task its prediction and, for classes, the probability of that class."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row, predictions in records:
            cells = {key: " ".join(value) if isinstance(value, list) else value for key, value in row.items()}
            for name, found in predictions.items():
                answer = found["prediction"]
                cells[f"{name}_prediction"] = " ".join(answer) if isinstance(answer, list) else answer
                probabilities = found.get("probabilities")
                if isinstance(probabilities, dict) and isinstance(answer, str):
                    cells[f"{name}_probability"] = probabilities[answer]
            if writer is None:
                writer = csv.DictWriter(file, fieldnames=list(cells), delimiter=delimiter)
                writer.writeheader()
            writer.writerow(cells)
