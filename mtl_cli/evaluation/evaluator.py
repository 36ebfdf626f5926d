"""Logits, metrics and loss of a model over whole splits: in training, at its end, and for `mtl evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mtl_cli.data import EncodedSplit
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import autocast
from mtl_cli.tasks import Task
from mtl_cli.types import Split


@dataclass(frozen=True)
class SplitResult:
    """What a model gives on one split of one task.

    Attributes:
        logits_MC: float32, in the order of the split's labels (of its rows for tasks with a label a row).
        metrics: the task's metrics and its loss; empty for an unlabelled split.
    """

    logits_MC: np.ndarray
    metrics: dict[str, float]


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Cut rows into batches of at most `max_tokens` tokens (at least one row), neighbours in length, longest first.

    Longest first: if memory does not suffice, that shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        tokens = np.cumsum(lengths[order[begin:]])
        size = max(1, int(np.searchsorted(tokens, max_tokens, side="right")))
        yield order[begin : begin + size]
        begin += size


class Evaluator:
    """Runs a model over splits.

    Args:
        device: where the model is.
        precision: precision of the forward pass.
        max_tokens: tokens a batch.
        should_stop: asked between batches; when it says yes, `StopEvaluation` is raised.
    """

    def __init__(
        self,
        device: torch.device,
        precision: Literal["bf16", "fp32"],
        max_tokens: int = 8192,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.device = device
        self.precision = precision
        self.max_tokens = max_tokens
        self.should_stop = should_stop

    def logits(
        self, model: MultiTaskModel, name: str, split: EncodedSplit, advance: Callable[[int], None] = lambda rows: None
    ) -> np.ndarray:
        """Logits for each label slot of a split, float32, shape (M, C); `advance` is told how many rows were done."""
        num_slots = len(split) if split.label_starts is None else int(split.label_starts[-1])
        logits_MC: np.ndarray | None = None
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                for rows in batches_by_length(split.lengths, self.max_tokens):
                    if self.should_stop():
                        raise StopEvaluation
                    with autocast(self.precision, self.device):
                        part = model({name: split.batch(rows).to(self.device)})[name]
                    values = part.float().cpu().numpy()
                    if logits_MC is None:
                        logits_MC = np.empty((num_slots, values.shape[1]), dtype=np.float32)
                    logits_MC[split.label_slots(rows)] = values
                    advance(len(rows))
        finally:
            model.train(was_training)
        assert logits_MC is not None, "a split has at least one row"
        return logits_MC

    def evaluate(
        self,
        model: MultiTaskModel,
        name: str,
        split: EncodedSplit,
        advance: Callable[[int], None] = lambda rows: None,
    ) -> SplitResult:
        """Logits and, where the split has labels, metrics and loss of the task with this name."""
        task, labels = model.tasks[name], model.labels[name]
        logits_MC = self.logits(model, name, split, advance)
        if split.labels is None:
            return SplitResult(logits_MC, {})
        metrics = task.compute_metrics(task.predict(logits_MC), split.labels, split, labels)
        loss = task.loss(torch.from_numpy(logits_MC), torch.tensor(split.labels))
        return SplitResult(logits_MC, {**metrics, "loss": float(loss)})


class StopEvaluation(Exception):  # noqa: N818 (a request, not an error)
    """The evaluation was asked to stop between two batches."""


def score(metrics: Mapping[str, Mapping[str, float]], tasks: Mapping[str, Task]) -> float:
    """Mean over tasks of the main metric (errors, where lower is better, count negative)."""
    return float(np.mean([tasks[name].main_score(metrics[name]) for name in metrics]))


def metric_records(split: Split, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Flat names such as validation/sst2/accuracy."""
    return {f"{split}/{name}/{key}": value for name, values in metrics.items() for key, value in values.items()}
