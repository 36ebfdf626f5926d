"""Rows from JSON: a list of objects, a document that holds such a list, or one object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_cli.data.text_file import read_text, split_lines
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def read_json(path: Path, *, field: str | None) -> tuple[pa.Table, list[int] | None]:
    """The rows of a JSON or JSON Lines file, and the line of each row where rows have lines.

    Values keep their JSON types: a string that looks like a number or a date stays a string. A key that a row lacks is
    null there.

    Args:
        path: the file. It is one document if it begins with "[" or if `field` is given, else JSON Lines.
        field: key of the document that holds the list of rows.

    Raises:
        UserError: broken JSON, a row that is no object, or a column that changes its type, with line or row.
    """
    text = read_text(path)
    if field is not None or text.lstrip()[:1] == "[":
        rows, lines = _rows_of_document(path, text, field), None
    else:
        rows, lines = _rows_of_lines(path, text)
    return _to_table(path, rows, lines), lines


def _rows_of_lines(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    rows, lines = [], []
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            hint = ""
            if number == 1 and line.strip() in ("{", '{"'):
                hint = " If the file is one document, name the key that holds its rows with `field`."
            raise UserError(
                f"{path}, line {number}: not one JSON value ({error.msg} at column {error.colno}).{hint}"
            ) from error
        rows.append(_object(row, f"{path}, line {number}"))
        lines.append(number)
    return rows, lines


def _rows_of_document(path: Path, text: str, field: str | None) -> list[dict[str, Any]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: broken JSON ({error.msg} at column {error.colno}).") from error
    if field is not None:
        if not isinstance(document, dict) or field not in document:
            keys = ", ".join(document) if isinstance(document, dict) else "none, the document is a list"
            raise UserError(f"{path}: no key {field!r} (`field`). Keys at the top: {keys}.")
        document = document[field]
    if not isinstance(document, list):
        raise UserError(f"{path}: `field` {field!r} holds a {type(document).__name__}; a list of objects is expected.")
    return [_object(row, f"{path}, row {number}") for number, row in enumerate(document, start=1)]


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: a {type(row).__name__} where an object with the columns as keys is expected.")
    return row


def _to_table(path: Path, rows: list[dict[str, Any]], lines: list[int] | None) -> pa.Table:
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        if not _fits(values):
            row = _first_misfit(values)
            place = f"row {row + 1}" if lines is None else f"line {lines[row]}"
            raise UserError(
                f"{path}, {place}, column {name}: {json.dumps(values[row], ensure_ascii=False)[:80]} has another type "
                "than the rows before it. Give the column one type."
            )
        arrays.append(pa.array(values))
    return pa.table(arrays, names=names)


def _fits(values: list[Any]) -> bool:
    """Whether one Arrow type holds all values."""
    import pyarrow as pa

    try:
        pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def _first_misfit(values: list[Any]) -> int:
    """Index of the first value that does not go with those before it, by bisection."""
    fits, misfits = 0, len(values)
    while misfits - fits > 1:
        middle = (fits + misfits) // 2
        if _fits(values[:middle]):
            fits = middle
        else:
            misfits = middle
    return misfits - 1
