"""Logits, metrics and loss of a model over whole splits: in training, at its end, and for `mtl evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mtl_cli.data import EncodedSplit
from mtl_cli.distributed.divided import is_divided
from mtl_cli.distributed.ranks import (
    any_over_ranks,
    from_main,
    gather_on_main,
    is_distributed,
    is_main,
    largest_over_ranks,
    num_ranks,
    rank,
)
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import autocast
from mtl_cli.sampling import assign_rows
from mtl_cli.sharing.gates import CountsUse
from mtl_cli.tasks import Task
from mtl_cli.types import Split


@dataclass(frozen=True)
class SplitResult:
    """What a model gives on one split of one task.

    Attributes:
        logits_MC: float32, in the order of the split's labels (of its rows for tasks with a label a row); of several
            processes, only rank 0 has them.
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
        should_stop: asked between batches; when it says yes in one process, `StopEvaluation` is raised in all.
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
        """Logits for each label slot of a split, float32, shape (M, C); `advance` is told how many rows were done.

        Of several processes each computes the rows of its shard, every row once, and rank 0 has the logits of all; the
        others get none.
        """
        if is_distributed():
            shard_of_row = assign_rows(split.lengths, num_ranks())
            rows_of_ranks = [np.flatnonzero(shard_of_row == number) for number in range(num_ranks())]
        else:
            rows_of_ranks = [np.arange(len(split.lengths))]
        batches_of_ranks = [
            [rows[batch] for batch in batches_by_length(split.lengths[rows], self.max_tokens)] for rows in rows_of_ranks
        ]
        values_LC = self._logits_of_batches(model, name, split, batches_of_ranks[rank()], advance)
        if any_over_ranks(values_LC is None):
            raise StopEvaluation
        assert values_LC is not None
        slots = [
            split.label_slots(np.concatenate([np.zeros(0, dtype=np.int64), *batches])) for batches in batches_of_ranks
        ]
        num_outputs = largest_over_ranks(values_LC.shape[1])
        if not batches_of_ranks[rank()]:
            values_LC = values_LC.new_zeros(0, num_outputs)
        gathered = gather_on_main(values_LC, [len(of_rank) for of_rank in slots])
        if not gathered:
            return np.zeros((0, num_outputs), dtype=np.float32)
        logits_MC = np.empty((sum(map(len, slots)), num_outputs), dtype=np.float32)
        for of_rank, values in zip(slots, gathered, strict=True):
            logits_MC[of_rank] = values.numpy()
        return logits_MC

    def _logits_of_batches(
        self,
        model: MultiTaskModel,
        name: str,
        split: EncodedSplit,
        batches: Sequence[np.ndarray],
        advance: Callable[[int], None],
    ) -> torch.Tensor | None:
        """The logits of these batches of rows on the CPU, in their order; None where the evaluation is to stop."""
        parts = [] if batches else [torch.zeros(0, 0)]
        # With parts of the encoder in several processes all take part in each pass, and stop together.
        in_step = is_distributed() and is_divided(model)
        num_passes = largest_over_ranks(len(batches)) if in_step else len(batches)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad() if in_step else torch.inference_mode():
                for number in range(num_passes):
                    if any_over_ranks(self.should_stop()) if in_step else self.should_stop():
                        return None
                    batch = batches[number] if number < len(batches) else np.zeros(1, dtype=np.int64)
                    with autocast(self.precision, self.device):
                        part = model({name: split.batch(batch).to(self.device)})[name]
                    if number < len(batches):
                        parts.append(part.float().cpu())
                        advance(len(batch) * num_ranks())
        finally:
            model.train(was_training)
        return torch.cat(parts)

    def evaluate(
        self,
        model: MultiTaskModel,
        name: str,
        split: EncodedSplit,
        advance: Callable[[int], None] = lambda rows: None,
    ) -> SplitResult:
        """Logits and, where the split has labels, metrics and loss of the task with this name.

        Of several processes all get the metrics, which rank 0 computes over the whole split; see `logits`.
        """
        task, labels = model.tasks[name], model.labels[name]
        logits_MC = self.logits(model, name, split, advance)
        if split.labels is None:
            return SplitResult(logits_MC, {})
        metrics: dict[str, float] = {}
        if is_main():
            metrics = task.compute_metrics(task.predict(logits_MC), split.labels, split, labels)
            metrics["loss"] = float(task.loss(torch.from_numpy(logits_MC), torch.tensor(split.labels)))
        return SplitResult(logits_MC, from_main(metrics))


def sum_usage_over_ranks(model: MultiTaskModel) -> None:
    """Add up over all processes what gates have counted of their shards, once the evaluation of a split is done."""
    if is_distributed():
        for module in model.modules():
            if isinstance(module, CountsUse):
                module.use.sum_over_ranks(list(model.tasks))


class StopEvaluation(Exception):  # noqa: N818 (a request, not an error)
    """The evaluation was asked to stop between two batches."""


def score(metrics: Mapping[str, Mapping[str, float]], tasks: Mapping[str, Task]) -> float:
    """Mean over tasks of the main metric (errors, where lower is better, count negative)."""
    return float(np.mean([tasks[name].main_score(metrics[name]) for name in metrics]))


def metric_records(split: Split, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Flat names such as validation/sst2/accuracy."""
    return {f"{split}/{name}/{key}": value for name, values in metrics.items() for key, value in values.items()}
