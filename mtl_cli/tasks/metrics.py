"""Metrics, one function each, over whole splits.

A metric that is not defined (no positive label, no variance) is 0, never NaN. Shapes: M labels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LOWER_IS_BETTER = frozenset({"mse", "loss"})
"""Errors; of all other metrics the greater value is the better one."""


def confusion_matrix(labels_M: np.ndarray, predictions_M: np.ndarray, num_classes: int) -> np.ndarray:
    """Count labels (rows) against predictions (columns), int64, shape (C, C)."""
    cells_M = labels_M.astype(np.int64) * num_classes + predictions_M
    return np.bincount(cells_M, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_matrix_of_counts(cells_M: np.ndarray, counts_M: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pairs of label and prediction, written label * C + prediction, each so often; int64, shape (C, C)."""
    counted = np.bincount(cells_M, weights=counts_M, minlength=num_classes**2)
    return counted.round().astype(np.int64).reshape(num_classes, num_classes)


# Classification: from a confusion matrix.


def accuracy(confusion_CC: np.ndarray) -> float:
    """Share of predictions that equal the label."""
    return _ratio(np.trace(confusion_CC), confusion_CC.sum())


def f1_macro(confusion_CC: np.ndarray) -> float:
    """Mean of the classes' F1, over the classes that occur among labels or predictions (scikit-learn's reading)."""
    return _mean_over_occurring(2 * np.diag(confusion_CC), confusion_CC.sum(0) + confusion_CC.sum(1), confusion_CC)


def recall_macro(confusion_CC: np.ndarray) -> float:
    """Mean of the classes' recall, over the classes that occur among labels or predictions (scikit-learn's reading)."""
    return _mean_over_occurring(np.diag(confusion_CC), confusion_CC.sum(1), confusion_CC)


def f1(confusion_CC: np.ndarray, positive: int) -> float:
    """F1 of one class: harmonic mean of its precision and recall."""
    return _ratio(2 * confusion_CC[positive, positive], confusion_CC[positive].sum() + confusion_CC[:, positive].sum())


def matthews(confusion_CC: np.ndarray) -> float:
    """Matthews correlation coefficient, in its form for any number of classes.

    With c correct of s predictions, t_k labels and p_k predictions of class k:
    (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2)). Source: Gorodkin, Comparing two K-category
    assignments by a K-category correlation coefficient (Computational Biology and Chemistry, 2004).
    """
    # Python's integers: products of four counts overflow 64 bits from splits of some 50,000 labels on.
    labels, predictions = (confusion_CC.sum(axis).tolist() for axis in (1, 0))
    total, correct = sum(labels), int(np.trace(confusion_CC))
    covariance = correct * total - sum(p * t for p, t in zip(predictions, labels, strict=True))
    variances = (total**2 - sum(p * p for p in predictions)) * (total**2 - sum(t * t for t in labels))
    return covariance / variances**0.5 if variances else 0.0


# Regression: from scores.


def mse(labels_M: np.ndarray, predictions_M: np.ndarray) -> float:
    """Mean squared error."""
    differences_M = labels_M.astype(np.float64) - predictions_M
    return _ratio((differences_M**2).sum(), len(differences_M))


def pearson(labels_M: np.ndarray, predictions_M: np.ndarray) -> float:
    """Pearson's correlation; 0 where either side is constant or there are fewer than two values."""
    if len(labels_M) < 2 or np.ptp(labels_M) == 0 or np.ptp(predictions_M) == 0:
        return 0.0
    labels_M, predictions_M = (_centred_unit(values_M) for values_M in (labels_M, predictions_M))
    return float(np.clip(labels_M @ predictions_M, -1, 1))


def spearman(labels_M: np.ndarray, predictions_M: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where either side is constant."""
    return pearson(_ranks(labels_M), _ranks(predictions_M))


# Spans: from tags.


def span_scores(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """`span_f1`, `span_precision` and `span_recall` over all spans of a split (micro average).

    A span counts as found when type, first and last word agree. Computed by seqeval in its default mode, which reads
    invalid sequences as the CoNLL-2000 script conlleval does: an I- that continues nothing begins a span.

    Args:
        labels: IOB2 tags of each example.
        predictions: IOB2 tags of each example, valid sequences or not.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    precision, recall, f_score, _ = precision_recall_fscore_support(
        [list(tags) for tags in labels], [list(tags) for tags in predictions], average="micro", zero_division=0
    )
    return {"span_f1": float(f_score), "span_precision": float(precision), "span_recall": float(recall)}


def span_counts(labels: Sequence[str], predictions: Sequence[str]) -> tuple[int, int, int]:
    """Count the spans of one example: found, in the labels, predicted; read as `span_scores` reads them.

    Summed over examples, they give its scores: precision is found / predicted, recall is found / in the labels.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    true, predicted = set(get_entities(list(labels))), set(get_entities(list(predictions)))
    return len(true & predicted), len(true), len(predicted)


def span_score_of_counts(name: str, found: int, in_labels: int, predicted: int) -> float:
    """Return `span_f1`, `span_precision` or `span_recall` from summed `span_counts`; 0 where it is not defined."""
    if name == "span_f1":
        return _ratio(2 * found, in_labels + predicted)
    return _ratio(found, predicted if name == "span_precision" else in_labels)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0


def _mean_over_occurring(numerators_C: np.ndarray, denominators_C: np.ndarray, confusion_CC: np.ndarray) -> float:
    occurs_C = confusion_CC.sum(0) + confusion_CC.sum(1) > 0
    scores_C = numerators_C / np.maximum(denominators_C, 1)
    return _ratio(scores_C[occurs_C].sum(), occurs_C.sum())


def _centred_unit(values_M: np.ndarray) -> np.ndarray:
    centred_M = values_M.astype(np.float64) - values_M.mean(dtype=np.float64)
    # The greatest value is divided out first, so that neither huge nor tiny scores overflow or vanish when squared.
    centred_M /= np.abs(centred_M).max()
    return centred_M / np.linalg.norm(centred_M)


def _ranks(values_M: np.ndarray) -> np.ndarray:
    _, group_M, sizes = np.unique(values_M, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group_M]
