"""What classification of single texts and of pairs has in common: a class a row."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.tasks import metrics
from mtl_cli.tasks.class_task import ClassTask, softmax
from mtl_cli.tasks.encode_texts import encode_texts
from mtl_cli.tasks.records import input_values, rounded
from mtl_cli.tasks.task import did_you_mean
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

_METRICS = ("accuracy", "f1_macro", "f1", "matthews", "recall_macro")


@dataclass(kw_only=True)
class TextClassification(ClassTask):
    """A class a row, from one text or two.

    Args:
        label: column of the class.
        positive_label: the label that `f1` is about. None: the second one, as in GLUE; only with two labels.
    """

    label: str = "label"
    positive_label: str | None = None

    label_kind = "class"

    @abstractmethod
    def _text_columns(self) -> dict[str, str]:
        """Columns of the text or the two texts, by role."""

    def columns(self) -> dict[str, str]:
        """Give the column of each role."""
        return {**self._text_columns(), "label": self.label}

    @property
    def label_column(self) -> str:
        """The column of the class."""
        return self.label

    def allowed_metrics(self) -> Sequence[str]:
        """Names that `metrics` may hold."""
        return _METRICS

    def default_metrics(self) -> Sequence[str]:
        """Accuracy, and F1 averaged over the classes."""
        return ("accuracy", "f1_macro")

    def label_list(self, found: Iterable[str]) -> list[str]:
        """Give the label names in the order of their ids: `labels`, or as found."""
        labels = list(found if self.labels is None else self.labels)
        self._check_labels(labels)
        return labels

    def encoding_settings(self) -> dict[str, Any]:
        """Whatever changes the result of `encode` besides its arguments."""
        return {"kind": "texts", "version": 1, "columns": self.columns()}

    def encode(
        self,
        examples: Mapping[str, list[Any]],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        label_ids: Mapping[str, int] | None,
    ) -> dict[str, list[Any]]:
        """Tokenise a batch of examples, one row each (see `Task.encode`)."""
        columns = self._text_columns()
        texts = examples[columns["text"]]
        pairs = examples[columns["text_pair"]] if "text_pair" in columns else None
        encoded = encode_texts(texts, pairs, tokenizer, max_length)
        encoded["example_offset"] = list(range(len(texts)))
        if label_ids is not None and self.label in examples:
            encoded["labels"] = [
                self._label_id(name, offset, label_ids) for offset, name in enumerate(examples[self.label])
            ]
        return encoded

    def compute_metrics(
        self, predictions_M: np.ndarray, labels_M: np.ndarray, split: EncodedSplit, labels: Sequence[str] | None
    ) -> dict[str, float]:
        """Compute `metrics` over a split."""
        assert labels is not None
        assert self.metrics is not None
        confusion_CC = self.confusion_matrix(predictions_M, labels_M, labels)
        return {name: self._metric(name, confusion_CC, labels) for name in self.metrics}

    def metric_of_counts(
        self, metric: str, records: Sequence[Mapping[str, Any]], labels: Sequence[str] | None
    ) -> Callable[[np.ndarray], float]:
        """Prepare a metric to be computed again with other numbers of each example (see `Task.metric_of_counts`)."""
        assert labels is not None
        ids = {label: number for number, label in enumerate(labels)}
        cells_E = np.array([ids[record["label"]] * len(labels) + ids[record["prediction"]] for record in records])

        def of_counts(counts_E: np.ndarray) -> float:
            confusion_CC = metrics.confusion_matrix_of_counts(cells_E, counts_E, len(labels))
            return self._metric(metric, confusion_CC, labels)

        return of_counts

    def _metric(self, name: str, confusion_CC: np.ndarray, labels: Sequence[str]) -> float:
        if name == "f1":
            return metrics.f1(confusion_CC, self._positive(labels))
        value: float = getattr(metrics, name)(confusion_CC)
        return value

    def prediction_records(
        self, logits_MC: np.ndarray, split: EncodedSplit, examples: "datasets.Dataset", labels: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Give one record an example: its inputs, `label`, `prediction` and `probabilities` of all labels."""
        assert labels is not None
        predictions_M, probabilities_MC = self.predict(logits_MC), softmax(logits_MC)
        inputs = input_values(examples, self.input_columns())
        for index, (values, prediction, probabilities_C) in enumerate(
            zip(inputs, predictions_M, probabilities_MC, strict=True)
        ):
            record = {"index": index, **values}
            if split.labels is not None:
                record["label"] = labels[split.labels[index]]
            record["prediction"] = labels[prediction]
            record["probabilities"] = dict(zip(labels, rounded(probabilities_C), strict=True))
            yield record

    def _label_hint(self) -> str:
        return f"Mend it, or list all labels in `labels`; is `{self.label}` the right column?"

    def _positive(self, labels: Sequence[str]) -> int:
        return 1 if self.positive_label is None else list(labels).index(self.positive_label)

    def _check_labels(self, labels: Sequence[str]) -> None:
        super()._check_labels(labels)
        if self.positive_label is not None and self.positive_label not in labels:
            raise UserError(
                f"`positive_label` is '{self.positive_label}', but the labels are {', '.join(labels)}."
                f"{did_you_mean(self.positive_label, labels)}"
            )
        if self.positive_label is None and "f1" in (self.metrics or ()) and len(labels) != 2:
            raise UserError(
                f"The metric `f1` is about one label of two, and there are {len(labels)}. "
                "Set `positive_label`, or use `f1_macro`."
            )
