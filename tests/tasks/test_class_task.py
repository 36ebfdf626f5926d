"""The loss of tasks with classes against torch, class weights against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from mtl_cli.data.source import Source
from mtl_cli.tasks import SingleTextClassification, TokenTagging
from mtl_cli.types import IGNORE_INDEX, UserError

WEIGHTS = [0.5, 2.0, 0.0, 1.25]


def batch(seed: int = 0, num_labels: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_M = torch.randint(0, 4, (num_labels,), generator=generator)
    labels_M[::5] = IGNORE_INDEX
    return 3 * torch.randn(num_labels, 4, generator=generator), labels_M


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_and_its_gradient_are_those_of_torch(
    source: Source, weights: list[float] | None, smoothing: float
) -> None:
    task = SingleTextClassification(source=source, class_weights=weights, label_smoothing=smoothing)
    logits_MC, labels_M = batch()
    ours, theirs = (logits_MC.clone().requires_grad_() for _ in range(2))
    loss = task.loss(ours, labels_M)
    expected = cross_entropy(
        theirs,
        labels_M,
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=IGNORE_INDEX,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_of_parts_with_the_normalizer_of_the_whole_add_up_to_the_loss(
    source: Source, weights: list[float] | None
) -> None:
    task = SingleTextClassification(source=source, class_weights=weights, label_smoothing=0.1)
    logits_MC, labels_M = batch()
    parts = [slice(0, 7), slice(7, 8), slice(8, 24)]
    normalizer = sum(task.normalizer(labels_M[part]) for part in parts)
    torch.testing.assert_close(normalizer, task.normalizer(labels_M))
    total = sum(task.loss(logits_MC[part], labels_M[part], normalizer) for part in parts)
    torch.testing.assert_close(total, task.loss(logits_MC, labels_M))
    total = sum(task.loss(logits_MC[part], labels_M[part], float(normalizer)) for part in parts)
    torch.testing.assert_close(total, task.loss(logits_MC, labels_M))


def test_the_normalizer_counts_valid_labels_or_sums_their_weights(source: Source) -> None:
    labels_M = torch.tensor([0, IGNORE_INDEX, 1, 1])
    assert SingleTextClassification(source=source).normalizer(labels_M) == 3
    # 0.5 + 2 + 2
    assert SingleTextClassification(source=source, class_weights=WEIGHTS).normalizer(labels_M) == 4.5


@pytest.mark.parametrize("labels_M", [torch.full((3,), IGNORE_INDEX), torch.zeros(0, dtype=torch.int64)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_without_a_valid_label_loss_and_gradient_are_zero(
    source: Source, labels_M: torch.Tensor, weights: list[float] | None
) -> None:
    task = SingleTextClassification(source=source, class_weights=weights, label_smoothing=0.1)
    logits_MC = torch.randn(len(labels_M), 4, requires_grad=True)
    for normalizer in (None, 0.0):
        loss = task.loss(logits_MC, labels_M, normalizer)
        assert loss.item() == 0
        loss.backward()
        assert not logits_MC.grad.any()


def test_the_loss_is_computed_in_float32(source: Source) -> None:
    logits_MC, labels_M = batch()
    low_MC = logits_MC.bfloat16()
    loss = SingleTextClassification(source=source).loss(low_MC, labels_M)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(low_MC.float(), labels_M), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1e10])
def test_the_loss_is_finite_for_extreme_logits(source: Source, scale: float) -> None:
    logits_MC, labels_M = batch()
    assert torch.isfinite(SingleTextClassification(source=source).loss(scale * logits_MC, labels_M))


def test_balanced_class_weights_are_those_of_scikit_learn(source: Source) -> None:
    task = SingleTextClassification(source=source, class_weights="balanced")
    train_labels = np.array([0, 0, 0, 0, 1, 2, 2, IGNORE_INDEX])
    task.fit_class_weights(train_labels, ["a", "b", "c"])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=train_labels[:-1])
    assert task.fitted_class_weights == pytest.approx(expected.tolist())


def test_a_class_without_training_labels_has_weight_one(source: Source) -> None:
    task = SingleTextClassification(source=source, class_weights="balanced")
    task.fit_class_weights(np.array([0, 0, 2]), ["a", "b", "c"])
    # 3 labels, 2 classes present: 3 / (2 * 2), -, 3 / (2 * 1).
    assert task.fitted_class_weights == pytest.approx([0.75, 1.0, 1.5])


def test_balanced_weights_that_were_kept_give_the_same_loss(source: Source) -> None:
    logits_MC, labels_M = batch()
    task, restored = (SingleTextClassification(source=source, class_weights="balanced") for _ in range(2))
    with pytest.raises(RuntimeError, match="call `fit_class_weights`"):
        task.loss(logits_MC, labels_M)
    task.fit_class_weights(labels_M.numpy(), list("abcd"))
    restored.fitted_class_weights = task.fitted_class_weights
    torch.testing.assert_close(restored.loss(logits_MC, labels_M), task.loss(logits_MC, labels_M), rtol=0, atol=0)


def test_given_class_weights_are_not_fitted(source: Source) -> None:
    task = SingleTextClassification(source=source, class_weights=[1.0, 3.0])
    task.fit_class_weights(np.array([0, 0, 1]), ["a", "b"])
    assert task.fitted_class_weights == [1.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "`class_weights` is \\[\\]"),
        ([0.0, 0.0], "one at least is greater than zero"),
        ([1.0, -1.0], "zero or greater"),
        ("even", "is 'even'. Give a list of numbers, `balanced`, or nothing"),
        ([1.0, 1.0, 1.0], "has 3 weights for 2 labels \\('no', 'yes'\\)"),
    ],
)
def test_class_weights_that_make_no_sense_are_refused(source: Source, weights: list[float] | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SingleTextClassification(source=source, labels=["no", "yes"], class_weights=weights)  # type: ignore[arg-type]


def test_class_weights_are_checked_against_the_labels_that_are_found(source: Source) -> None:
    task = SingleTextClassification(source=source, class_weights=[1.0, 1.0, 1.0])
    for check in (task.label_list, task.num_outputs):
        with pytest.raises(UserError, match="has 3 weights for 2 labels"):
            check(["no", "yes"])
    assert task.num_outputs(["no", "maybe", "yes"]) == 3


def test_class_weights_of_spans_go_with_their_iob2_tags(source: Source) -> None:
    settings = {"source": source, "scheme": "io", "labels": ["O", "PER"]}
    assert TokenTagging(**settings, class_weights=[0.1, 1.0, 1.0]).label_list(()) == ["O", "B-PER", "I-PER"]
    with pytest.raises(UserError, match="has 2 weights for 3 labels"):
        TokenTagging(**settings, class_weights=[0.1, 1.0])


def test_one_label_is_nothing_to_learn(source: Source) -> None:
    with pytest.raises(UserError, match=r"the labels are \['yes'\]. A task of classes needs two or more"):
        SingleTextClassification(source=source).label_list(["yes"])


def test_labels_that_are_not_counted_are_not_in_the_confusion_matrix(source: Source) -> None:
    labels_M, predictions_M = np.array([0, 1, IGNORE_INDEX, 1]), np.array([1, 1, 0, 0])
    matrix = SingleTextClassification(source=source).confusion_matrix(predictions_M, labels_M, ["a", "b"])
    np.testing.assert_array_equal(matrix, [[0, 1], [1, 1]])
