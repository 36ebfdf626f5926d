from __future__ import annotations

import json
import random
from collections.abc import Callable

import datasets
import numpy as np
import pytest
import seqeval.metrics
from transformers import PreTrainedTokenizerBase

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.source import Source
from mtl_cli.tasks import ExampleError, TokenTagging
from mtl_cli.types import IGNORE_INDEX, UserError

AsSplit = Callable[[dict[str, list], int], EncodedSplit]
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
IDS = {name: number for number, name in enumerate(LABELS)}
EXAMPLES = {
    "tokens": [["Marta", "Lindqvist", "opened", "a", "bakery"], ["Verdal"]],
    "tags": [["B-PER", "I-PER", "O", "O", "O"], ["B-LOC"]],
}


def random_examples(seed: int, num_examples: int, max_words: int) -> dict[str, list[list[str]]]:
    generator = random.Random(seed)
    words = ["unbelievable", "Marta", "opened", "a", "bakery", "x"]
    tokens = [[generator.choice(words) for _ in range(generator.randint(1, max_words))] for _ in range(num_examples)]
    return {"tokens": tokens, "tags": [[generator.choice(LABELS) for _ in words] for words in tokens]}


def one_hot(classes: np.ndarray) -> np.ndarray:
    return 5 * np.eye(len(LABELS), dtype=np.float32)[classes]


def test_labels_sit_on_the_first_sub_word(source: Source, bert: PreTrainedTokenizerBase) -> None:
    encoded = TokenTagging(source=source).encode(EXAMPLES, bert, 64, IDS)
    assert encoded["labels"] == [[3, 4, 0, 0, 0], [1]]
    assert encoded["word_numbers"] == [[0, 1, 2, 3, 4], [0]]
    assert encoded["example_offset"] == [0, 1]
    expected = bert(EXAMPLES["tokens"], is_split_into_words=True)
    assert encoded["input_ids"] == expected["input_ids"]
    assert encoded["token_type_ids"] == expected["token_type_ids"]
    assert encoded["positions"][0] == [expected.word_ids(0).index(word) for word in range(5)]


@pytest.mark.parametrize("seed", range(5))
def test_every_word_of_a_long_text_is_labelled_once(
    source: Source, tokenizer: PreTrainedTokenizerBase, seed: int
) -> None:
    examples = random_examples(seed, 6, 50)
    examples["tags"] = [["O" if tag == "O" else f"B-{tag[2:]}" for tag in tags] for tags in examples["tags"]]
    encoded = TokenTagging(source=source, window_overlap=seed).encode(examples, tokenizer, 12, IDS)
    found: dict[tuple[int, int], str] = {}
    for row, example in enumerate(encoded["example_offset"]):
        assert len(encoded["labels"][row]) == len(encoded["positions"][row]) == len(encoded["word_numbers"][row]) > 0
        for word, label in zip(encoded["word_numbers"][row], encoded["labels"][row], strict=True):
            assert (example, word) not in found
            found[example, word] = LABELS[label]
    assert found == {
        (example, word): tag for example, tags in enumerate(examples["tags"]) for word, tag in enumerate(tags)
    }
    assert encoded["example_offset"] == sorted(encoded["example_offset"])
    assert len(encoded["example_offset"]) > 6


def test_words_without_labels_are_placed_all_the_same(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = TokenTagging(source=source)
    labelled = task.encode(EXAMPLES, bert, 12, IDS)
    labelled.pop("labels")
    assert task.encode(EXAMPLES, bert, 12, None) == labelled
    assert task.encode({"tokens": EXAMPLES["tokens"]}, bert, 12, IDS) == labelled


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("iob1", ["I-PER", "I-PER", "O", "I-LOC", "B-LOC"]),
        ("iob2", ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]),
        ("iobes", ["B-PER", "E-PER", "O", "S-LOC", "S-LOC"]),
    ],
)
def test_spans_are_learnt_in_iob2(source: Source, bert: PreTrainedTokenizerBase, scheme: str, tags: list[str]) -> None:
    task = TokenTagging(source=source, scheme=scheme)
    labels = task.label_list(sorted(set(tags)))
    assert labels == LABELS
    encoded = task.encode({"tokens": [["a"] * 5], "tags": [tags]}, bert, 16, IDS)
    assert [labels[label] for label in encoded["labels"][0]] == ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]


