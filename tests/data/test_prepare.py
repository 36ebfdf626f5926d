import json
import time

import datasets
import numpy as np
import pytest
from word_tokenizer import make_tokenizer

from mtl_cli.data import (
    ConllSource,
    ConlluSource,
    EmbeddedSource,
    FileSource,
    HubSource,
    SavedSource,
    prepare,
)
from mtl_cli.data.source import Source
from mtl_cli.errors import UserError
from mtl_cli.tasks import Regression, SingleTextClassification, TextPairClassification, TokenTagging

pytestmark = pytest.mark.usefixtures("cache", "no_network")


class RowsSource(Source):
    """Rows given in memory."""

    def __init__(self, **splits):
        self.splits = {
            name: rows if isinstance(rows, datasets.Dataset) else datasets.Dataset.from_dict(rows)
            for name, rows in splits.items()
        }

    def load(self):
        return dict(self.splits)

    def locate(self, split, row):
        return f"{split}.mem, row {row + 1}"


class PublicRows(RowsSource):
    """Rows that the user cannot mend, as of the Hub."""

    mendable = False


def texts(labels, words="a b c d e f g h"):
    """A text for each label: words in turn, so that tokens tell rows apart."""
    names = words.split()
    return {"text": [names[row % len(names)] for row in range(len(labels))], "label": labels}


def run(task, tokenizer, seed=0, **arguments):
    return prepare(task, tokenizer, **{"seed": seed, "cache_dir": None, "max_length_limit": None, **arguments})


def gold(data, split):
    """The labels of a split by name."""
    return [data.labels[label] for label in data.splits[split].labels]


# Each type of task, from files to arrays.


def test_single_texts(tmp_path, tokenizer):
    for split, rows in (("train", "a b,pos\nc,neg\n"), ("validation", "d,neg\n"), ("test", "e,pos\n")):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows)
    source = FileSource(**{split: str(tmp_path / f"{split}.csv") for split in ("train", "validation", "test")})
    data = run(SingleTextClassification(source=source, labels=["pos", "neg"]), tokenizer)
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.labels == ["pos", "neg"]
    train = data.splits["train"]
    assert train.input_ids.tolist() == [2, 4, 5, 3, 2, 6, 3]
    assert train.labels.tolist() == [0, 1]
    assert train.token_type_ids.tolist() == [0] * 7
    assert data.examples["train"].to_dict() == {"text": ["a b", "c"], "label": ["pos", "neg"]}
    assert data.notes == []


