"""The paired bootstrap: against its definition, and the tasks' metrics that it computes anew."""

import numpy as np
import pytest
import scipy.stats

from mtl_cli.data import EmbeddedSource
from mtl_cli.errors import UserError
from mtl_cli.studies.bootstrap import paired_bootstrap
from mtl_cli.tasks import Regression, SingleTextClassification, TokenTagging


def accuracy_of(correct_E):
    return lambda counts_E: float((correct_E * counts_E).sum() / counts_E.sum())


def two_models(num=400, better=0.0):
    generator = np.random.default_rng(3)
    second = generator.random(num) < 0.7
    first = np.where(generator.random(num) < 0.2, generator.random(num) < 0.7 + better, second)
    return first.astype(float), second.astype(float)


def test_difference_and_interval_are_those_of_scipys_bootstrap():
    first, second = two_models(better=0.3)
    ours = paired_bootstrap(accuracy_of(first), accuracy_of(second), 400, num_resamples=4000, seed=0)
    theirs = scipy.stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    assert ours.difference == pytest.approx(first.mean() - second.mean())
    interval = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=0.005)


def test_p_is_near_to_that_of_the_t_test_for_pairs_of_examples():
    # Scores without ties, which the count of draws that are as extreme would take in.
    generator = np.random.default_rng(3)
    for shift in (0.0, 0.05, 0.1, 0.2):
        second = generator.normal(size=400)
        first = second + generator.normal(size=400) + shift
        ours = paired_bootstrap(accuracy_of(first), accuracy_of(second), 400, num_resamples=4000, seed=1)
        assert ours.p == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, abs=0.03)


def test_equal_models_have_p_1_and_the_same_seed_gives_the_same():
    first, second = two_models(better=0.2)
    same = paired_bootstrap(accuracy_of(first), accuracy_of(first), 400, num_resamples=50, seed=0)
    assert (same.difference, same.p) == (0.0, 1.0)
    once, again = (
        paired_bootstrap(accuracy_of(first), accuracy_of(second), 400, num_resamples=50, seed=5) for _ in range(2)
    )
    assert once == again


def test_an_error_turns_the_difference_round():
    first, second = two_models(better=0.3)
    error = paired_bootstrap(
        accuracy_of(1 - first), accuracy_of(1 - second), 400, num_resamples=20, seed=0, higher_is_better=False
    )
    assert error.difference == pytest.approx(first.mean() - second.mean())


def test_a_metric_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match="not a finite number"):
        paired_bootstrap(lambda _: float("nan"), lambda _: 0.5, 10, num_resamples=5, seed=0)
    finite_as_they_are = {True: 0.5, False: float("nan")}
    with pytest.raises(UserError, match="on any of 5 draws"):
        paired_bootstrap(
            lambda counts_E: finite_as_they_are[bool((counts_E == 1).all())], lambda _: 0.1, 10, num_resamples=5, seed=0
        )


def test_a_draw_without_a_finite_metric_counts_as_extreme_and_not_into_the_interval():
    # A difference of 1 on every draw, but for those that hold the first example three times or more.
    def first(counts_E):
        return float("nan") if counts_E[0] >= 3 else 1.0

    found = paired_bootstrap(first, lambda _: 0.0, 20, num_resamples=500, seed=0)
    generator = np.random.default_rng([0, 20])
    lost = sum((generator.integers(20, size=20) == 0).sum() >= 3 for _ in range(500))
    assert lost > 5
    assert found.p == (1 + lost) / 501
    assert (found.low, found.high) == (1.0, 1.0)


SOURCE = EmbeddedSource(task="sentiment")
LABELS = ["a", "b", "c"]
TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y"]


def class_records(generator, num):
    return [{"label": LABELS[generator.integers(3)], "prediction": LABELS[generator.integers(3)]} for _ in range(num)]


def tag_records(generator, num):
    sizes = generator.integers(1, 9, num)
    return [
        {
            "label": [None if generator.random() < 0.1 else TAGS[generator.integers(5)] for _ in range(size)],
            "prediction": [TAGS[generator.integers(5)] for _ in range(size)],
        }
        for size in sizes
    ]


def score_records(generator, num):
    return [{"label": float(value), "prediction": float(value + generator.normal())} for value in generator.random(num)]


CASES = {
    "classes": (
        SingleTextClassification(
            source=SOURCE, metrics=["accuracy", "f1_macro", "f1", "matthews", "recall_macro"], positive_label="b"
        ),
        class_records,
        LABELS,
    ),
    "spans": (
        TokenTagging(source=SOURCE, metrics=["span_f1", "span_precision", "span_recall", "token_accuracy", "f1_macro"]),
        tag_records,
        TAGS,
    ),
    "scores": (Regression(source=SOURCE), score_records, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_metric_of_counts_is_the_metric_of_the_examples_repeated_so_often(case):
    task, make, labels = CASES[case]
    generator = np.random.default_rng(1)
    records = make(generator, 40)
    counts = generator.integers(0, 4, 40)
    repeated = [record for record, count in zip(records, counts, strict=True) for _ in range(count)]
    for metric in task.metrics:
        expected = metrics_of(task, repeated, labels)[metric]
        assert task.metric_of_counts(metric, records, labels)(counts) == pytest.approx(expected, abs=1e-12), metric


def metrics_of(task, records, labels):
    """The task's own metrics of these records, by `compute_metrics`."""
    from mtl_cli.data import EncodedSplit
    from mtl_cli.types import IGNORE_INDEX

    if labels is None:
        gold, predicted = ([record[key] for record in records] for key in ("label", "prediction"))
        return task.compute_metrics(np.array(predicted), np.array(gold), None, None)
    ids = {label: number for number, label in enumerate(labels)} | {None: IGNORE_INDEX}
    tagged = isinstance(records[0]["label"], list)
    rows = [[record[key] if tagged else [record[key]] for record in records] for key in ("label", "prediction")]
    gold, predicted = (np.array([ids[label] for row in of_key for label in row]) for of_key in rows)
    starts = np.concatenate(([0], np.cumsum([len(row) for row in rows[0]])))
    split = EncodedSplit(
        input_ids=np.zeros(len(records), dtype=np.int32),
        row_starts=np.arange(len(records) + 1),
        token_type_ids=None,
        labels=gold,
        positions=None,
        label_starts=starts,
        word_numbers=None,
        example_numbers=np.arange(len(records)),
        num_examples=len(records),
    )
    return task.compute_metrics(predicted, gold, split, labels)
