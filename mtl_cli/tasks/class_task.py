"""Tasks whose outputs are classes: cross-entropy, class weights, label smoothing.

Shapes: M labels, C classes.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mtl_cli.tasks import metrics
from mtl_cli.tasks.task import ExampleError, Task, did_you_mean
from mtl_cli.types import IGNORE_INDEX, NonNegativeFloat, Probability, UserError


@dataclass(kw_only=True)
class ClassTask(Task):
    """A task whose labels are classes, one a row or one a word.

    The loss is the cross-entropy, exactly torch's: with class weights w and label y_i the mean is sum_i w_{y_i} l_i /
    sum_i w_{y_i}; with smoothing e the target is (1 - e) for the label plus e / C for every class (Szegedy et al.,
    Rethinking the Inception Architecture for Computer Vision, CVPR 2016).

    Args:
        class_weights: weight of each label in the loss, in the order of the label ids. `balanced`: the number of
            training labels divided by (number of classes times labels of this class), as in scikit-learn. None: all
            the same.
        label_smoothing: share of the target that is spread over all classes.
    """

    class_weights: list[NonNegativeFloat] | Literal["balanced"] | None = None
    label_smoothing: Probability = 0.0

    _loss_weights: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: as for every task, and class weights that are negative, all zero, or not as many as `labels`.
        """
        super().__post_init__()
        weights = self.class_weights
        if isinstance(weights, str):
            if weights != "balanced":
                raise UserError(f"`class_weights` is '{weights}'. Give a list of numbers, `balanced`, or nothing.")
        elif weights is not None:
            if not weights or min(weights) < 0 or max(weights) <= 0:
                raise UserError(
                    f"`class_weights` is {weights}. Weights are zero or greater, and one at least is greater than zero."
                )
            self._loss_weights = torch.tensor(weights, dtype=torch.float32)
        if self.labels is not None:
            self.label_list(())

    def fit_class_weights(self, train_labels: np.ndarray, labels: Sequence[str]) -> None:
        """Compute `balanced` class weights from the ids of the training labels; without effect for other settings.

        A class without a training label has weight 1: no label asks for it, but label smoothing reads it.
        """
        if self.class_weights != "balanced":
            return
        counts_C = np.bincount(train_labels[train_labels != IGNORE_INDEX], minlength=len(labels))
        num_present = np.count_nonzero(counts_C)
        weights_C = np.where(counts_C > 0, counts_C.sum() / np.maximum(num_present * counts_C, 1), 1.0)
        self.fitted_class_weights = weights_C.tolist()

    @property
    def fitted_class_weights(self) -> list[float] | None:
        """Weights of the loss: those given, or those fitted, which a saved run must keep. None: there are none yet."""
        return None if self._loss_weights is None else self._loss_weights.tolist()

    @fitted_class_weights.setter
    def fitted_class_weights(self, weights: list[float] | None) -> None:
        self._loss_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def num_outputs(self, labels: Sequence[str] | None) -> int:
        """C: one output a label.

        Raises:
            UserError: class weights do not fit the labels, or there is one label only.
        """
        assert labels is not None, "a task of classes has labels"
        self._check_labels(labels)
        return len(labels)

    def loss(
        self, logits_MC: torch.Tensor, labels_M: torch.Tensor, normalizer: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-entropy: the sum over valid labels divided by `normalizer` (None: their number or sum of weights)."""
        total = cross_entropy(
            logits_MC.float(),
            labels_M,
            weight=self._weights_on(labels_M.device),
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return divide(total, self.normalizer(labels_M) if normalizer is None else normalizer)

    def normalizer(self, labels_M: torch.Tensor) -> torch.Tensor:
        """Give the number of valid labels or, with class weights, the sum of their weights."""
        valid_M = labels_M != IGNORE_INDEX
        weights_C = self._weights_on(labels_M.device)
        if weights_C is None:
            return valid_M.sum(dtype=torch.float32)
        return (weights_C[labels_M.clamp(min=0)] * valid_M).sum()

    def predict(self, logits_MC: np.ndarray) -> np.ndarray:
        """Give the class with the greatest logit, int64, shape (M,)."""
        return np.asarray(logits_MC).argmax(axis=1)

    def confusion_matrix(
        self, predictions_M: np.ndarray, labels_M: np.ndarray, labels: Sequence[str] | None
    ) -> np.ndarray:
        """Count labels (rows) against predictions (columns), int64, shape (C, C)."""
        assert labels is not None, "a task of classes has labels"
        valid_M = labels_M != IGNORE_INDEX
        return metrics.confusion_matrix(labels_M[valid_M], predictions_M[valid_M], len(labels))

    @abstractmethod
    def _label_hint(self) -> str:
        """What to do about a label that is not in the label list."""

    def _label_id(self, name: Any, offset: int, label_ids: Mapping[str, int]) -> int:
        try:
            return label_ids[name]
        except (KeyError, TypeError):
            raise ExampleError(
                offset,
                self.label_column,
                f"the label {name!r} is none of the {len(label_ids)} labels: {_some(label_ids)}. {self._label_hint()}"
                f"{did_you_mean(str(name), label_ids)}",
            ) from None

    def _check_labels(self, labels: Sequence[str]) -> None:
        if len(labels) < 2:
            raise UserError(
                f"There is nothing to tell apart: the labels are {list(labels)}. A task of classes needs two or more."
            )
        if isinstance(self.class_weights, list) and len(self.class_weights) != len(labels):
            raise UserError(
                f"`class_weights` has {len(self.class_weights)} weights for {len(labels)} labels ({_some(labels)}). "
                "Give one a label, in this order."
            )

    def _weights_on(self, device: torch.device) -> torch.Tensor | None:
        if self._loss_weights is None:
            if self.class_weights == "balanced":
                raise RuntimeError(
                    "`balanced` class weights are not known yet: call `fit_class_weights` with the training labels."
                )
            return None
        if self._loss_weights.device != device:
            self._loss_weights = self._loss_weights.to(device)
        return self._loss_weights


def divide(total: torch.Tensor, normalizer: float | torch.Tensor) -> torch.Tensor:
    """Divide a sum of losses by their number or weight; where that is zero, without a valid label, the sum is too."""
    if isinstance(normalizer, torch.Tensor):
        return total / torch.where(normalizer == 0, torch.ones_like(normalizer), normalizer)
    return total / normalizer if normalizer else total


def softmax(logits_MC: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, float64, shape (M, C)."""
    exponentials_MC = np.exp(logits_MC.astype(np.float64) - logits_MC.max(axis=1, keepdims=True))
    return exponentials_MC / exponentials_MC.sum(axis=1, keepdims=True)


def _some(names: Mapping[str, int] | Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(f"'{name}'" for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, ..."