def test_pairs(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text(
        "".join(
            json.dumps({"s1": first, "s2": second, "gold": label}) + "\n"
            for first, second, label in (("a", "b c", 1), ("d", "e", 0))
        )
    )
    source = FileSource(train=str(tmp_path / "a.jsonl"), validation=str(tmp_path / "a.jsonl"))
    task = TextPairClassification(source=source, text="s1", text_pair="s2", label="gold", labels=["no", "yes"])
    data = run(task, tokenizer)
    train = data.splits["train"]
    assert train.input_ids.tolist() == [2, 4, 3, 5, 6, 3, 2, 7, 3, 8, 3]
    assert train.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert gold(data, "train") == ["yes", "no"]


def test_scores_from_text(tmp_path, tokenizer):
    (tmp_path / "a.tsv").write_text("sentence1\tscore\na\t1.5\nb\t0\nc\t5e0\n")
    path = str(tmp_path / "a.tsv")
    data = run(Regression(source=FileSource(train=path, validation=path), label="score"), tokenizer)
    assert data.labels is None
    assert data.splits["train"].labels.tolist() == [1.5, 0.0, 5.0]
    assert data.splits["train"].labels.dtype == np.float32


def test_tagged_words_in_iob1(tmp_path, tokenizer):
    (tmp_path / "a.conll").write_text("a I-LOC\nb B-LOC\n\nc O\nd I-PER\n")
    path = str(tmp_path / "a.conll")
    task = TokenTagging(source=ConllSource(train=path, validation=path), scheme="iob1")
    data = run(task, tokenizer)
    assert data.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    train = data.splits["train"]
    assert gold(data, "train") == ["B-LOC", "B-LOC", "O", "B-PER"]
    assert train.input_ids.tolist() == [2, 4, 5, 3, 2, 6, 7, 3]
    assert train.positions.tolist() == [1, 2, 1, 2]
    batch = train.batch(np.array([1, 0]))
    assert batch.input_ids_N[batch.positions_M].tolist() == [6, 7, 4, 5]


def test_long_sentences_are_cut_and_every_word_stays(tmp_path, tokenizer):
    (tmp_path / "a.conll").write_text("a O\nb X\nc O\nd X\ne O\n\nf X\n")
    path = str(tmp_path / "a.conll")
    task = TokenTagging(source=ConllSource(train=path, validation=path), scheme="none", max_length=5, window_overlap=0)
    data = run(task, tokenizer)
    train = data.splits["train"]
    assert len(train) > train.num_examples == 2
    order = np.lexsort((train.word_numbers, np.repeat(train.example_numbers, np.diff(train.label_starts))))
    assert [data.labels[label] for label in train.labels[order]] == ["O", "X", "O", "X", "O", "X"]


def test_parts_of_speech_from_conllu(tmp_path, tokenizer):
    lines = [
        "1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\ta\t_\tDET\t_\t_\t2\tdet\t_\t_",
        "2\tb\t_\tNOUN\t_\t_\t0\troot\t_\t_",
    ]
    (tmp_path / "a.conllu").write_text("\n".join(lines) + "\n\n")
    path = str(tmp_path / "a.conllu")
    task = TokenTagging(source=ConlluSource(train=path, validation=path), tags="upos", scheme="none")
    data = run(task, tokenizer)
    assert gold(data, "train") == ["DET", "NOUN"]


def test_words_and_tags_in_one_text_each_are_split_at_blanks(tokenizer):
    rows = {"words": ["a b ", "c"], "slots": ["city O", "O"]}
    task = TokenTagging(source=RowsSource(train=rows, validation=rows), words="words", tags="slots", scheme="io")
    data = run(task, tokenizer)
    assert data.labels == ["O", "B-city", "I-city"]
    assert gold(data, "train") == ["B-city", "O", "O"]
    assert data.examples["train"]["words"][:] == [["a", "b"], ["c"]]


@pytest.mark.parametrize("kind", ["sentiment", "entities", "inference"])
def test_the_embedded_corpus(kind, tokenizer):
    source = EmbeddedSource(task=kind, num_train=30, num_validation=6, num_test=6)
    task = {
        "sentiment": SingleTextClassification(source=source),
        "entities": TokenTagging(source=source),
        "inference": TextPairClassification(source=source),
    }[kind]
    data = run(task, tokenizer)
    assert {split: encoded.num_examples for split, encoded in data.splits.items()} == {
        "train": 30,
        "validation": 6,
        "test": 6,
    }


def test_label_names_of_the_hub_and_of_saved_folders(tmp_path, tokenizer):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    rows.to_parquet(tmp_path / "hub" / "validation.parquet")
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
    for source in (HubSource(path=str(tmp_path / "hub")), SavedSource(path=str(tmp_path / "saved"))):
        data = run(SingleTextClassification(source=source), tokenizer)
        assert data.labels == ["no", "yes"]
        assert gold(data, "train") == ["yes", "no"]
        # The user's order; ids follow the names.
        data = run(SingleTextClassification(source=source, labels=["yes", "no"]), tokenizer)
        assert gold(data, "train") == ["yes", "no"]
        assert data.splits["train"].labels.tolist() == [0, 1]


def test_tag_names_declared_by_the_data(tokenizer):
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-X", "I-X"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
    rows = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "tags": [[1, 2]]}, features=features)
    data = run(TokenTagging(source=RowsSource(train=rows, validation=rows)), tokenizer)
    assert gold(data, "train") == ["B-X", "I-X"]


def test_plain_integer_tags_index_the_labels_of_the_user(tokenizer):
    rows = {"tokens": [["a", "b", "c"]], "tags": [[0, 3, 4]]}
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    data = run(TokenTagging(source=RowsSource(train=rows, validation=rows), labels=labels), tokenizer)
    assert gold(data, "train") == ["O", "B-Y", "I-Y"]


