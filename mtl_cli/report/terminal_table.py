"""A comparison on a terminal: as much of it as is wide enough, the best values marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from mtl_cli.report.columns import Column
from mtl_cli.report.comparison import Comparison
from mtl_cli.report.fields import SCORE
from mtl_cli.report.table_formats import cell_text, is_number, label_text

_BETWEEN = 3  # spaces between columns: the padding on both sides, and the line that the box leaves empty
# Texts are shortened to one of these widths before columns are left out.
_WIDEST = (48, 32, 24, 16)
_WIDEST_STATUS = 32  # the whole of an error stands below the table
_SETTINGS_FIRST = 4  # so many settings matter more than the metrics of single tasks


def terminal_table(comparison: Comparison, width: int | None, colours: bool) -> tuple[Table, list[str]]:
    """Return the table and the labels of the columns that it has no room for.

    Args:
        comparison: what to show.
        width: characters a line; None: as many as it takes.
        colours: whether bold text and colours show; else a star marks the best values.
    """
    columns, widest = _fitting(comparison, width, colours)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    written = [_written(comparison, column, widest, colours) for column in columns]
    for lines in written:
        table.add_column(lines[0], no_wrap=True, vertical="bottom")
    for row, cells in zip(comparison.rows, zip(*(lines[1:] for lines in written), strict=True), strict=True):
        table.add_row(*cells, style="" if row.finished else "dim")
    shown = {column.key for column in columns}
    return table, [label_text(column) for column in comparison.columns if column.key not in shown]


def _fitting(comparison: Comparison, width: int | None, colours: bool) -> tuple[list[Column], int]:
    """The columns that there is room for, and how wide a text may be: texts become short, then columns go."""
    columns = list(comparison.columns)
    if width is None:
        return columns, 10_000
    settings = [column.key for column in columns if column.kind == "setting"]
    rightmost_first = columns[::-1]
    dispensable = sorted(rightmost_first, key=lambda column: _importance(column, settings))
    for column in [None, *dispensable[:-1]]:
        if column is not None:
            columns.remove(column)
        for widest in _WIDEST:
            if _width(comparison, columns, widest, colours) <= width:
                return columns, widest
    return columns, _WIDEST[-1]


def _importance(column: Column, settings: Sequence[str]) -> int:
    """Least first."""
    if column.key in ("name", SCORE, "status"):
        return {"status": 6, SCORE: 7, "name": 8}[column.key]
    if column.kind == "setting":
        return 5 if column.key in settings[:_SETTINGS_FIRST] else 2
    return {"cost": 0, "identity": 3, "metric": 4 if column.main else 1}[column.kind]


def _width(comparison: Comparison, columns: Sequence[Column], widest: int, colours: bool) -> int:
    written = [_written(comparison, column, widest, colours) for column in columns]
    return sum(max(cell_len(line) for text in lines for line in text.plain.split("\n")) for lines in written) + (
        _BETWEEN * (len(columns) - 1)
    )


def _label(column: Column) -> str:
    """A metric stands under its task: that is narrower."""
    return column.label.replace("/", "\n") if column.kind == "metric" else column.label


def _shortened(text: str, column: Column, widest: int) -> str:
    widest = min(widest, _WIDEST_STATUS) if column.key == "status" else widest
    if is_number(column) or len(text) <= widest:
        return text
    if column.key == "status":
        return f"{text[: widest - 1]}…"
    begin = (widest - 1) // 2
    return f"{text[:begin]}…{text[-(widest - 1 - begin) :]}"


def _written(comparison: Comparison, column: Column, widest: int, colours: bool) -> list[Text]:
    """The header and the cells of a column. Numbers stand under one another, the star of the best one beside them."""
    cells = [_shortened(cell_text(row, column), column, widest) for row in comparison.rows]
    header = _shortened(_label(column), column, widest)
    best = [comparison.is_best(row, column) for row in comparison.rows]
    if is_number(column):
        width = max(map(cell_len, [*header.split("\n"), *cells]))
        cells = [" " * (width - cell_len(cell)) + cell for cell in cells]
        header = "\n".join(" " * (width - cell_len(line)) + line for line in header.split("\n"))
    if colours:
        marked = [Text(cell, style="bold green" if b else "") for cell, b in zip(cells, best, strict=True)]
    else:
        marked = [Text(f"{cell}*" if b else cell) for cell, b in zip(cells, best, strict=True)]
    return [Text(header), *marked]
