from __future__ import annotations

import json
from collections.abc import Callable

import datasets
import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn.functional import mse_loss
from transformers import PreTrainedTokenizerBase

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.source import Source
from mtl_cli.tasks import ExampleError, Regression
from mtl_cli.types import IGNORE_INDEX, UserError

AsSplit = Callable[[dict[str, list], int], EncodedSplit]
EXAMPLES = {
    "sentence1": ["a ferry", "the bridge", "a bakery"],
    "sentence2": ["the ferry", "a canal", "nobody"],
    "label": [4.5, 2.0, 0.25],
}


def test_one_text_or_a_pair(source: Source, bert: PreTrainedTokenizerBase) -> None:
    single = Regression(source=source).encode(EXAMPLES, bert, 16, None)
    pair = Regression(source=source, text_pair="sentence2").encode(EXAMPLES, bert, 16, None)
    assert single["input_ids"] == bert(EXAMPLES["sentence1"])["input_ids"]
    assert pair["input_ids"] == bert(EXAMPLES["sentence1"], EXAMPLES["sentence2"])["input_ids"]
    assert single["labels"] == pair["labels"] == [4.5, 2.0, 0.25]


def test_without_the_label_column_there_are_no_labels(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = Regression(source=source)
    assert task.input_columns() == ["sentence1"]
    assert "labels" not in task.encode({"sentence1": ["a ferry"]}, bert, 16, None)


def test_scores_written_as_text_are_numbers(source: Source, bert: PreTrainedTokenizerBase) -> None:
    assert Regression(source=source).encode({"sentence1": ["a"], "label": ["3.5"]}, bert, 16, None)["labels"] == [3.5]


@pytest.mark.parametrize("value", ["good", None, "nan", float("inf")])
def test_a_score_that_is_no_number_is_refused_with_its_place(
    source: Source, bert: PreTrainedTokenizerBase, value: object
) -> None:
    with pytest.raises(ExampleError, match=r"the score is .*, which is no number") as info:
        Regression(source=source).encode({"sentence1": ["a", "a"], "label": [1.0, value]}, bert, 16, None)
    assert (info.value.offset, info.value.column) == (1, "label")


def test_the_loss_is_the_mean_squared_error_over_valid_labels(source: Source) -> None:
    task = Regression(source=source)
    logits_MC = torch.randn(6, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels_M = torch.tensor([0.5, 2.0, IGNORE_INDEX, 3.0, 1.0, 5.0])
    valid_M = labels_M != IGNORE_INDEX
    loss = task.loss(logits_MC, labels_M)
    torch.testing.assert_close(loss, mse_loss(logits_MC[valid_M, 0], labels_M[valid_M]))
    loss.backward()
    assert logits_MC.grad[2] == 0
    parts = [slice(0, 3), slice(3, 6)]
    normalizer = sum(task.normalizer(labels_M[part]) for part in parts)
    assert normalizer == 5
    torch.testing.assert_close(sum(task.loss(logits_MC[part], labels_M[part], normalizer) for part in parts), loss)


@pytest.mark.parametrize("labels_M", [torch.full((3,), float(IGNORE_INDEX)), torch.zeros(0)])
def test_without_a_valid_label_loss_and_gradient_are_zero(source: Source, labels_M: torch.Tensor) -> None:
    logits_MC = torch.randn(len(labels_M), 1, requires_grad=True)
    loss = Regression(source=source).loss(logits_MC, labels_M)
    assert loss.item() == 0
    loss.backward()
    assert not logits_MC.grad.any()


def test_the_loss_is_computed_in_float32(source: Source) -> None:
    logits_MC = torch.tensor([[1.0], [256.0]], dtype=torch.bfloat16)
    # (1 - 0.5)^2 = 0.25 and (256 - 257)^2 = 1, which bfloat16 could not tell from 0: 257 is 256 there.
    assert Regression(source=source).loss(logits_MC, torch.tensor([0.5, 257.0])).item() == 0.625


def test_predictions_stay_within_the_range_of_scores(source: Source) -> None:
    logits_MC = np.array([[-1.0], [2.5], [7.0]], dtype=np.float32)
    assert Regression(source=source, min_score=0.0, max_score=5.0).predict(logits_MC).tolist() == [0, 2.5, 5]
    assert Regression(source=source, max_score=5.0).predict(logits_MC).tolist() == [-1, 2.5, 5]
    assert Regression(source=source).predict(logits_MC).tolist() == [-1, 2.5, 7]


def test_metrics_are_correlations_and_the_error(source: Source, as_split: AsSplit) -> None:
    labels, predictions = [1.0, 2.0, 5.0, 3.5, IGNORE_INDEX], [1.5, 1.0, 4.0, 4.5, 0.0]
    split = as_split({"input_ids": [[1]] * 5, "labels": labels, "example_offset": range(5)}, 5)
    found = Regression(source=source).compute_metrics(np.array(predictions, np.float32), split.labels, split, None)
    # Errors 0.5, 1, 1, 1: mean of squares 3.25 / 4.
    assert found == pytest.approx(
        {
            "pearson": scipy.stats.pearsonr(labels[:4], predictions[:4])[0],
            "spearman": scipy.stats.spearmanr(labels[:4], predictions[:4])[0],
            "mse": 0.8125,
        }
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_records_hold_inputs_label_and_prediction(
    source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit, labelled: bool
) -> None:
    task = Regression(source=source, text_pair="sentence2", max_score=5.0)
    examples = EXAMPLES if labelled else {name: EXAMPLES[name] for name in task.input_columns()}
    split = as_split(task.encode(examples, bert, 16, None), 3)
    logits_MC = np.array([[4.0], [6.0], [0.5]], dtype=np.float32)
    records = list(task.prediction_records(logits_MC, split, datasets.Dataset.from_dict(examples), None))
    assert json.loads(json.dumps(records)) == records
    expected = {"index": 1, "sentence1": "the bridge", "sentence2": "a canal", "label": 2.0, "prediction": 5.0}
    if not labelled:
        del expected["label"]
    assert records[1] == expected


def test_a_score_has_no_classes(source: Source) -> None:
    task = Regression(source=source)
    assert task.num_outputs(None) == 1
    assert task.label_list(()) is None
    assert task.confusion_matrix(np.zeros(1), np.zeros(1), None) is None


def test_settings_that_contradict_each_other_are_refused(source: Source) -> None:
    with pytest.raises(UserError, match=r"`min_score` is 5.0 and `max_score` 1.0"):
        Regression(source=source, min_score=5.0, max_score=1.0)
    with pytest.raises(UserError, match="the labels of a regression are numbers"):
        Regression(source=source, labels=["a"])
