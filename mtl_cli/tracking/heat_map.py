"""A matrix as a table of HTML that needs nothing else: no library, no file, no network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Literal

Scale = Literal["signed", "share", "plain"]
"""What the numbers of a matrix are: around 0, between 0 and 1, any."""

Colour = tuple[int, int, int]

_WHITE: Colour = (255, 255, 255)
# Blue, red and purple of ColorBrewer's palettes that people with colour blindness tell apart.
_BLUE, _RED, _PURPLE = (33, 102, 172), (178, 24, 43), (84, 39, 143)
NO_VALUE = "#e0e0e0"
"""The colour of a cell without a number."""

STYLE = """
table.heat { border-collapse: collapse; }
.heat caption { text-align: left; padding-bottom: 6px; }
.heat th { font-weight: normal; text-align: right; padding: 2px 6px; white-space: nowrap; }
.heat thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 6px 2px; }
.heat tbody td { min-width: 42px; height: 28px; text-align: center; border: 1px solid #fff; }
"""
"""The style sheet that the table needs."""

_PAGE_STYLE = "body { margin: 8px; background: #fff; color: #000; font: 13px sans-serif; }"


def cosine_heat_map(names: Sequence[str], cosines: Mapping[tuple[str, str], float], caption: str) -> str:
    """Draw the symmetric matrix as a page: red below 0 (conflict), white at 0, blue above; each cell says its number.

    Args:
        names: of rows and columns, in order.
        cosines: pair of names, in either order -> cosine; a pair that is missing, and one that is nan, stays grey.
        caption: a line above the matrix.
    """
    table = cosine_table(names, cosines, caption)
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><style>{_PAGE_STYLE}{STYLE}</style></head><body>'
        f"{table}</body></html>\n"
    )


def cosine_table(names: Sequence[str], cosines: Mapping[tuple[str, str], float], caption: str) -> str:
    """Draw the matrix of `cosine_heat_map` as a table alone."""
    values = [[cosines.get((row, column), cosines.get((column, row))) for column in names] for row in names]
    return heat_table(names, names, values, "signed", caption, limits=(-1.0, 1.0), diagonal="1")


def heat_table(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    scale: Scale,
    caption: str,
    limits: tuple[float, float] | None = None,
    diagonal: str | None = None,
) -> str:
    """Draw a matrix as a table, each cell in the colour of its number, which it also says.

    Args:
        rows: names of the rows.
        columns: names of the columns.
        values: a list a row; None and nan stay grey.
        scale: which colours; see `colour_of`.
        caption: a line above.
        limits: the numbers that the ends of the colours stand for; None: those of the matrix, by its scale.
        diagonal: what stands, without a colour, in cells whose row and column have the same place.
    """
    low, high = limits_of(values, scale) if limits is None else limits
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = []
    for i, (row, numbers) in enumerate(zip(rows, values, strict=True)):
        cells = "".join(
            _empty_cell(diagonal)
            if diagonal is not None and i == j
            else _cell(f"{row}, {column}", value, scale, low, high)
            for j, (column, value) in enumerate(zip(columns, numbers, strict=True))
        )
        lines.append(f"<tr><th>{html.escape(row)}</th>{cells}</tr>\n")
    return (
        f'<table class="heat">\n<caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody></table>"
    )


def limits_of(values: Sequence[Sequence[float | None]], scale: Scale) -> tuple[float, float]:
    """Return the numbers that the two ends of the colours stand for: -m and m, 0 and 1, or the least and the largest.

    A share above 1 or below 0 (rounding apart, there is none) has the colour of the end.
    """
    known = [value for row in values for value in row if value is not None and math.isfinite(value)]
    if scale == "share":
        return 0.0, 1.0
    if scale == "signed":
        largest = max((abs(value) for value in known), default=0.0) or 1.0
        return -largest, largest
    return min(known, default=0.0), max(known, default=0.0)


def colour_of(value: float, scale: Scale, low: float, high: float) -> Colour:
    """Return the colour of a number: red, white, blue for signed ones; white to blue for shares; white to purple."""
    if scale == "signed":
        part = value / high
        return _mixed(_BLUE if part > 0 else _RED, min(abs(part), 1.0))
    part = (value - low) / (high - low) if high > low else 0.0
    return _mixed(_BLUE if scale == "share" else _PURPLE, min(max(part, 0.0), 1.0))


def number_text(value: float, low: float, high: float) -> str:
    """Return a number as a cell has room for: two decimals where the limits allow it."""
    largest = max(abs(low), abs(high))
    return f"{value:.2f}" if 0.1 <= largest < 1000 else f"{value:.2g}"


def hex_of(colour: Colour) -> str:
    """Return a colour as HTML writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def text_colour_on(colour: Colour) -> str:
    """Return black or white, whichever is easier to read; its contrast is 4.5 or more, as WCAG 2 asks for."""
    # Contrast (L1 + 0.05) / (L2 + 0.05) with white is 1.05 / (L + 0.05), with black (L + 0.05) / 0.05.
    return "#000" if (_luminance(colour) + 0.05) ** 2 > 1.05 * 0.05 else "#fff"


def _cell(name: str, value: float | None, scale: Scale, low: float, high: float) -> str:
    if value is None or not math.isfinite(value):
        return _empty_cell("")
    colour = colour_of(value, scale, low, high)
    hint = html.escape(f"{name}: {value:.4g}", quote=True)
    style = f"background:{hex_of(colour)};color:{text_colour_on(colour)}"
    return f'<td style="{style}" title="{hint}">{number_text(value, low, high)}</td>'


def _empty_cell(text: str) -> str:
    hint = "" if text else ' title="no value"'
    return f'<td style="background:{NO_VALUE}"{hint}>{text}</td>'


def _mixed(end: Colour, part: float) -> Colour:
    red, green, blue = (round(w + part * (e - w)) for w, e in zip(_WHITE, end, strict=True))
    return red, green, blue


def _luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour (WCAG 2)."""
    red, green, blue = (
        part / 12.92 if (part := channel / 255) <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for channel in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
