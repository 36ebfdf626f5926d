"""Metrics against scikit-learn, scipy and seqeval."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics

from mtl_cli.tasks import metrics

REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1_macro": lambda labels, predictions: sklearn.metrics.f1_score(
        labels, predictions, average="macro", zero_division=0
    ),
    "recall_macro": lambda labels, predictions: sklearn.metrics.recall_score(
        labels, predictions, average="macro", zero_division=0
    ),
    "matthews": sklearn.metrics.matthews_corrcoef,
}


def classes(seed: int, num_classes: int, num_used: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_used, 60)
    predictions = np.where(generator.random(60) < 0.6, labels, generator.integers(0, num_classes, 60))
    return labels, predictions


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("num_classes", "num_used"), [(2, 2), (5, 5), (7, 4)])
def test_classification_metrics_equal_scikit_learn(name: str, num_classes: int, num_used: int) -> None:
    for seed in range(5):
        labels, predictions = classes(seed, num_classes, num_used)
        confusion = metrics.confusion_matrix(labels, predictions, num_classes)
        expected = REFERENCES[name](labels, predictions)
        assert getattr(metrics, name)(confusion) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("positive", [0, 1, 2])
def test_f1_of_one_class_equals_scikit_learn(positive: int) -> None:
    labels, predictions = classes(3, 3, 3)
    confusion = metrics.confusion_matrix(labels, predictions, 3)
    expected = sklearn.metrics.f1_score(labels == positive, predictions == positive)
    assert metrics.f1(confusion, positive) == pytest.approx(expected, abs=1e-12)


def test_the_confusion_matrix_has_a_row_a_label_and_a_column_a_prediction() -> None:
    labels, predictions = classes(0, 4, 3)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predictions, 4),
        sklearn.metrics.confusion_matrix(labels, predictions, labels=range(4)),
    )


def test_matthews_does_not_overflow_on_large_splits() -> None:
    # Two classes, 10 million labels each, 9 of 10 right: (tp tn - fp fn) / sqrt(...) = (0.9 0.9 - 0.1 0.1) / 1 = 0.8.
    confusion = np.array([[9_000_000, 1_000_000], [1_000_000, 9_000_000]])
    assert metrics.matthews(confusion) == pytest.approx(0.8)


@pytest.mark.parametrize("seed", range(5))
def test_regression_metrics_equal_scipy_and_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 26, 80).astype(np.float32) / 5  # with ties, as in STS-B
    predictions = (labels + generator.normal(0, 1, 80)).astype(np.float32)
    predictions[:10] = predictions[10]
    assert metrics.pearson(labels, predictions) == pytest.approx(
        scipy.stats.pearsonr(labels.astype(float), predictions.astype(float))[0], abs=1e-12
    )
    assert metrics.spearman(labels, predictions) == pytest.approx(
        scipy.stats.spearmanr(labels, predictions)[0], abs=1e-12
    )
    assert metrics.mse(labels, predictions) == pytest.approx(
        sklearn.metrics.mean_squared_error(labels.astype(float), predictions.astype(float)), abs=1e-12
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_correlations_do_not_depend_on_the_scale(scale: float) -> None:
    labels = np.array([0.5, 1, 4, 2, 2], dtype=np.float32)
    predictions = np.array([1, 1.5, 3, 2, 4], dtype=np.float32)
    expected = metrics.pearson(labels, predictions)
    assert metrics.pearson(labels, predictions * np.float32(scale)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_with_a_constant_is_zero_without_a_warning(name: str) -> None:
    varying, constant = np.array([1.0, 2.0, 4.0]), np.full(3, 2.5)
    for labels, predictions in [(varying, constant), (constant, varying), (varying[:1], varying[:1])]:
        assert getattr(metrics, name)(labels, predictions) == 0.0


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "recall_macro", "matthews"])
def test_nothing_to_score_gives_zero_without_a_warning(name: str) -> None:
    assert getattr(metrics, name)(np.zeros((3, 3), dtype=np.int64)) == 0.0


def test_constant_predictions_have_no_matthews_correlation() -> None:
    assert metrics.matthews(np.array([[5, 0], [3, 0]])) == 0.0


def test_f1_of_a_class_that_never_occurs_is_zero() -> None:
    assert metrics.f1(np.array([[5, 0], [0, 0]]), positive=1) == 0.0


def random_tags(generator: random.Random) -> list[str]:
    names = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    return [generator.choice(names) for _ in range(generator.randint(0, 12))]


def test_span_scores_equal_seqeval_also_on_invalid_sequences() -> None:
    generator = random.Random(0)
    for _ in range(30):
        labels = [random_tags(generator) for _ in range(5)]
        predictions = [[generator.choice([tag, "O", "I-PER", "B-LOC"]) for tag in tags] for tags in labels]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # seqeval warns where there is no span
            expected = {
                "span_f1": seqeval.metrics.f1_score(labels, predictions),
                "span_precision": seqeval.metrics.precision_score(labels, predictions),
                "span_recall": seqeval.metrics.recall_score(labels, predictions),
            }
        assert metrics.span_scores(labels, predictions) == pytest.approx(expected, abs=1e-12)


def test_an_inside_tag_that_continues_nothing_begins_a_span() -> None:
    # Read as conlleval does: gold spans PER 0-1; predicted PER 0-1 and LOC 2: precision 1/2, recall 1, F1 2/3.
    scores = metrics.span_scores([["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "I-LOC"]])
    assert scores == pytest.approx({"span_f1": 2 / 3, "span_precision": 1 / 2, "span_recall": 1.0})


def test_no_spans_at_all_score_zero_without_a_warning() -> None:
    assert set(metrics.span_scores([["O", "O"]], [["O", "O"]]).values()) == {0.0}
