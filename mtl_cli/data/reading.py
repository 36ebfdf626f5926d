"""The splits of a source as a task reads them: columns found, every row checked, label names instead of ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from mtl_cli.data import columns
from mtl_cli.data.label_names import LabelNames, in_order
from mtl_cli.data.preparable import PreparableTask
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_SHOWN_LABELS = 20


@dataclass(frozen=True)
class ReadSplit:
    """One split of a source.

    Attributes:
        examples: its rows, with the task's columns as the task reads them (label names in the label column).
        labelled: whether rows have labels. A test split may have none, and is then predicted but not scored.
        rows: numbers of the rows that can be used, ascending.
    """

    examples: datasets.Dataset
    labelled: bool
    rows: np.ndarray


class SplitReader:
    """Reads and checks the splits of one task's source.

    Args:
        task: says which columns it reads and what it expects in them.
        raw: what the source loaded.
        note: takes a sentence on each thing that was left out.

    Raises:
        UserError: a split is empty or lacks a column.
    """

    def __init__(self, task: PreparableTask, raw: Mapping[str, datasets.Dataset], note: Callable[[str], None]) -> None:
        self._task, self._raw, self._note = task, raw, note
        self._check_columns()
        self.names = None if task.label_kind == "score" else self._label_names()

    def read(self, split: str) -> ReadSplit:
        """Read the task's columns of one split and check each row.

        Rows without a label are left out. A row that cannot be used is an error where the user can mend the data; in
        data sets of the Hub, tagged rows that cannot be used are left out, and rows with an empty text are kept.

        Raises:
            UserError: what is wrong, with the file, the row and the column.
        """
        dataset = self._raw[split]
        inputs = {name: self._read_input(dataset, name) for name in self._task.input_columns()}
        values = {name: checked.values for name, checked in inputs.items()}
        labels = self._read_labels(split, dataset)
        usable = np.ones(len(dataset), dtype=bool)
        if labels is not None:
            usable &= labels.is_valid().to_numpy()
            values[self._task.label_column] = labels
            if not usable.all():
                self._note(f"{num_rows(int((~usable).sum()))} without a label (-1 or empty) left out of {split}")
        for name, checked in inputs.items():
            bad = usable & checked.bad
            if bad.any():
                usable &= ~self._refuse(split, name, bad, checked.complaint)
        if labels is not None and self._task.label_kind == "tags":
            usable &= ~self._without_matching_tags(split, usable, values)
        if not usable.any():
            raise UserError(f"the {split} split has no row that can be used ({self._place(split)}).")
        return ReadSplit(columns.with_columns(dataset, values), labels is not None, np.flatnonzero(usable))

    def found_labels(self, train: ReadSplit) -> list[str]:
        """Label names that the data declare, in their order, or else those of the training split, sorted."""
        column = self._task.label_column
        declared = columns.declared_names(self._raw["train"].features[column])
        if declared is not None:
            return declared
        values = columns.distinct_values(columns.stored(train.examples, column))
        return in_order(str(value) for value in values if value is not None)

    def check_labels(self, split: str, part: ReadSplit, labels: list[str]) -> None:
        """Refuse a class that is not in the label list."""
        if not part.labelled:
            return
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._task.label_column
        names = columns.stored(part.examples, column)
        unseen = pc.and_(names.is_valid(), pc.invert(pc.is_in(names, pa.array(labels)))).to_numpy()
        if not unseen.any():
            return
        row = int(np.argmax(unseen))
        name = names[row].as_py()
        near = get_close_matches(name, labels, n=1)
        known = ", ".join(labels[:_SHOWN_LABELS]) + (", ..." if len(labels) > _SHOWN_LABELS else "")
        # Without a list of the user's, the labels are those that training has.
        which = f"the {len(labels)} labels{' found in training' if self._task.labels is None else ' in `labels`'}"
        raise self.fail(
            split,
            row,
            column,
            f"the label {name!r} is none of {which}: {known}.{f' Did you mean {near[0]!r}?' if near else ''} "
            "Mend the row, or list all labels in `labels`.",
        )

    def fail(self, split: str, row: int, column: str, reason: str) -> UserError:
        """Make the error about one row of a split."""
        return UserError(f"{self._task.source.locate(split, row)}, column {column!r}: {reason}")

    def _place(self, split: str) -> str:
        """The files of a split, or its source."""
        files = getattr(self._task.source, split, None)
        return str(files) if files else type(self._task.source).__name__

    def _check_columns(self) -> None:
        task = self._task
        settings = {column: role for role, column in task.columns().items()}
        for split, dataset in self._raw.items():
            if len(dataset) == 0:
                raise UserError(f"the {split} split is empty ({self._place(split)}).")
            needed = [*task.input_columns(), *([task.label_column] if split != "test" else [])]
            columns.require_columns(dataset.column_names, needed, split, settings)

    def _label_names(self) -> LabelNames:
        column = self._task.label_column
        labelled = [dataset for dataset in self._raw.values() if column in dataset.column_names]
        if not labelled:
            return LabelNames([], None, self._task.labels)
        values = [value for dataset in labelled for value in columns.distinct_values(self._label_values(dataset))]
        declared = columns.declared_names(labelled[0].features[column])
        return LabelNames(values, declared, self._task.labels)

    def _label_values(self, dataset: datasets.Dataset) -> pa.ChunkedArray:
        values = columns.stored(dataset, self._task.label_column)
        return columns.split_text(values) if self._task.label_kind == "tags" else values

    def _read_input(self, dataset: datasets.Dataset, name: str) -> columns.Checked:
        read = columns.read_words if self._task.level == "word" else columns.read_texts
        return read(columns.stored(dataset, name), name)

    def _read_labels(self, split: str, dataset: datasets.Dataset) -> pa.ChunkedArray | None:
        """The label column with names or scores, null where a row has none; None for a test split without any."""
        column = self._task.label_column
        if column not in dataset.column_names:
            return None
        labels = self._read_scores(split, dataset) if self.names is None else self._read_names(split, dataset)
        if labels.null_count < len(labels):
            return labels
        if split == "test":
            return None
        advice = "in the source, or none to carve one from train" if split == "validation" else "in the source"
        raise UserError(
            f"no row of the {split} split has a label in column {column!r} ({self._place(split)}). "
            f"Name another split {advice}."
        )

    def _read_scores(self, split: str, dataset: datasets.Dataset) -> pa.ChunkedArray:
        column = self._task.label_column
        return columns.read_scores(
            columns.stored(dataset, column),
            column,
            lambda row, name, reason: self.fail(split, row, name, reason),
            getattr(self._task, "min_score", None),
            getattr(self._task, "max_score", None),
        )

    def _read_names(self, split: str, dataset: datasets.Dataset) -> pa.ChunkedArray:
        assert self.names is not None
        values, tags = self._label_values(dataset), self._task.label_kind == "tags"
        if columns.is_list(values.type) != tags:
            raise UserError(
                f"column {self._task.label_column!r} of the {split} split holds {values.type}, but "
                f"{'a list of tags' if tags else 'one label'} a row is expected. Choose another column or type of task."
            )
        return columns.read_tags(values, self.names) if tags else columns.read_names(values, self.names)

    def _refuse(self, split: str, column: str, bad: np.ndarray, complaint: str) -> np.ndarray:
        """Raise for the first bad row; of data that cannot be mended, return those to leave out and note them."""
        if self._task.source.mendable:
            raise self.fail(split, int(np.argmax(bad)), column, f"{complaint}. Mend or remove the row.")
        drop = self._task.level == "word"
        number = num_rows(int(bad.sum()))
        self._note(f"{number} of {split} {'left out' if drop else 'kept'}, though in column {column!r} {complaint}")
        return bad if drop else np.zeros_like(bad)

    def _without_matching_tags(
        self, split: str, usable: np.ndarray, values: Mapping[str, pa.ChunkedArray]
    ) -> np.ndarray:
        """Rows to leave out because their words and tags do not go together; raises as `_refuse` does."""
        column = self._task.label_column
        (words,) = (values[name] for name in self._task.input_columns())
        num_words, num_tags = columns.list_lengths(words), columns.list_lengths(values[column])
        unequal = usable & (num_words != num_tags)
        left_out = np.zeros_like(usable)
        if unequal.any():
            row = int(np.argmax(unequal))
            left_out |= self._refuse(
                split, column, unequal, f"there are {num_tags[row]} tags for {num_words[row]} words"
            )
        has_gap = np.zeros_like(usable)
        tag_is_missing = columns.flat(values[column]).is_null().to_numpy(zero_copy_only=False)
        has_gap[np.repeat(np.arange(len(num_tags)), num_tags)[tag_is_missing]] = True
        has_gap &= usable & ~left_out
        if has_gap.any():
            left_out |= self._refuse(split, column, has_gap, "a word has no tag")
        return left_out


def num_rows(number: int) -> str:
    """A number of rows in words."""
    return f"{number:,} row{'s'[: number != 1]}"