def test_an_encoder_that_takes_less_than_the_task_allows_sets_the_limit(tokenizer):
    rows = {"text": ["a b c d e f"], "label": ["x"]}
    other = {"text": ["a"], "label": ["y"]}
    source = RowsSource(train={key: rows[key] + other[key] for key in rows}, validation=rows)
    task = SingleTextClassification(source=source, max_length=7)
    assert run(task, tokenizer).splits["train"].lengths.tolist() == [7, 3]
    assert run(task, tokenizer, max_length_limit=4).splits["train"].lengths.tolist() == [4, 3]
    task = SingleTextClassification(source=source, max_length=None)
    assert run(task, tokenizer).splits["train"].lengths.tolist() == [8, 3]


# Rows without labels.


def test_rows_labelled_minus_one_are_dropped_counted_and_said(tokenizer):
    source = RowsSource(train=texts([0, -1, 1, -1]), validation=texts([1, -1]), test=texts([0, -1, 1]))
    data = run(SingleTextClassification(source=source, labels=["no", "yes"]), tokenizer, name="mine")
    assert [gold(data, split) for split in data.splits] == [["no", "yes"], ["yes"], ["no", "yes"]]
    assert data.splits["train"].input_ids.tolist() == [2, 4, 3, 2, 6, 3]
    assert data.examples["train"]["text"][:] == ["a", "c"]
    assert data.notes == [
        "mine: 2 rows without a label (-1 or empty) left out of train",
        "mine: 1 row without a label (-1 or empty) left out of validation",
        "mine: 1 row without a label (-1 or empty) left out of test",
    ]


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], ["", ""], None], ids=str)
def test_a_test_split_without_labels_is_kept_unlabelled(tokenizer, labels):
    test = {"text": ["g", "h"]} | ({} if labels is None else {"label": labels})
    source = RowsSource(train=texts(["x", "y"]), validation=texts(["x"]), test=test)
    data = run(SingleTextClassification(source=source), tokenizer)
    assert data.splits["test"].labels is None
    assert data.splits["test"].input_ids.tolist() == [2, 10, 3, 2, 11, 3]
    assert data.examples["test"]["text"][:] == ["g", "h"]


def test_unlabelled_tests_of_scores_and_tags(tokenizer):
    scored = {"sentence1": ["a", "b"], "label": [0.5, 4.0]}
    source = RowsSource(train=scored, validation=scored, test={"sentence1": ["c"], "label": [-1.0]})
    assert run(Regression(source=source), tokenizer).splits["test"].labels is None
    tagged = {"tokens": [["a", "b"]], "tags": [["O", "X"]]}
    for tags in ([["", ""]], [[None, None]], [None], None):
        test = {"tokens": [["c", "d"]]} | ({} if tags is None else {"tags": tags})
        if tags is not None:
            features = datasets.Features({name: datasets.List(datasets.Value("string")) for name in ("tokens", "tags")})
            test = datasets.Dataset.from_dict(test, features=features)
        source = RowsSource(train=tagged, validation=tagged, test=test)
        split = run(TokenTagging(source=source, scheme="none"), tokenizer).splits["test"]
        assert split.labels is None
        assert split.positions.tolist() == [1, 2]


def test_minus_one_is_a_score_where_scores_go_below_zero(tokenizer):
    rows = {"sentence1": ["a", "b", "c"], "label": [-1.0, 0.0, 1.0]}
    source = RowsSource(train=rows, validation=rows)
    assert run(Regression(source=source), tokenizer).splits["train"].labels.tolist() == [-1, 0, 1]
    # Where scores cannot be negative, -1 is the absence of one.
    data = run(Regression(source=source, min_score=0.0), tokenizer)
    assert data.splits["train"].labels.tolist() == [0, 1]


# Carving and limiting.


