"""From a task's source to tokenised splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl_cli.data import columns
from mtl_cli.data.cache import content_key, dataset_cache
from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.preparable import PreparableTask
from mtl_cli.data.reading import ReadSplit, SplitReader, num_rows
from mtl_cli.data.splits import carve, limit
from mtl_cli.data.tokenised import tokenise
from mtl_cli.types import SPLITS, UserError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TaskData:
    """The data of one task, ready to be cut into batches.

    Attributes:
        splits: `train`, `validation` and `test`, those that exist.
        examples: the rows behind each split, in the order that `example_numbers` counts: all columns of the source,
            words as lists, and label names or scores in the label column of a split that has labels.
        labels: label names in the order of their ids; None for scores.
        notes: what was carved, left out and limited, a sentence each.
    """

    splits: dict[str, EncodedSplit]
    examples: dict[str, datasets.Dataset]
    labels: list[str] | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Chosen:
    """Rows of a split of the source that make up a split of the result."""

    origin: str
    rows: np.ndarray


def prepare(
    task: PreparableTask,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    cache_dir: Path | None,
    max_length_limit: int | None,
    labels: list[str] | None = None,
    name: str | None = None,
) -> TaskData:
    """Load, check, choose and tokenise the rows of one task.

    In this order: load; check every row and leave out those without a label; carve a validation split out of the
    training split where the source has none; limit the training rows; tokenise. What is drawn depends on `seed` and
    this task's own data alone. Label names are found before anything is drawn: they are the same for every seed.

    Args:
        task: what to read and how to tokenise it.
        tokenizer: the encoder's.
        seed: of the carved validation split and of the limited training rows.
        cache_dir: where tokenised splits are kept. None: beside what `datasets` caches.
        max_length_limit: tokens a row that the encoder takes; the task's own `max_length` may be less.
        labels: label names in the order of their ids, of a run that exists. None: the task's, or as found.
        name: of the task, for messages.

    Raises:
        UserError: the data cannot be used, with the task, file, row and column.
    """
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text if name is None else f"{name}: {text}")

    with _named(name):
        reader, read, labels, chosen = _read_and_choose(task, seed, labels, note)
        tokenising = _Tokenising(task, tokenizer, reader, labels, max_length_limit, cache_dir)
        encoded = {
            split: rows for origin, part in read.items() for split, rows in tokenising.run(origin, part, chosen).items()
        }
    return TaskData(
        splits={split: encoded[split] for split in chosen},
        examples={split: read[part.origin].examples.select(part.rows) for split, part in chosen.items()},
        labels=labels,
        notes=notes,
    )


def training_texts(task: PreparableTask, *, seed: int, name: str | None = None) -> Iterator[str]:
    """Yield the texts that the task trains on, for a tokenizer that is trained on them too.

    They are the training rows that `prepare` chooses: none that is carved for validation, none beyond a limit.
    """
    with _named(name):
        _, read, _, chosen = _read_and_choose(task, seed, None, lambda text: None)
    part = chosen["train"]
    examples = read[part.origin].examples.select(part.rows)
    for column in task.input_columns():
        for value in examples[column]:
            yield value if isinstance(value, str) else " ".join(value)


@contextmanager
def _named(name: str | None) -> Iterator[None]:
    """Put the task's name in front of what is wrong with its data."""
    try:
        yield
    except UserError as error:
        raise (error if name is None else UserError(f"tasks.{name}: {error}")) from error


def _read_and_choose(
    task: PreparableTask, seed: int, labels: list[str] | None, note: Callable[[str], None]
) -> tuple[SplitReader, dict[str, ReadSplit], list[str] | None, dict[str, _Chosen]]:
    """Load and check the source's splits, settle the labels, and choose the rows of each split of the result."""
    raw = task.source.load()
    if "train" not in raw and labels is None:
        raise UserError(f"the source has no training split. Splits: {', '.join(raw)}.")
    reader = SplitReader(task, raw, note)
    read = {split: reader.read(split) for split in raw}
    if labels is None:
        labels = task.label_list(() if task.label_kind == "score" else reader.found_labels(read["train"]))
    if labels is not None and task.label_kind == "class":
        for split, part in read.items():
            reader.check_labels(split, part, labels)
    return reader, read, labels, _choose(task, read, seed, note)


