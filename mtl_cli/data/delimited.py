"""Tables with a delimiter, with or without quoting: csv and tsv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_cli.data.text_file import read_text, split_lines
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST_FIELD = 2**31 - 1
"""Characters; the csv module's own limit of 131072 is shorter than a long document."""


def read_delimited(
    path: Path, *, delimiter: str, quoting: bool, columns: list[str] | None
) -> tuple[pa.Table, list[int]]:
    """The rows of a file, every field as the text it is, and the line on which each begins.

    Nothing is turned into a number, a date or a missing value: the text "NA" stays, and so does "1.0".

    Args:
        path: the file.
        delimiter: one character.
        quoting: fields may stand in double quotes, and may then hold delimiters, line breaks and doubled quotes;
            otherwise a double quote is a character like any other.
        columns: names of the columns where the file has no header row; None takes the first row as the header.

    Raises:
        UserError: a row with more or fewer fields than columns, or broken quoting, with the line.
    """
    import pyarrow as pa

    text = read_text(path)
    records = _quoted_records(path, text, delimiter) if quoting else _plain_records(text, delimiter)
    names = columns if columns is not None else _header(path, records)
    rows: list[list[str]] = []
    lines: list[int] = []
    for first_line, last_line, fields in records:
        if len(fields) != len(names):
            if not fields or (fields == [""] and len(names) > 1):
                continue
            raise UserError(_wrong_count(path, first_line, last_line, fields, names, columns is not None, quoting))
        rows.append(fields)
        lines.append(first_line)
    values: Iterable[tuple[str, ...]] = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([pa.array(column, pa.string()) for column in values], names=names), lines


def _plain_records(text: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    for number, line in enumerate(split_lines(text), start=1):
        yield number, number, line.split(delimiter)


def _quoted_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    # newline="" keeps line breaks within quotes as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path}, line {first_line}: broken quoting ({error}). If a double quote is a plain character in this "
                "file, set quoting: false"
            ) from error
        yield first_line, reader.line_num, fields


def _header(path: Path, records: Iterator[tuple[int, int, list[str]]]) -> list[str]:
    first = next(records, None)
    if first is None:
        raise UserError(
            f"{path} is empty. A file with a header row is expected; name the columns with `columns` if it has none."
        )
    names = first[2]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"{path}, line {first[0]}: the header names {', '.join(map(repr, repeated))} twice. Rename a column, or if "
            "this line is not a header, name the columns with `columns`."
        )
    return names


def _wrong_count(
    path: Path, first_line: int, last_line: int, fields: list[str], names: list[str], named: bool, quoting: bool
) -> str:
    expected = f"`columns` names {len(names)}" if named else f"the header has {len(names)}"
    message = (
        f"{path}, line {first_line}: {len(fields)} field{'s'[: len(fields) != 1]}, but {expected} ({', '.join(names)})."
    )
    if quoting and last_line > first_line:
        message += (
            f" A quoted field runs on to line {last_line}: if quotes are plain characters here, set quoting: false"
        )
    elif len(fields) == 1:
        message += " Is `delimiter` right?"
    return message