def test_a_missing_validation_split_is_carved_by_the_seed(tokenizer):
    labels = ["x"] * 60 + ["y"] * 40
    source = RowsSource(train=texts(labels) | {"number": list(range(100))})
    task = SingleTextClassification(source=source, validation_fraction=0.2)
    first, again, other = run(task, tokenizer, 1), run(task, tokenizer, 1), run(task, tokenizer, 2)

    def numbers(data, split):
        return data.examples[split]["number"][:]

    assert sorted(numbers(first, "train") + numbers(first, "validation")) == list(range(100))
    assert numbers(first, "validation") == numbers(again, "validation") != numbers(other, "validation")
    assert [gold(first, "validation").count(name) for name in "xy"] == [12, 8]
    for data in (first, other):
        for split in ("train", "validation"):
            tokens = [data.splits[split].input_ids[start + 1] - 4 for start in data.splits[split].row_starts[:-1]]
            assert tokens == [number % 8 for number in numbers(data, split)]
            assert gold(data, split) == data.examples[split]["label"][:]
    assert first.notes == ["validation carved from train: 20 rows by seed 1; 80 stay in train"]


def test_a_carved_split_is_tokenised_once_for_all_seeds(tokenizer, cache):
    task = SingleTextClassification(source=RowsSource(train=texts(["x", "y"] * 20)))
    for seed in range(3):
        run(task, tokenizer, seed)
    assert len(list(cache.rglob("*.arrow"))) == 1


def test_training_rows_are_limited_after_carving_and_dropping(tokenizer):
    rows = texts([-1 if row % 10 == 0 else row % 3 for row in range(100)]) | {"number": list(range(100))}
    task = SingleTextClassification(source=RowsSource(train=rows), max_train_examples=15)
    data = run(task, tokenizer, 5)
    assert [data.splits[split].num_examples for split in ("train", "validation")] == [15, 9]
    assert data.labels == ["0", "1", "2"]
    assert "train limited to 15 rows of 81 by seed 5" in data.notes
    unlimited = run(SingleTextClassification(source=RowsSource(train=rows)), tokenizer, 5)
    # The limit does not move the carved rows.
    assert data.examples["validation"]["number"][:] == unlimited.examples["validation"]["number"][:]
    half = run(SingleTextClassification(source=RowsSource(train=rows), train_fraction=0.5), tokenizer, 5)
    assert half.splits["train"].num_examples == 40
    assert set(data.examples["train"]["number"]) < set(half.examples["train"]["number"])


def test_labels_are_those_of_all_training_rows_whatever_is_drawn(tokenizer):
    source = RowsSource(train=texts(["x"] * 50 + ["rare"]))
    for seed in range(3):
        task = SingleTextClassification(source=source, max_train_examples=2)
        assert run(task, tokenizer, seed).labels == ["rare", "x"]


def test_labels_of_a_finished_run_are_taken_as_they_are(tokenizer):
    source = RowsSource(validation=texts(["x"]), test=texts(["x", "y"]))
    data = run(SingleTextClassification(source=source), tokenizer, labels=["y", "z", "x"])
    assert list(data.splits) == ["validation", "test"]
    assert data.splits["test"].labels.tolist() == [2, 0]


# Data that the user cannot mend.


def test_public_data_with_flaws_are_usable(tokenizer):
    pairs = {"premise": ["a", "b", "c"], "hypothesis": ["d", "", "f"], "label": ["x", "y", "x"]}
    data = run(TextPairClassification(source=PublicRows(train=pairs, validation=pairs)), tokenizer)
    assert data.splits["train"].num_examples == 3
    assert data.notes[0] == "1 row of train kept, though in column 'hypothesis' the text is empty"
    tagged = {"tokens": [["a", "b"], [], ["c"]], "tags": [["O", "X"], [], ["O", "O"]]}
    data = run(TokenTagging(source=PublicRows(train=tagged, validation=tagged), scheme="none"), tokenizer)
    assert data.splits["train"].num_examples == 1
    assert data.examples["train"]["tokens"][:] == [["a", "b"]]
    assert [note for note in data.notes if "train" in note] == [
        "1 row of train left out, though in column 'tokens' there are no words, or one is empty",
        "1 row of train left out, though in column 'tags' there are 2 tags for 1 words",
    ]


# The cache.


def test_a_second_run_of_20_000_rows_is_ready_within_a_second(tmp_path):
    tokenizer = make_tokenizer("a b c d e f g h")
    lines = "".join(f"{' '.join('abcdefgh'[: 1 + row % 8])}\t{row % 2}\n" for row in range(20_000))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + lines)
    task = SingleTextClassification(source=FileSource(train=str(tmp_path / "a.tsv")))
    first = run(task, tokenizer)
    begin = time.process_time()
    second = run(task, make_tokenizer("a b c d e f g h"))
    assert time.process_time() - begin < 1
    for split in first.splits:
        for name, values in vars(first.splits[split]).items():
            assert np.array_equal(values, getattr(second.splits[split], name)), name


