"""Regression: a score for a text or a pair of texts, such as their similarity.

Shapes: M labels, C = 1 output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.tasks import metrics
from mtl_cli.tasks.class_task import divide
from mtl_cli.tasks.encode_texts import encode_texts
from mtl_cli.tasks.records import input_values
from mtl_cli.tasks.task import ExampleError, Task
from mtl_cli.types import IGNORE_INDEX, UserError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class Regression(Task):
    """A score for each text or pair of texts, learnt with the mean squared error on the scale of the data.

    Args:
        text: column of the text, or of the first of two.
        text_pair: column of the second text. None: there is one text.
        label: column of the score.
        min_score: predictions below it become it. None: no limit.
        max_score: predictions above it become it. None: no limit.
    """

    label_kind = "score"

    text: str = "sentence1"
    text_pair: str | None = None
    label: str = "label"
    min_score: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: as for every task, label names, or a range of scores without width.
        """
        super().__post_init__()
        if self.labels is not None:
            raise UserError(f"`labels` is {self.labels}, but the labels of a regression are numbers. Leave it out.")
        if self.min_score is not None and self.max_score is not None and self.min_score >= self.max_score:
            raise UserError(
                f"`min_score` is {self.min_score} and `max_score` {self.max_score}. The first must be the smaller one."
            )

    def columns(self) -> dict[str, str]:
        """Give the column of each role."""
        pair = {} if self.text_pair is None else {"text_pair": self.text_pair}
        return {"text": self.text, **pair, "label": self.label}

    @property
    def label_column(self) -> str:
        """The column of the score."""
        return self.label

    def allowed_metrics(self) -> Sequence[str]:
        """Names that `metrics` may hold."""
        return ("pearson", "spearman", "mse")

    def default_metrics(self) -> Sequence[str]:
        """The correlations of STS-B in GLUE, and the error."""
        return ("pearson", "spearman", "mse")

    def label_list(self, found: Iterable[str]) -> None:
        """Scores have no names."""
        return

    def encoding_settings(self) -> dict[str, Any]:
        """Whatever changes the result of `encode` besides its arguments."""
        return {"kind": "texts with scores", "version": 1, "columns": self.columns()}

    def encode(
        self,
        examples: Mapping[str, list[Any]],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        label_ids: Mapping[str, int] | None,
    ) -> dict[str, list[Any]]:
        """Tokenise a batch of examples, one row each (see `Task.encode`)."""
        texts = examples[self.text]
        encoded = encode_texts(
            texts, None if self.text_pair is None else examples[self.text_pair], tokenizer, max_length
        )
        encoded["example_offset"] = list(range(len(texts)))
        if self.label in examples:
            encoded["labels"] = [self._score(value, offset) for offset, value in enumerate(examples[self.label])]
        return encoded

    def num_outputs(self, labels: Sequence[str] | None) -> int:
        """One output, the score."""
        return 1

    def loss(
        self, logits_MC: torch.Tensor, labels_M: torch.Tensor, normalizer: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Squared error: the sum over valid labels divided by `normalizer` (None: their number)."""
        valid_M = labels_M != IGNORE_INDEX
        differences_M = torch.where(valid_M, logits_MC[:, 0].float() - labels_M.float(), 0.0)
        return divide(differences_M.square().sum(), self.normalizer(labels_M) if normalizer is None else normalizer)

    def normalizer(self, labels_M: torch.Tensor) -> torch.Tensor:
        """Give the number of valid labels."""
        return (labels_M != IGNORE_INDEX).sum(dtype=torch.float32)

    def predict(self, logits_MC: np.ndarray) -> np.ndarray:
        """Give the scores, within `min_score` and `max_score`, float32, shape (M,)."""
        scores_M = np.asarray(logits_MC)[:, 0].astype(np.float32)
        lowest, highest = self.min_score, self.max_score
        return scores_M if lowest is None and highest is None else np.clip(scores_M, lowest, highest)

    def compute_metrics(
        self, predictions_M: np.ndarray, labels_M: np.ndarray, split: EncodedSplit, labels: Sequence[str] | None
    ) -> dict[str, float]:
        """Compute `metrics` over a split."""
        assert self.metrics is not None
        valid_M = labels_M != IGNORE_INDEX
        return {name: getattr(metrics, name)(labels_M[valid_M], predictions_M[valid_M]) for name in self.metrics}

    def metric_of_counts(
        self, metric: str, records: Sequence[Mapping[str, Any]], labels: Sequence[str] | None
    ) -> Callable[[np.ndarray], float]:
        """Prepare a metric to be computed again with other numbers of each example (see `Task.metric_of_counts`)."""
        labels_E, predictions_E = (
            np.array([record[key] for record in records], dtype=np.float64) for key in ("label", "prediction")
        )

        def of_counts(counts_E: np.ndarray) -> float:
            value: float = getattr(metrics, metric)(np.repeat(labels_E, counts_E), np.repeat(predictions_E, counts_E))
            return value

        return of_counts

    def prediction_records(
        self, logits_MC: np.ndarray, split: EncodedSplit, examples: "datasets.Dataset", labels: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Give one record an example: its inputs, `label` and `prediction`, both scores."""
        inputs = input_values(examples, self.input_columns())
        for index, (values, prediction) in enumerate(zip(inputs, self.predict(logits_MC).tolist(), strict=True)):
            record = {"index": index, **values}
            if split.labels is not None:
                record["label"] = float(split.labels[index])
            record["prediction"] = prediction
            yield record

    def _score(self, value: Any, offset: int) -> float:
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = float("nan")
        if not np.isfinite(score):
            raise ExampleError(
                offset,
                self.label,
                f"the score is {value!r}, which is no number. Mend it, or name the right column in `label`.",
            )
        return score
