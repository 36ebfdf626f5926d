"""What the Hub holds for each shipped task YAML: how it is opened, its columns, splits and label names.

Written down from the data sets' own cards and schemas, apart from the YAML, so that each can be checked by the other.
`HubData.make` gives a small stand-in with these features.
"""

from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

TEXT, INTEGER, SCORE = Value("string"), Value("int32"), Value("float32")
WORDS = List(TEXT)
WORD_LIST = ["river", "stone", "green", "walks", "seven", "under", "quiet", "paper"]

# How many rows of a split have a label: every one, all but the last, none.
ALL, MOST, NONE = "all", "most", "none"

NLI = ["entailment", "neutral", "contradiction"]
ENTAILS = ["entailment", "not_entailment"]
YES = ["False", "True"]


def spans(*types: str) -> list[str]:
    return ["O", *(f"{prefix}-{name}" for name in types for prefix in "BI")]


@dataclass(frozen=True, kw_only=True)
class HubData:
    """One data set of the Hub.

    Attributes:
        path: its id.
        features: its columns.
        label: the column to learn.
        labels: names in index order; None for a score.
        opened: what `load_dataset` needs besides the path.
        splits: how many rows of each split of the Hub have a label.
        roles: which of these splits is train, validation, test.
    """

    path: str
    features: dict[str, Any]
    label: str = "label"
    labels: list[str] | None
    opened: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=lambda: {"train": ALL, "validation": ALL, "test": ALL})
    roles: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "validation": "validation", "test": "test"}
    )

    def label_ids(self, row: int) -> list[int]:
        """Ids of the labels of a row: one, or for tags those of three words (a span of two and an O, or any three)."""
        assert self.labels is not None
        if not isinstance(self.features[self.label], List):
            return [row % len(self.labels)]
        if self.labels[0] != "O":
            return [(row + place) % len(self.labels) for place in range(3)]
        begin = 1 + 2 * (row % (len(self.labels) // 2))
        return [begin, begin + 1, 0]

    def make(self, num_rows: int) -> DatasetDict:
        """Rows with these features; each text ends with its column and the split of the Hub."""
        return DatasetDict({split: self._split(split, num_rows) for split in self.splits})

    def _split(self, split: str, num_rows: int) -> Dataset:
        num_labelled = {ALL: num_rows, MOST: num_rows - 1, NONE: 0}[self.splits[split]]
        columns: dict[str, list[Any]] = {
            name: [self._value(name, feature, row, split) for row in range(num_rows)]
            for name, feature in self.features.items()
        }
        columns[self.label][num_labelled:] = [-1] * (num_rows - num_labelled)
        return Dataset.from_dict(columns, features=Features(self.features))

    def _value(self, name: str, feature: Any, row: int, split: str) -> Any:
        if name == self.label and self.labels is not None:
            inner = getattr(feature, "feature", feature)
            values = [id_ if isinstance(inner, ClassLabel) else self.labels[id_] for id_ in self.label_ids(row)]
            return values if isinstance(feature, List) else values[0]
        if isinstance(feature, List) and feature.feature == TEXT:
            return [WORD_LIST[row % 8], name, split]
        if isinstance(feature, List):
            return [1, 2, 0] if feature.feature.num_classes > 2 else [0, 1, 0]
        if feature == TEXT:
            return f"{WORD_LIST[row % 8]} {WORD_LIST[row // 8 % 8]} {name} {split}"
        return row % (feature.num_classes if isinstance(feature, ClassLabel) else 6)


def _single(path: str, text: str, names: list[str], **rest: Any) -> HubData:
    return HubData(path=path, features={text: TEXT, "label": ClassLabel(names=names)}, labels=names, **rest)


def _pair(path: str, first: str, second: str, names: list[str], **rest: Any) -> HubData:
    features = {first: TEXT, second: TEXT, "label": ClassLabel(names=names)}
    return HubData(path=path, features=features, labels=names, **rest)


def _tagged(path: str, names: list[str], **rest: Any) -> HubData:
    features = {"tokens": WORDS, "ner_tags": List(ClassLabel(names=names))}
    return HubData(path=path, features=features, label="ner_tags", labels=names, **rest)


_HIDDEN_TEST: dict[str, Any] = {"splits": {"train": ALL, "validation": ALL, "test": NONE}}
_NO_VALIDATION: dict[str, Any] = {"splits": {"train": ALL, "test": ALL}, "roles": {"train": "train", "test": "test"}}


def _glue(name: str) -> dict[str, Any]:
    return {"path": "nyu-mll/glue", "opened": {"name": name}, **_HIDDEN_TEST}


def _super_glue(name: str) -> dict[str, Any]:
    return {"path": "aps/super_glue", "opened": {"name": name}, **_HIDDEN_TEST}


_INTENTS = ["datetime_query", "iot_hue_lightchange", "transport_ticket"]
_QUESTIONS = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
_OPEN_CLASSES = ["ADJ", "ADV", "INTJ", "NOUN", "PROPN", "VERB"]
_CLOSED_CLASSES = ["ADP", "AUX", "CCONJ", "DET", "NUM", "PART", "PRON", "SCONJ"]
_UPOS = sorted([*_OPEN_CLASSES, *_CLOSED_CLASSES, "PUNCT", "SYM", "X", "_"])

HUB: dict[str, HubData] = {
    "glue/cola": _single(text="sentence", names=["unacceptable", "acceptable"], **_glue("cola")),
    "glue/sst2": _single(text="sentence", names=["negative", "positive"], **_glue("sst2")),
    "glue/mrpc": _pair(
        first="sentence1",
        second="sentence2",
        names=["not_equivalent", "equivalent"],
        path="nyu-mll/glue",
        opened={"name": "mrpc"},
    ),
    "glue/stsb": HubData(features={"sentence1": TEXT, "sentence2": TEXT, "label": SCORE}, labels=None, **_glue("stsb")),
    "glue/qqp": _pair(first="question1", second="question2", names=["not_duplicate", "duplicate"], **_glue("qqp")),
    "glue/mnli": _pair(
        "nyu-mll/glue",
        "premise",
        "hypothesis",
        NLI,
        opened={"name": "mnli"},
        splits={
            "train": ALL,
            "validation_matched": ALL,
            "validation_mismatched": ALL,
            "test_matched": NONE,
            "test_mismatched": NONE,
        },
        roles={"train": "train", "validation": "validation_matched", "test": "test_matched"},
    ),
    "glue/qnli": _pair(first="question", second="sentence", names=ENTAILS, **_glue("qnli")),
    "glue/rte": _pair(first="sentence1", second="sentence2", names=ENTAILS, **_glue("rte")),
    "glue/wnli": _pair(first="sentence1", second="sentence2", names=ENTAILS[::-1], **_glue("wnli")),
    "superglue/boolq": _pair(first="question", second="passage", names=YES, **_super_glue("boolq")),
    "superglue/cb": _pair(
        first="premise", second="hypothesis", names=["entailment", "contradiction", "neutral"], **_super_glue("cb")
    ),
    "superglue/wic": HubData(
        features={
            "word": TEXT,
            "sentence1": TEXT,
            "sentence2": TEXT,
            "start1": INTEGER,
            "start2": INTEGER,
            "end1": INTEGER,
            "end2": INTEGER,
            "label": ClassLabel(names=YES),
        },
        labels=YES,
        **_super_glue("wic"),
    ),
    "superglue/rte": _pair(first="premise", second="hypothesis", names=ENTAILS, **_super_glue("rte")),
    "multi_nli": _pair(
        "nyu-mll/multi_nli",
        "premise",
        "hypothesis",
        NLI,
        splits={"train": ALL, "validation_matched": ALL, "validation_mismatched": ALL},
        roles={"train": "train", "validation": "validation_matched", "test": "validation_mismatched"},
    ),
    "snli": _pair(
        "stanfordnlp/snli", "premise", "hypothesis", NLI, splits={"train": MOST, "validation": MOST, "test": MOST}
    ),
    "anli": _pair(
        "facebook/anli",
        "premise",
        "hypothesis",
        NLI,
        splits={f"{split}_r{number}": ALL for number in (1, 2, 3) for split in ("train", "dev", "test")},
        roles={"train": "train_r1", "validation": "dev_r1", "test": "test_r1"},
    ),
    "xnli": _pair("facebook/xnli", "premise", "hypothesis", NLI, opened={"name": "en"}),
    "paws_x": _pair("google-research-datasets/paws-x", "sentence1", "sentence2", ["0", "1"], opened={"name": "en"}),
    "ag_news": _single("fancyzhx/ag_news", "text", ["World", "Sports", "Business", "Sci/Tech"], **_NO_VALIDATION),
    # The data set has 50 fine labels.
    "trec": HubData(
        path="tasksource/trec",
        features={
            "text": TEXT,
            "coarse_label": ClassLabel(names=_QUESTIONS),
            "fine_label": ClassLabel(names=["ABBR:abb", "NUM:date"]),
        },
        label="coarse_label",
        labels=_QUESTIONS,
        **_NO_VALIDATION,
    ),
    "imdb": _single(
        "stanfordnlp/imdb",
        "text",
        ["neg", "pos"],
        splits={"train": ALL, "test": ALL, "unsupervised": NONE},
        roles={"train": "train", "test": "test"},
    ),
    # The data set has 77 intents; their names are read from it.
    "banking77": _single(
        "legacy-datasets/banking77", "text", ["activate_my_card", "age_limit", "apple_pay"], **_NO_VALIDATION
    ),
    "tweet_eval": _single(
        "cardiffnlp/tweet_eval", "text", ["negative", "neutral", "positive"], opened={"name": "sentiment"}
    ),
    "conll2003": HubData(
        path="tomaarsen/conll2003",
        features={
            "tokens": WORDS,
            "pos_tags": List(ClassLabel(names=["NN", "VB"])),
            "chunk_tags": List(ClassLabel(names=spans("NP", "VP"))),
            "ner_tags": List(ClassLabel(names=spans("PER", "ORG", "LOC", "MISC"))),
        },
        label="ner_tags",
        labels=spans("PER", "ORG", "LOC", "MISC"),
    ),
    "wnut17": _tagged(
        "flaitenberger/wnut_17", spans("corporation", "creative-work", "group", "location", "person", "product")
    ),
    "wikiann": _tagged("unimelb-nlp/wikiann", spans("PER", "ORG", "LOC"), opened={"name": "en"}),
    "ud": HubData(
        path="universal-dependencies/universal_dependencies",
        features={"tokens": WORDS, "lemmas": WORDS, "upos": WORDS, "xpos": WORDS, "deprel": WORDS, "text": TEXT},
        label="upos",
        labels=_UPOS,
        opened={"name": "en_ewt"},
        splits={"train": ALL, "dev": ALL, "test": ALL},
        roles={"train": "train", "validation": "dev", "test": "test"},
    ),
    # The data set has 60 intents and 18 scenarios; their names are read from it.
    "massive": HubData(
        path="AmazonScience/massive",
        features={
            "utt": TEXT,
            "annot_utt": TEXT,
            "intent": ClassLabel(names=_INTENTS),
            "scenario": ClassLabel(names=["datetime", "iot"]),
        },
        label="intent",
        labels=_INTENTS,
        opened={"revision": "refs/convert/parquet", "data_dir": "en-US"},
    ),
}
