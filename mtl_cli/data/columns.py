"""The columns that a task reads, as it reads them: texts, words, label names, scores; each row checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_cli.types import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

Fail = Callable[[int, str, str], UserError]
"""Makes the error for a row (from 0), a column and a reason."""


@dataclass(frozen=True)
class Checked:
    """A column that was read.

    Attributes:
        values: one value a row; null where a row has none.
        bad: rows that cannot be used, of data that the user cannot mend; shape (rows,).
        complaint: what is wrong with them.
    """

    values: pa.ChunkedArray
    bad: np.ndarray
    complaint: str


def require_columns(found: Iterable[str], needed: Iterable[str], split: str, settings: dict[str, str]) -> None:
    """Refuse data that lack a column, naming those that exist and the nearest.

    Args:
        found: columns of the split.
        needed: columns that must be there.
        split: its name.
        settings: for each column the task's setting that names it.
    """
    found = list(found)
    for column in needed:
        if column not in found:
            near = get_close_matches(column, found, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"the {split} split has no column {column!r} (`{settings[column]}`). "
                f"Columns: {', '.join(map(repr, found))}.{hint}"
            )


def flat(column: pa.ChunkedArray) -> pa.Array:
    """The values of a list column one after the other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.list_flatten(column)
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Length of each list; 0 for null."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), dtype=np.int64)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are texts."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def read_texts(column: pa.ChunkedArray, name: str) -> Checked:
    """Texts, of which none may be missing, empty or blank."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if not is_text(column.type):
        raise UserError(f"column {name!r} holds {column.type}, but a text is expected. Choose another column.")
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    bad = pc.fill_null(blank, True).to_numpy()
    return Checked(pc.fill_null(column, ""), bad, "the text is empty")


def read_words(column: pa.ChunkedArray, name: str) -> Checked:
    """Lists of words; a text is split at white space. Neither a list nor a word may be empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = split_text(column)
    if not is_list(column.type) or not is_text(column.type.value_type):
        raise UserError(
            f"column {name!r} holds {column.type}, but a list of words, or a text with blanks between them, is "
            "expected. Choose another column."
        )
    column = column.cast(pa.list_(pa.string()))
    lengths, words = list_lengths(column), flat(column)
    num_good = np.zeros(len(lengths), dtype=np.int64)
    good = pc.fill_null(pc.not_equal(words, ""), False).to_numpy(zero_copy_only=False)
    np.add.at(num_good, np.repeat(np.arange(len(lengths)), lengths), good)
    return Checked(column, (lengths == 0) | (num_good < lengths), "there are no words, or one is empty")


def split_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as lists of the words between their blanks; anything else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not is_text(column.type):
        return column
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(column))
    # Splitting an empty text gives one empty word.
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
    return pc.if_else(blank, pa.scalar([], words.type), words)


def read_names(column: pa.ChunkedArray, name_of: Callable[[Any], str | None]) -> pa.ChunkedArray:
    """The name of each value's label, null for none. `name_of` is asked once a distinct value."""
    import pyarrow as pa

    return pa.chunked_array([_names(chunk, name_of) for chunk in column.chunks], pa.string())


def read_tags(column: pa.ChunkedArray, name_of: Callable[[Any], str | None]) -> pa.ChunkedArray:
    """As `read_names` for lists. A list without a single tag becomes null; one that lacks some holds nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = list_lengths(column)
    names = _names(flat(column), name_of)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    given = np.concatenate(([0], np.cumsum(pc.is_valid(names).to_numpy(zero_copy_only=False))))
    untagged = (given[starts[1:]] == given[starts[:-1]]) & (lengths > 0)
    missing = untagged | pc.is_null(column).to_numpy()
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(starts, pa.int32()), names, mask=pa.array(missing))])


def _names(values: pa.Array, name_of: Callable[[Any], str | None]) -> pa.Array:
    import pyarrow as pa

    encoded = values.dictionary_encode()
    names = pa.array([name_of(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)


def distinct_values(column: pa.ChunkedArray) -> list[object]:
    """The distinct values of a column, or in its lists."""
    import pyarrow.compute as pc

    values: list[object] = pc.unique(flat(column) if is_list(column.type) else column).to_pylist()
    return values


def read_scores(
    column: pa.ChunkedArray, name: str, fail: Fail, minimum: float | None, maximum: float | None
) -> pa.ChunkedArray:
    """Scores as float32; null for none: null, an empty text, NaN, and -1 where that cannot be a score.

    -1 is no score where `minimum` is above it, or where no row has anything else (test splits of the GLUE benchmark).

    Raises:
        UserError: a value is no finite number, or outside `minimum` to `maximum`, with its place.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    scores = _to_float(column, name, fail)
    values = scores.to_numpy(zero_copy_only=False)
    absent = np.isnan(values)
    minus_one = values == -1
    if (minimum is not None and minimum > -1) or minus_one[~absent].all():
        absent |= minus_one
    for row in np.flatnonzero(np.isinf(values))[:1]:
        raise fail(int(row), name, f"{values[row]} is not a finite score")
    too_low = np.zeros_like(absent) if minimum is None else values < minimum
    too_high = np.zeros_like(absent) if maximum is None else values > maximum
    for row in np.flatnonzero((too_low | too_high) & ~absent)[:1]:
        bounds = f"from {'any' if minimum is None else minimum} to {'any' if maximum is None else maximum}"
        raise fail(int(row), name, f"the score {values[row]:g} is not {bounds} (`min_score`, `max_score`)")
    return pa.chunked_array([pc.if_else(pa.array(absent), None, pa.array(values.astype(np.float32)))])


def _to_float(column: pa.ChunkedArray, name: str, fail: Fail) -> pa.Array:
    """Float64 with NaN for nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        numbers = np.array([_parse(text) for text in trimmed.to_pylist()])
        for row in np.flatnonzero(np.isinf(numbers))[:1]:
            raise fail(int(row), name, f"{column[int(row)].as_py()!r} is not a score, but a finite number is expected")
        return pa.array(numbers)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise UserError(f"column {name!r} holds {column.type}, but a score is expected. Choose another column.")
    return pc.fill_null(column.cast(pa.float64()), math.nan).combine_chunks()


def _parse(text: str | None) -> float:
    """The number a text holds: NaN for an empty one, infinity where it is no finite number."""
    if not text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return math.inf
    return number if math.isfinite(number) else math.inf


def declared_names(feature: object) -> list[str] | None:
    """Label names that a data set declares for a column (`ClassLabel`, alone or in a list), by id."""
    import datasets

    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def stored(dataset: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column as it is stored."""
    if dataset._indices is not None:
        dataset = dataset.select_columns([name]).flatten_indices()
    return dataset.data.table.column(name)


def with_columns(dataset: datasets.Dataset, columns: dict[str, pa.ChunkedArray]) -> datasets.Dataset:
    """The data set with these columns replaced."""
    import datasets
    from datasets.table import InMemoryTable

    if dataset._indices is not None:
        dataset = dataset.flatten_indices()
    table = dataset.data.table
    features = dataset.features.copy()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
        features[name] = datasets.Features.from_arrow_schema(table.select([name]).schema)[name]
    # The schema's metadata repeat the features of the source, which no longer hold.
    return datasets.Dataset(
        InMemoryTable(table.replace_schema_metadata(None)),
        info=datasets.DatasetInfo(features=features),
        fingerprint=dataset._fingerprint,
    )
