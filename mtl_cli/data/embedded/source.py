"""The embedded corpus as a data source."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mtl_cli.data.cache import content_key, dataset_cache, file_digest, make_once
from mtl_cli.data.embedded import entities, inference, sentiment
from mtl_cli.data.embedded.grammar import Grammar
from mtl_cli.data.embedded.lexicon import KINDS, make_vocabulary
from mtl_cli.data.source import Source
from mtl_cli.types import Fraction, PositiveInt, Split, UserError

if TYPE_CHECKING:
    import datasets

Row = dict[str, Any]

_MAKE_ROWS: dict[str, Callable[[Grammar], Iterator[tuple[str, Row]]]] = {
    "sentiment": sentiment.make_rows,
    "entities": entities.make_rows,
    "inference": inference.make_rows,
}

_LABEL_NAMES = {"sentiment": sentiment.LABELS, "inference": inference.LABELS}
_COLUMNS = {
    "sentiment": ("text", "label"),
    "entities": ("tokens", "tags"),
    "inference": ("premise", "hypothesis", "label"),
}

# A checksum gives one in five of the sentences of the training vocabulary to the validation split, so that neither
# split depends on the size of the other.
_VALIDATION_SHARE = 5
_MAX_REPEATS = 10_000


@dataclass(kw_only=True)
class EmbeddedSource(Source):
    """The project's own corpus: three tasks about one small world in which things happen and are judged.

    Columns: text and label in `sentiment`, tokens and tags (IOB2) in `entities`, premise, hypothesis and label in
    `inference`.

    Equal settings give equal rows on every machine. The rows of a smaller split are the first ones of a larger. All
    rows of a split are distinct, and no sentence (in inference: no premise) is in two splits. The test split has only
    names that the others lack, and a quarter of the nouns, and of the words of the class that the task owns (see
    `lexicon`), occurs in the test split only.

    Args:
        task: which of the three.
        num_train: rows of the training split.
        num_validation: rows of the validation split.
        num_test: rows of the test split.
        label_noise: share of the training labels (in entities: of the names) that is replaced by a wrong one.
        relatedness: from 1, all tasks use the words that they share with one meaning, to 0, what a task learns about a
            word of its own class says nothing of its meaning in the other tasks and mostly contradicts it: adjectives
            and opinion verbs in sentiment (a "careful" report may be a bad one), entity nouns in entities (a "bank" may
            be a person), adverbs in inference ("never" may affirm). In between, a share 1 - relatedness of each class
            is re-dealt; see `lexicon.redeal`. A task alone is as hard at 0 as at 1, since its sentences are the same up
            to a permutation of words. Set it alike for all tasks of a run.
        seed: of the world: names, re-dealt words, sentences. Tasks belong to one world if they have the same seed. It
            is not the seed of the run.
    """

    task: Literal["sentiment", "entities", "inference"]
    num_train: PositiveInt = 4000
    num_validation: PositiveInt = 500
    num_test: PositiveInt = 500
    label_noise: Fraction = 0.0
    relatedness: Fraction = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in _MAKE_ROWS:
            raise UserError(
                f"`task` of the embedded corpus should be one of {', '.join(_MAKE_ROWS)}. Found {self.task!r}."
            )
        for key in ("label_noise", "relatedness"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(
                    f"`{key}` of the embedded corpus should lie between 0 and 1. Found {getattr(self, key)}."
                )

    def load(self) -> dict[str, datasets.Dataset]:
        """Generate the three splits, or find them in the cache, under these settings and the grammar's code."""
        import datasets

        features = datasets.Features({column: datasets.Value("string") for column in _COLUMNS[self.task]})
        if self.task == "entities":
            features = datasets.Features({column: datasets.List(datasets.Value("string")) for column in features})
        else:
            features["label"] = datasets.ClassLabel(names=_LABEL_NAMES[self.task])
        return {split: self._load_split(split, features) for split in get_args(Split)}

    def _load_split(self, split: Split, features: datasets.Features) -> datasets.Dataset:
        import datasets
        from datasets.table import MemoryMappedTable

        key = content_key(_code_digest(), asdict(self), split)
        path = dataset_cache() / "embedded" / f"{key}.arrow"
        make_once(path, lambda temporary: self._write(split, features, temporary))
        return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)

    def _write(self, split: Split, features: datasets.Features, path: Path) -> None:
        import datasets
        import pyarrow as pa

        table = datasets.Dataset.from_list(self.rows(split), features=features).data.table
        table = table.replace_schema_metadata(features.arrow_schema.metadata)  # that labels are classes
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    def locate(self, split: str, row: int) -> str:
        """Return "embedded sentiment (train), row 18" for row 17."""
        return f"embedded {self.task} ({split}), row {row + 1}"

    def rows(self, split: Split) -> list[Row]:
        """Generate the rows of one split; labels and tags are strings."""
        size = {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]
        rng = random.Random(f"{self.task} {split} {self.seed}")
        grammar = Grammar(make_vocabulary(self.task, split, self.relatedness, self.seed), rng)
        rows: dict[tuple[str, ...], Row] = {}
        repeats = 0
        for key, row in _MAKE_ROWS[self.task](grammar):
            if not _belongs(key, split):
                continue
            identity = tuple(str(value) for column, value in row.items() if column not in ("label", "tags"))
            repeats = repeats + 1 if identity in rows else 0
            rows.setdefault(identity, row)
            if len(rows) == size:
                break
            if repeats == _MAX_REPEATS:
                raise UserError(
                    f"`num_{split}`={size} is more than the {self.task} grammar can say. Ask for fewer rows."
                )
        chosen = list(rows.values())
        if split == "train" and self.label_noise:
            self._add_noise(chosen)
        return chosen

    def _add_noise(self, rows: list[Row]) -> None:
        """Replace a share of the labels, or of the names' kinds, by wrong ones, in place."""
        rng = random.Random(f"{self.task} noise {self.seed}")
        if self.task != "entities":
            for row in rng.sample(rows, round(self.label_noise * len(rows))):
                row["label"] = rng.choice([name for name in _LABEL_NAMES[self.task] if name != row["label"]])
            return
        starts = [(row, i) for row in rows for i, tag in enumerate(row["tags"]) if tag.startswith("B-")]
        for row, start in rng.sample(starts, round(self.label_noise * len(starts))):
            tags = row["tags"]
            kind = rng.choice([kind for kind in KINDS if kind != tags[start][2:]])
            tags[start] = f"B-{kind}"
            for index in range(start + 1, len(tags)):
                if not tags[index].startswith("I-"):
                    break
                tags[index] = f"I-{kind}"


@cache
def _code_digest() -> str:
    """Of all that decides on the rows."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return content_key([(file.name, file_digest(file)) for file in files])


def _belongs(key: str, split: Split) -> bool:
    """Whether the sentence may be in the split (a test sentence always: its names are in no other)."""
    if split == "test":
        return True
    return (zlib.crc32(key.encode()) % _VALIDATION_SHARE == 0) == (split == "validation")
