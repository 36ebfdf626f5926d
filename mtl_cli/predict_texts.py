"""Predictions of a model for raw texts, without files or a run.

Shapes: M labels, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.tasks import Task
from mtl_cli.types import UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


def predict_texts(model: MultiTaskModel, name: str, texts: Sequence[Any], max_tokens: int) -> list[dict[str, Any]]:
    """Predict one of the model's tasks for raw texts: see `MultiTaskModel.predict`."""
    if name not in model.tasks:
        raise UserError(f"The model has no task '{name}'. It has: {', '.join(model.tasks)}.")
    task = model.tasks[name]
    if len(texts) == 0:
        return []
    columns = _columns(task, texts)
    limit = min(task.max_length or model.encoder.max_length, model.encoder.max_length)
    split = _encode(task.encode(columns, model.encoder.tokenizer, limit, None), len(texts))
    logits_MC = _logits(model, name, split, max_tokens)
    examples = datasets.Dataset.from_dict(columns)
    return list(task.prediction_records(logits_MC, split, examples, model.labels[name]))


def _columns(task: Task, texts: Sequence[Any]) -> dict[str, list[Any]]:
    """The input columns that the task reads, or an error that says what a text should have been."""
    names = task.input_columns()
    if task.level == "word":
        wanted = "a non-empty list of words"
        fits = [not isinstance(text, str) and len(text) > 0 and _are_strings(text) for text in texts]
    elif len(names) > 1:
        wanted = f"{len(names)} strings ({', '.join(names)})"
        fits = [not isinstance(text, str) and len(text) == len(names) and _are_strings(text) for text in texts]
    else:
        wanted = "a string"
        fits = [isinstance(text, str) for text in texts]
    if not all(fits):
        place = fits.index(False)
        raise UserError(f"Text {place + 1}: found {texts[place]!r}, but {type(task).__name__} takes {wanted} a text.")
    if len(names) > 1:
        return {column: [text[index] for text in texts] for index, column in enumerate(names)}
    return {names[0]: [text if isinstance(text, str) else list(text) for text in texts]}


def _are_strings(items: Sequence[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _encode(rows: Mapping[str, list[Any]], num_examples: int) -> EncodedSplit:
    def flat(column: str, dtype: type) -> np.ndarray | None:
        return np.concatenate([np.asarray(row, dtype=dtype) for row in rows[column]]) if column in rows else None

    def starts(column: str) -> np.ndarray | None:
        return np.concatenate(([0], np.cumsum([len(row) for row in rows[column]]))) if column in rows else None

    input_ids, row_starts = flat("input_ids", np.int32), starts("input_ids")
    assert input_ids is not None
    assert row_starts is not None
    return EncodedSplit(
        input_ids=input_ids,
        row_starts=row_starts,
        token_type_ids=flat("token_type_ids", np.uint8),
        labels=None,
        positions=flat("positions", np.int32),
        label_starts=starts("positions"),
        word_numbers=flat("word_numbers", np.int32),
        example_numbers=np.asarray(rows["example_offset"], dtype=np.int64),
        num_examples=num_examples,
    )


def _logits(model: MultiTaskModel, name: str, split: EncodedSplit, max_tokens: int) -> np.ndarray:
    """Logits in the order of the split's labels, float32, (M, C)."""
    device = next(model.parameters()).device
    starts = np.arange(len(split) + 1) if split.label_starts is None else split.label_starts
    order, parts = [], []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in _batches(split.lengths, max_tokens):
                parts.append(model({name: split.batch(rows).to(device)})[name].float().cpu().numpy())
                order += [np.arange(starts[row], starts[row + 1]) for row in rows]
    finally:
        model.train(was_training)
    logits_MC = np.concatenate(parts)
    result_MC = np.empty_like(logits_MC)
    result_MC[np.concatenate(order)] = logits_MC
    return result_MC


def _batches(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Rows of similar length, at most `max_tokens` at a time and at least one row."""
    order = np.argsort(lengths, kind="stable")
    batch_of_row = np.cumsum(lengths[order]) // max(max_tokens, int(lengths.max()))
    for rows in np.split(order, np.flatnonzero(np.diff(batch_of_row)) + 1):
        yield rows