def test_plain_tags_stay_as_they_are(source: Source, bert: PreTrainedTokenizerBase) -> None:
    task = TokenTagging(source=source, scheme="none")
    assert task.label_list(["NOUN", "ADJ", "S-X"]) == ["NOUN", "ADJ", "S-X"]
    encoded = task.encode({"tokens": [["a", "a"]], "tags": [["ADJ", "S-X"]]}, bert, 16, {"NOUN": 0, "ADJ": 1, "S-X": 2})
    assert encoded["labels"] == [[1, 2]]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "PER"], "'PER' is no tag of the scheme `iob2`: O, or one of B-, I- and a type"),
        (["O", "B-ORG"], "the label 'B-ORG' is none of the 5 labels"),
        (["O"], "there are 1 tags for 2 words \\(column `tokens`\\)"),
    ],
)
def test_tags_that_do_not_fit_are_refused_with_their_place(
    source: Source, bert: PreTrainedTokenizerBase, tags: list[str], message: str
) -> None:
    examples = {"tokens": [["a"], ["a", "a"]], "tags": [["O"], tags]}
    with pytest.raises(ExampleError, match=message) as info:
        TokenTagging(source=source).encode(examples, bert, 16, IDS)
    assert (info.value.offset, info.value.column) == (1, "tags")


def test_labels_that_are_no_tags_are_refused(source: Source) -> None:
    with pytest.raises(UserError, match="`labels`: 'PER' is no tag of the scheme `iob2`"):
        TokenTagging(source=source, labels=["O", "PER"])
    with pytest.raises(UserError, match="column `tags`: 'NOUN' is no tag"):
        TokenTagging(source=source).label_list(["NOUN", "O", "VERB"])


def test_a_broken_tag_among_good_ones_is_left_to_encode_which_knows_its_row(
    source: Source, bert: PreTrainedTokenizerBase
) -> None:
    task = TokenTagging(source=source)
    labels = task.label_list(["B-LOC", "O", "PER"])
    assert labels == ["O", "B-LOC", "I-LOC"]
    with pytest.raises(ExampleError, match="'PER' is no tag"):
        task.encode({"tokens": [["a"]], "tags": [["PER"]]}, bert, 16, {name: i for i, name in enumerate(labels)})


@pytest.mark.parametrize("seed", range(5))
def test_spans_across_windows_score_as_seqeval_scores_the_texts(
    source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit, seed: int
) -> None:
    examples = random_examples(seed, 8, 40)
    task = TokenTagging(source=source, metrics=["span_f1", "span_precision", "span_recall", "token_accuracy"])
    split = as_split(task.encode(examples, bert, 14, IDS), 8)
    assert len(split) > 8
    generator = np.random.default_rng(seed)
    predictions = np.where(
        generator.random(len(split.labels)) < 0.7, split.labels, generator.integers(0, 5, len(split.labels))
    )
    logits_MC = one_hot(predictions)
    found = task.compute_metrics(task.predict(logits_MC), split.labels, split, LABELS)

    records = list(task.prediction_records(logits_MC, split, datasets.Dataset.from_dict(examples), LABELS))
    assert json.loads(json.dumps(records)) == records
    # Of conversions, the gold tags have only that of I- that continues nothing: the spans are the same.
    gold, predicted = examples["tags"], [record["prediction"] for record in records]
    assert [record["tokens"] for record in records] == examples["tokens"]
    assert found["span_f1"] == pytest.approx(seqeval.metrics.f1_score(gold, predicted))
    assert found["span_precision"] == pytest.approx(seqeval.metrics.precision_score(gold, predicted))
    assert found["span_recall"] == pytest.approx(seqeval.metrics.recall_score(gold, predicted))
    assert found["token_accuracy"] == pytest.approx(np.mean(predictions == split.labels))


