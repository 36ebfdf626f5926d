"""What a task is: its data, its head, its loss, its metrics and the form of its predictions.

Shapes: M labels (one a row, or one a word), C outputs of the head (classes, or 1 for a score).
"""

# No `from __future__ import annotations` in the modules of task types: a dataclass hands its annotations down to the
# constructors of subclasses in other modules, where only objects, not strings, can be checked against a configuration.

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Interval

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.source import Source
from mtl_cli.tasks.heads import Head, LinearHead
from mtl_cli.tasks.metrics import LOWER_IS_BETTER
from mtl_cli.types import OpenFraction, Pooling, PositiveInt, UserError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


class ExampleError(UserError):
    """One example cannot be encoded.

    Attributes:
        offset: the example's place in the batch that was being encoded, from 0.
        column: the column at fault.
        reason: what was found there, what is allowed, and what to do.
    """

    def __init__(self, offset: int, column: str, reason: str) -> None:
        super().__init__(offset, column, reason)
        self.offset, self.column, self.reason = offset, column, reason

    def __str__(self) -> str:
        return f"example {self.offset + 1} of the batch, column `{self.column}`: {self.reason}"


@dataclass(kw_only=True)
class Task(ABC):
    """One task of a run: where its examples come from and how they are learnt and scored.

    Args:
        source: where the examples come from.
        labels: names of the labels in the order of their ids. None: as the data declare them, or sorted, as found in
            the training split.
        max_length: tokens a row, special ones included. None: as many as the encoder takes.
        max_train_examples: keep only so many training examples, drawn by the seed.
        train_fraction: keep only this share of the training examples, drawn by the seed.
        validation_fraction: share of the training examples that becomes the validation split where the data have none.
        head: the layers on top of the encoder.
        share_head_with: name of another task with the same labels whose head this one uses.
        pooling: how hidden states become one vector a text. None: as the encoder's settings say.
        metrics: what to compute, in the order of reports. None: what is usual for the type of task.
        main_metric: the metric that choices rest on (best checkpoint, score of a run). None: the first of `metrics`.
    """

    level: ClassVar[Literal["row", "word"]] = "row"
    """Whether a label belongs to a whole row or to a word."""
    label_kind: ClassVar[Literal["class", "tags", "score"]]
    """What the label column holds: the name of a class, a list of tags (one a word), or a number."""

    source: Source
    labels: list[str] | None = None
    max_length: PositiveInt | None = 128
    max_train_examples: PositiveInt | None = None
    train_fraction: Annotated[float, Interval(gt=0, le=1)] | None = None
    validation_fraction: OpenFraction = 0.1
    head: Head = field(default_factory=LinearHead)
    share_head_with: str | None = None
    pooling: Pooling | None = None
    metrics: list[str] | None = None
    main_metric: str | None = None

    def __post_init__(self) -> None:
        """Fill in `metrics` and `main_metric` and refuse settings that contradict each other.

        Raises:
            UserError: a metric that this type of task does not have, a main metric that is not computed, repeated
                labels.
        """
        allowed = self.allowed_metrics()
        self.metrics = list(self.default_metrics() if self.metrics is None else self.metrics)
        if not self.metrics:
            raise UserError(f"`metrics` is empty. Name at least one of {', '.join(allowed)}, or leave it out.")
        for metric in self.metrics:
            if metric not in allowed:
                raise UserError(
                    f"`metrics` holds '{metric}'. {type(self).__name__} with these settings has {', '.join(allowed)}."
                    f"{did_you_mean(metric, allowed)}"
                )
        self.main_metric = self.metrics[0] if self.main_metric is None else self.main_metric
        if self.main_metric not in self.metrics:
            raise UserError(
                f"`main_metric` is '{self.main_metric}', which is not computed: `metrics` holds "
                f"{', '.join(self.metrics)}. Add it there or choose one of them."
                f"{did_you_mean(self.main_metric, self.metrics)}"
            )
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            repeated = sorted({name for name in self.labels if self.labels.count(name) > 1})
            raise UserError(f"`labels` names {', '.join(repeated)} more than once. Each label has one id.")

    # Metrics: which there are.

    @abstractmethod
    def allowed_metrics(self) -> Sequence[str]:
        """Names that `metrics` may hold, given the other settings."""

    @abstractmethod
    def default_metrics(self) -> Sequence[str]:
        """What `metrics` is where the user does not say; the first is the main metric."""

    @staticmethod
    def higher_is_better(metric: str) -> bool:
        """Whether a greater value of this metric is the better one (errors and losses: no)."""
        return metric not in LOWER_IS_BETTER

    def main_score(self, metrics: Mapping[str, float]) -> float:
        """Give the main metric with the sign that makes greater values better."""
        assert self.main_metric is not None
        value = metrics[self.main_metric]
        return value if self.higher_is_better(self.main_metric) else -value

    # Data: from raw columns to rows of token ids.

    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Give the column of each role, the label's included, for example {"text": "sentence", "label": "label"}."""

    @property
    @abstractmethod
    def label_column(self) -> str:
        """The column that holds the label, the score or the tags."""

    def input_columns(self) -> list[str]:
        """Columns that encoding needs where there are no labels."""
        return [column for column in self.columns().values() if column != self.label_column]

    @abstractmethod
    def label_list(self, found: Iterable[str]) -> list[str] | None:
        """Give the label names in the order of their ids; None for scores.

        Args:
            found: the names in the data: those that the data declare, in their order, or the distinct ones, sorted.

        Raises:
            UserError: the settings do not fit the labels.
        """

    @abstractmethod
    def encoding_settings(self) -> dict[str, Any]:
        """Whatever changes the result of `encode` besides its arguments, fit for JSON. Part of the key of the cache."""

    @abstractmethod
    def encode(
        self,
        examples: Mapping[str, list[Any]],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        label_ids: Mapping[str, int] | None,
    ) -> dict[str, list[Any]]:
        """Tokenise a batch of examples: the function for `datasets.Dataset.map(batched=True)`.

        Args:
            examples: the raw columns. Where the label column is not among them, the result has no labels.
            tokenizer: a fast tokenizer of transformers.
            max_length: tokens a row at most, special ones included. None: no limit.
            label_ids: id of each label name; the label column holds names. None for scores and for unlabelled examples.

        Returns:
            Columns of rows, of which an example gives one or, where a tagged text is too long, several in succession:
            `input_ids`; `token_type_ids` where the tokenizer has segments; `labels`; `example_offset`, the example's
            place in this batch. Tasks with a label a word: `labels` are lists, and `positions` (token of each word in
            its row) and `word_numbers` (of each word in its example) are there also without labels. Nothing is
            padded.

        Raises:
            ExampleError: a label that is not in `label_ids`, tags that do not fit the words.
            UserError: `max_length` has no room for a text, or the tokenizer cannot do what the task needs.
        """

    # Learning.

    @abstractmethod
    def num_outputs(self, labels: Sequence[str] | None) -> int:
        """C, the outputs of the head.

        Raises:
            UserError: the settings (class weights, positive label) do not fit the labels.
        """

    def known_num_outputs(self) -> int | None:
        """C where the settings say it, None where only the data do.

        Raises:
            UserError: as `num_outputs`.
        """
        if self.label_kind != "score" and self.labels is None:
            return None
        return self.num_outputs(self.label_list(()))

    def fit_class_weights(self, train_labels: np.ndarray, labels: Sequence[str]) -> None:  # noqa: B027
        """Learn from the labels of the training split what the loss depends on; most tasks: nothing."""

    @abstractmethod
    def loss(
        self, logits_MC: torch.Tensor, labels_M: torch.Tensor, normalizer: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum of the losses of the valid labels, divided by `normalizer`; computed in float32.

        Args:
            logits_MC: outputs of the head, shape (M, C).
            labels_M: class ids or scores, shape (M,); IGNORE_INDEX is not counted.
            normalizer: what `normalizer` gave for all labels that the mean goes over (those of all micro-batches of a
                step, say). None: for these labels alone, which gives their mean.

        Returns:
            A scalar; zero where no label is valid.
        """

    @abstractmethod
    def normalizer(self, labels_M: torch.Tensor) -> torch.Tensor:
        """Give the number of valid labels (with class weights: the sum of their weights), a float32 scalar.

        It adds up: the normalizer of two batches together is the sum of theirs.
        """

    # Predictions.

    @abstractmethod
    def predict(self, logits_MC: np.ndarray) -> np.ndarray:
        """Class ids (int64) or scores (float32), shape (M,)."""

    @abstractmethod
    def compute_metrics(
        self, predictions_M: np.ndarray, labels_M: np.ndarray, split: EncodedSplit, labels: Sequence[str] | None
    ) -> dict[str, float]:
        """Compute `metrics` over a split.

        Args:
            predictions_M: what `predict` gave, in the order of the split's labels, shape (M,).
            labels_M: the split's labels, shape (M,); IGNORE_INDEX is not counted.
            split: tells which example each label belongs to.
            labels: label names in the order of their ids.
        """

    def confusion_matrix(
        self, predictions_M: np.ndarray, labels_M: np.ndarray, labels: Sequence[str] | None
    ) -> np.ndarray | None:
        """Count labels (rows) against predictions (columns), int64, shape (C, C); None for tasks without classes."""
        return None

    @abstractmethod
    def prediction_records(
        self, logits_MC: np.ndarray, split: EncodedSplit, examples: "datasets.Dataset", labels: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Give one record an example, in their order, of values fit for JSON.

        Args:
            logits_MC: float32, in the order of the split's labels, shape (M, C).
            split: the encoded examples.
            examples: the raw examples.
            labels: label names in the order of their ids.

        Yields:
            `index` (of the example, from 0), the input columns, `label` (only where the split has labels),
            `prediction`, and what the type of task knows about its certainty.
        """

    def metric_of_counts(
        self, metric: str, records: Sequence[Mapping[str, Any]], labels: Sequence[str] | None
    ) -> Callable[[np.ndarray], float] | None:
        """Prepare a metric to be computed again and again, with other numbers of each example: for the bootstrap.

        Args:
            metric: one of `metrics`.
            records: what `prediction_records` gave of a split with labels.
            labels: label names in the order of their ids.

        Returns:
            From how often each example counts (whole numbers, shape (E,)) to the metric over the examples counted so;
            None where this type of task does not offer it.
        """
        return None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Give the end of an error message: the nearest allowed name, or nothing."""
    matches = get_close_matches(name, list(allowed), n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""