def _choose(
    task: PreparableTask, read: Mapping[str, ReadSplit], seed: int, note: Callable[[str], None]
) -> dict[str, _Chosen]:
    """Which rows make up each split of the result, in the usual order of splits."""
    chosen = {split: _Chosen(split, part.rows) for split, part in read.items()}
    if "train" in read:
        rows = read["train"].rows
        if "validation" not in read:
            if len(rows) < 2:
                raise UserError("the training split has one row, of which no validation split can be carved.")
            rows, carved = carve(rows, task.validation_fraction, seed, _classes(task, read["train"]))
            note(f"validation carved from train: {num_rows(len(carved))} by seed {seed}; {len(rows):,} stay in train")
            chosen["validation"] = _Chosen("train", carved)
        kept = limit(rows, task.train_fraction, task.max_train_examples, seed)
        if len(kept) < len(rows):
            note(f"train limited to {num_rows(len(kept))} of {len(rows):,} by seed {seed}")
        chosen["train"] = _Chosen("train", kept)
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _classes(task: PreparableTask, train: ReadSplit) -> np.ndarray | None:
    """A number for the class of each usable row; None for tasks without a class a row."""
    if task.label_kind != "class":
        return None
    names = columns.stored(train.examples, task.label_column).take(train.rows)
    return np.asarray(names.combine_chunks().dictionary_encode().indices.to_numpy())


class _Tokenising:
    """Tokenises the splits of a source and hands their rows out to the splits of the result."""

    def __init__(
        self,
        task: PreparableTask,
        tokenizer: PreTrainedTokenizerBase,
        reader: SplitReader,
        labels: list[str] | None,
        max_length_limit: int | None,
        cache_dir: Path | None,
    ) -> None:
        self._task, self._tokenizer, self._reader = task, tokenizer, reader
        self._label_ids = None if labels is None else {label: number for number, label in enumerate(labels)}
        limits = [length for length in (task.max_length, max_length_limit) if length is not None]
        self._max_length = min(limits) if limits else None
        self._folder = (dataset_cache() if cache_dir is None else cache_dir) / "tokenised"

    def run(self, origin: str, part: ReadSplit, chosen: Mapping[str, _Chosen]) -> dict[str, EncodedSplit]:
        """Tokenise the chosen rows of one split of the source.

        The cache's key has their numbers and not the seed: a training split that is carved but not limited is tokenised
        once for all seeds.
        """
        takers = {split: taken.rows for split, taken in chosen.items() if taken.origin == origin}
        rows = np.unique(np.concatenate(list(takers.values())))
        needed = [*self._task.input_columns(), *([self._task.label_column] if part.labelled else [])]
        examples = part.examples.select_columns(needed)
        renamed = self._reader.names.renamed if self._reader.names is not None and part.labelled else {}

        def place_error(example: int, error: UserError) -> UserError:
            column, reason = getattr(error, "column", needed[-1]), getattr(error, "reason", str(error))
            return self._reader.fail(origin, int(rows[example]), column, reason)

        encoded = tokenise(
            self._task,
            examples if len(rows) == len(examples) else examples.select(rows),
            self._tokenizer,
            self._max_length,
            self._label_ids if part.labelled else None,
            key=content_key(
                part.examples._fingerprint,
                hashlib.sha256(rows.tobytes()).hexdigest(),
                {column: str(feature) for column, feature in examples.features.items()},
                sorted(renamed.items()),
            ),
            folder=self._folder,
            place_error=place_error,
        )
        if len(takers) == 1:
            return dict.fromkeys(takers, encoded)
        return {split: encoded.select(np.searchsorted(rows, taken)) for split, taken in takers.items()}