def test_a_changed_file_is_tokenised_again(tmp_path, tokenizer):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\nb,y\n")
    task = SingleTextClassification(source=FileSource(train=str(path), validation=str(path)))
    assert run(task, tokenizer).splits["train"].input_ids.tolist() == [2, 4, 3, 2, 5, 3]
    path.write_text("text,label\na,x\nc,y\n")
    assert run(task, tokenizer).splits["train"].input_ids.tolist() == [2, 4, 3, 2, 6, 3]


def test_the_same_rows_under_other_labels_are_encoded_anew(tokenizer):
    train = datasets.Dataset.from_dict(texts(["1", "0"]))
    source = RowsSource(train=train, validation=texts(["1"]))
    by_name = run(SingleTextClassification(source=source, labels=["1", "0"]), tokenizer)
    assert by_name.splits["train"].labels.tolist() == [0, 1]
    by_index = run(SingleTextClassification(source=source, labels=["no", "yes"]), tokenizer)
    assert by_index.splits["train"].labels.tolist() == [1, 0]


def test_tokens_are_kept_in_the_folder_that_is_named(tmp_path, tokenizer, cache):
    task = SingleTextClassification(source=RowsSource(train=texts(["x", "y"]), validation=texts(["x"])))
    run(task, tokenizer, cache_dir=tmp_path / "mine")
    assert len(list((tmp_path / "mine").rglob("*.arrow"))) == 2
    assert not cache.exists()


def test_a_task_does_not_depend_on_the_tasks_prepared_before(tokenizer):
    source = RowsSource(train=texts(["x", "y"] * 50))
    task = SingleTextClassification(source=source)
    alone = run(task, tokenizer, 1).examples["validation"].to_dict()
    run(TokenTagging(source=EmbeddedSource(task="entities", num_train=20, num_validation=5, num_test=5)), tokenizer, 1)
    assert run(task, tokenizer, 1).examples["validation"].to_dict() == alone


# What is wrong, and where.