def test_words_without_a_label_are_not_scored(source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit) -> None:
    task = TokenTagging(source=source)
    split = as_split(task.encode(EXAMPLES, bert, 64, IDS), 2)
    split.labels[2:4] = IGNORE_INDEX
    # Wrong only where there is no label.
    predictions = np.array([3, 4, 1, 3, 0, 1])
    assert set(task.compute_metrics(predictions, split.labels, split, LABELS).values()) == {1.0}
    record, _ = task.prediction_records(one_hot(predictions), split, datasets.Dataset.from_dict(EXAMPLES), LABELS)
    assert record["label"] == ["B-PER", "I-PER", None, None, "O"]


def test_records_show_valid_tags_and_the_probability_of_each(
    source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit
) -> None:
    task = TokenTagging(source=source)
    split = as_split(task.encode(EXAMPLES, bert, 64, IDS), 2)
    chosen = [IDS[name] for name in ["I-PER", "I-PER", "O", "I-LOC", "I-PER", "O"]]
    records = list(task.prediction_records(one_hot(chosen), split, datasets.Dataset.from_dict(EXAMPLES), LABELS))
    # Of 5 classes one has logit 5 and four 0: e^5 / (e^5 + 4) = 148.413 / 152.413 = 0.973756.
    assert records[0] == {
        "index": 0,
        "tokens": EXAMPLES["tokens"][0],
        "label": EXAMPLES["tags"][0],
        "prediction": ["B-PER", "I-PER", "O", "B-LOC", "B-PER"],
        "scores": [0.973756] * 5,
    }
    assert records[1]["prediction"] == ["O"]


def test_records_of_unlabelled_texts_have_no_label(
    source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit
) -> None:
    task = TokenTagging(source=source, scheme="none")
    examples = {"tokens": [["a"] * 9, [], ["a", "bakery"]]}
    split = as_split(task.encode(examples, bert, 8, None), 3)
    num_words = len(split.word_numbers)
    assert num_words == 11
    chosen = np.arange(num_words) % 2
    records = list(task.prediction_records(one_hot(chosen), split, datasets.Dataset.from_dict(examples), LABELS))
    assert all("label" not in record for record in records)
    names = [LABELS[number] for number in chosen]
    assert [record["prediction"] for record in records] == [names[:9], [], names[9:]]


def test_plain_tags_are_scored_by_accuracy(source: Source, bert: PreTrainedTokenizerBase, as_split: AsSplit) -> None:
    task = TokenTagging(source=source, scheme="none", metrics=["token_accuracy", "f1_macro"])
    split = as_split(task.encode(EXAMPLES, bert, 64, IDS), 2)
    predictions = np.array([3, 0, 0, 0, 0, 1])
    found = task.compute_metrics(predictions, split.labels, split, LABELS)
    # Labels 3 4 0 0 0 1. F1: O 6/7, B-LOC 1, B-PER 1, I-PER 0 (I-LOC does not occur): mean of four.
    assert found == pytest.approx({"token_accuracy": 5 / 6, "f1_macro": (6 / 7 + 1 + 1 + 0) / 4})


def test_encoding_settings_hold_what_changes_rows(source: Source) -> None:
    settings = TokenTagging(source=source).encoding_settings()
    assert json.loads(json.dumps(settings)) == settings
    assert TokenTagging(source=source, scheme="iob1").encoding_settings() != settings
    assert TokenTagging(source=source, window_overlap=3).encoding_settings() != settings
    assert TokenTagging(source=source, metrics=["span_f1"]).encoding_settings() == settings
