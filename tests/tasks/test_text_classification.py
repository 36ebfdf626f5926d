from __future__ import annotations

import json
from collections.abc import Callable

import datasets
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from transformers import PreTrainedTokenizerBase

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.source import Source
from mtl_cli.tasks import ExampleError, SingleTextClassification, TextPairClassification
from mtl_cli.types import UserError

AsSplit = Callable[[dict[str, list], int], EncodedSplit]
LABELS = ["negative", "neutral", "positive"]
EXAMPLES = {
    "id": [7, 8, 9],
    "sentence": ["the harbour master complained", "a ferry", "unbelievable weather"],
    "label": ["negative", "neutral", "positive"],
}
IDS = {name: number for number, name in enumerate(LABELS)}


def test_examples_become_a_row_each_with_the_id_of_their_label(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = SingleTextClassification(source=source, text="sentence")
    encoded = task.encode(EXAMPLES, bert, 32, {"neutral": 0, "positive": 1, "negative": 2})
    assert encoded["labels"] == [2, 0, 1]
    assert encoded["example_offset"] == [0, 1, 2]
    assert encoded["input_ids"] == bert(EXAMPLES["sentence"])["input_ids"]


def test_pairs_are_read_together(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = TextPairClassification(source=source)
    assert task.columns() == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    examples = {"premise": ["a ferry"], "hypothesis": ["a bakery"], "label": ["yes"]}
    encoded = task.encode(examples, bert, 16, {"no": 0, "yes": 1})
    assert encoded["input_ids"] == [bert("a ferry", "a bakery")["input_ids"]]
    assert encoded["labels"] == [1]


def test_a_word_in_question_stands_before_the_first_text(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = TextPairClassification(source=source, word="lemma")
    examples = {"lemma": ["hall"], "premise": ["the hall"], "hypothesis": ["a bakery"]}
    encoded = task.encode(examples, bert, 32, None)
    assert encoded["input_ids"] == [bert("hall: the hall", "a bakery")["input_ids"]]
    assert task.input_columns() == ["lemma", "premise", "hypothesis"]
    assert examples["premise"] == ["the hall"]
    assert task.encoding_settings() != TextPairClassification(source=source).encoding_settings()


def test_examples_without_labels_are_encoded_all_the_same(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = SingleTextClassification(source=source, text="sentence")
    labelled = task.encode(EXAMPLES, bert, 16, IDS)
    labelled.pop("labels")
    assert task.encode(EXAMPLES, bert, 16, None) == labelled
    assert task.encode({"sentence": EXAMPLES["sentence"]}, bert, 16, IDS) == labelled


def test_a_label_that_is_not_in_the_list_is_refused_with_its_place(
    source: Source, bert: PreTrainedTokenizerBase
) -> None:
    task = SingleTextClassification(source=source, text="sentence")
    examples = {"sentence": ["a", "a"], "label": ["neutral", "postive"]}
    with pytest.raises(
        ExampleError, match=r"the label 'postive' is none of the 3 labels.*Did you mean 'positive'"
    ) as info:
        task.encode(examples, bert, 16, IDS)
    assert (info.value.offset, info.value.column) == (1, "label")


def test_labels_are_those_given_or_those_found(source: Source) -> None:
    assert SingleTextClassification(source=source).label_list(iter(["b", "a"])) == ["b", "a"]
    assert SingleTextClassification(source=source, labels=["x", "y"]).label_list(["y", "x"]) == ["x", "y"]


def metrics_of(task: SingleTextClassification, predictions: list[int], labels: list[int], as_split: AsSplit) -> dict:
    split = as_split(
        {"input_ids": [[1]] * len(labels), "labels": labels, "example_offset": range(len(labels))}, len(labels)
    )
    return task.compute_metrics(np.array(predictions), split.labels, split, LABELS[: max(labels) + 1])


def test_metrics_of_glue_cola_mrpc_and_sst2(source: Source, as_split: AsSplit) -> None:
    labels, predictions = [0, 1, 1, 1, 0, 1, -100], [0, 1, 0, 1, 1, 1, 0]
    task = SingleTextClassification(source=source, metrics=["matthews", "f1", "accuracy"])
    expected = {
        "matthews": sklearn.metrics.matthews_corrcoef(labels[:-1], predictions[:-1]),
        "f1": sklearn.metrics.f1_score(labels[:-1], predictions[:-1]),
        "accuracy": sklearn.metrics.accuracy_score(labels[:-1], predictions[:-1]),
    }
    found = metrics_of(task, predictions, labels, as_split)
    assert found == pytest.approx(expected)
    assert list(found) == ["matthews", "f1", "accuracy"]


def test_f1_is_about_the_positive_label(source: Source, as_split: AsSplit) -> None:
    labels, predictions = [0, 1, 2, 2, 1, 0], [0, 2, 2, 0, 1, 0]
    task = SingleTextClassification(source=source, metrics=["f1"], positive_label="negative")
    # Label 0: two found, one prediction too many: precision 2/3, recall 1.
    assert metrics_of(task, predictions, labels, as_split)["f1"] == pytest.approx(0.8)


def test_f1_among_three_labels_needs_a_positive_label(source: Source) -> None:
    task = SingleTextClassification(source=source, metrics=["f1"])
    assert task.label_list(["no", "yes"]) == ["no", "yes"]
    with pytest.raises(UserError, match=r"`f1` is about one label of two, and there are 3. Set `positive_label`"):
        task.label_list(LABELS)
    with pytest.raises(UserError, match=r"`positive_label` is 'positiv', .* Did you mean 'positive'"):
        SingleTextClassification(source=source, labels=LABELS, positive_label="positiv")


@pytest.mark.parametrize("labelled", [True, False])
def test_records_hold_inputs_label_prediction_and_probabilities(
    source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit, labelled: bool
) -> None:
    task = SingleTextClassification(source=source, text="sentence")
    split = as_split(task.encode(EXAMPLES, bert, 16, IDS if labelled else None), 3)
    logits_MC = np.array([[2, 0, -1], [0, 0.5, 1e4], [0, 3, 1]], dtype=np.float32)
    records = list(task.prediction_records(logits_MC, split, datasets.Dataset.from_dict(EXAMPLES), LABELS))
    assert json.loads(json.dumps(records)) == records
    assert [record["index"] for record in records] == [0, 1, 2]
    assert [record["sentence"] for record in records] == EXAMPLES["sentence"]
    assert [record["prediction"] for record in records] == ["negative", "positive", "neutral"]
    assert [record.get("label") for record in records] == (EXAMPLES["label"] if labelled else [None] * 3)
    assert all("id" not in record for record in records)
    for record, expected in zip(records, scipy.special.softmax(logits_MC.astype(float), axis=1), strict=True):
        assert list(record["probabilities"]) == LABELS
        assert list(record["probabilities"].values()) == pytest.approx(expected, abs=1e-6)


def test_an_input_column_with_the_name_of_a_record_key_is_kept_under_another(
    source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit
) -> None:
    task = SingleTextClassification(source=source, text="prediction", label="gold")
    examples = {"prediction": ["a ferry"], "gold": ["no"]}
    split = as_split(task.encode(examples, bert, 16, {"no": 0, "yes": 1}), 1)
    logits_MC = np.array([[0, 1]], dtype=np.float32)
    (record,) = task.prediction_records(logits_MC, split, datasets.Dataset.from_dict(examples), ["no", "yes"])
    assert (record["input_prediction"], record["prediction"], record["label"]) == ("a ferry", "yes", "no")


def test_encoding_settings_tell_columns_apart_and_are_json(source: Source) -> None:
    first = SingleTextClassification(source=source).encoding_settings()
    second = SingleTextClassification(source=source, text="sentence").encoding_settings()
    assert first != second
    assert json.loads(json.dumps(first)) == first
    assert SingleTextClassification(source=source, label_smoothing=0.1, max_length=7).encoding_settings() == first