def tagging(**rows):
    return TokenTagging(source=RowsSource(**rows), scheme="none")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            SingleTextClassification(source=RowsSource(train={"txet": ["a"], "label": ["x"]})),
            r"^tasks\.t: the train split has no column 'text' \(`text`\)\. Columns: 'txet', 'label'\. Did you mean",
        ),
        (
            SingleTextClassification(source=RowsSource(train=texts(["x", "y"]), validation={"text": ["a"]})),
            r"the validation split has no column 'label' \(`label`\)",
        ),
        (
            SingleTextClassification(source=RowsSource(train=texts(["x", "y"]), test={"text": []})),
            r"tasks\.t: the test split is empty",
        ),
        (
            SingleTextClassification(source=RowsSource(train={"text": ["a", " "], "label": ["x", "y"]})),
            r"tasks\.t: train\.mem, row 2, column 'text': the text is empty",
        ),
        (
            SingleTextClassification(source=RowsSource(train={"text": ["a", None], "label": ["x", "y"]})),
            r"train\.mem, row 2, column 'text': the text is empty",
        ),
        (
            SingleTextClassification(source=RowsSource(train={"text": [1, 2], "label": ["x", "y"]})),
            r"column 'text' holds int64, but a text is expected",
        ),
        (
            SingleTextClassification(
                source=RowsSource(train=texts(["good", "bad"]), validation=texts(["good", None, "god"]))
            ),
            r"validation\.mem, row 3, column 'label': the label 'god' is none of the 2 labels found in training: "
            r"bad, good\. Did you mean 'good'\?",
        ),
        (
            SingleTextClassification(source=RowsSource(train=texts(["x", "y", "z"])), labels=["x", "y"]),
            r"train\.mem, row 3, column 'label': the label 'z' is none of the 2 labels in `labels`: x, y",
        ),
        (
            SingleTextClassification(source=RowsSource(train=texts([-1, -1]))),
            r"no row of the train split has a label in column 'label'",
        ),
        (
            SingleTextClassification(source=RowsSource(train=texts(["x", "y"]), validation=texts([-1]))),
            r"no row of the validation split has a label.*or none to carve one",
        ),
        (
            SingleTextClassification(source=RowsSource(train={"text": ["a"], "label": [["x"]]})),
            r"column 'label' of the train split holds list.*but one label a row is expected",
        ),
        (
            SingleTextClassification(source=RowsSource(validation=texts(["x"]))),
            r"the source has no training split\. Splits: validation",
        ),
        (
            SingleTextClassification(source=RowsSource(train=texts(["x", "", None])), labels=["x", "y"]),
            r"the training split has one row, of which no validation split can be carved",
        ),
        (
            Regression(source=RowsSource(train={"sentence1": ["a", "b"], "label": ["1.0", "high"]})),
            r"train\.mem, row 2, column 'label': 'high' is not a score",
        ),
        (
            Regression(source=RowsSource(train={"sentence1": ["a", "b"], "label": ["1.0", "nan"]})),
            r"train\.mem, row 2, column 'label': 'nan' is not a score",
        ),
        (
            Regression(source=RowsSource(train={"sentence1": ["a", "b"], "label": [1.0, float("inf")]})),
            r"train\.mem, row 2, column 'label': inf is not a finite score",
        ),
        (
            Regression(source=RowsSource(train={"sentence1": ["a"], "label": [7]}), min_score=0.0, max_score=5.0),
            r"train\.mem, row 1, column 'label': the score 7 is not from 0\.0 to 5\.0",
        ),
        (
            Regression(source=RowsSource(train={"sentence1": ["a"], "label": [[1]]})),
            r"column 'label' holds list.*but a score is expected",
        ),
        (
            tagging(train={"tokens": [["a"], ["b", "c"]], "tags": [["O"], ["O"]]}),
            r"train\.mem, row 2, column 'tags': there are 1 tags for 2 words",
        ),
        (
            tagging(train={"tokens": [["a"], ["b", "c"]], "tags": [["O"], ["O", None]]}),
            r"train\.mem, row 2, column 'tags': a word has no tag",
        ),
        (
            tagging(train={"tokens": [["a"], []], "tags": [["O"], []]}),
            r"train\.mem, row 2, column 'tokens': there are no words",
        ),
        (
            tagging(train={"tokens": [["a", ""]], "tags": [["O", "X"]]}),
            r"train\.mem, row 1, column 'tokens': there are no words, or one is empty",
        ),
        (
            tagging(train={"tokens": [["a"]], "tags": ["O"]} | {"tags": [1]}),
            r"column 'tags' of the train split holds int64, but a list of tags a row is expected",
        ),
        (
            tagging(
                train={"tokens": [["a", "b"]], "tags": [["O", "X"]]},
                validation={"tokens": [["a"], ["b"]], "tags": [["O"], ["Y"]]},
            ),
            r"tasks\.t: validation\.mem, row 2, column 'tags': the label 'Y' is none of the 2 labels",
        ),
    ],
)  # fmt: skip
def test_data_errors_name_the_task_the_place_and_the_column(tokenizer, task, message):
    with pytest.raises(UserError, match=message):
        run(task, tokenizer, name="t")


def test_an_error_found_while_tokenising_names_the_line_of_the_file(tmp_path, tokenizer):
    """The first sentence has no tags and is left out, which does not shift the place of the last."""
    (tmp_path / "a.conll").write_text("a -1\nb -1\n\nc B-X\n\nd Z-X\n")
    task = TokenTagging(source=ConllSource(train=str(tmp_path / "a.conll")), labels=["O", "B-X", "I-X"])
    with pytest.raises(UserError, match=r"tasks\.t: .*a\.conll, row 3 \(line 6\), column 'tags': .*'Z-X'"):
        run(task, tokenizer, name="t")


def test_a_row_of_a_csv_file_is_named_by_its_line(tmp_path, tokenizer):
    (tmp_path / "a.csv").write_text('text,score\n"a\nb",1\n,2\n')
    task = Regression(source=FileSource(train=str(tmp_path / "a.csv")), text="text", label="score")
    with pytest.raises(UserError, match=r"a\.csv, row 2 \(line 4\), column 'text': the text is empty"):
        run(task, tokenizer)
