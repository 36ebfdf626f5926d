"""Matrices of a run as heat maps with a legend, and how their numbers developed."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mtl_cli.report.line_charts import small_charts
from mtl_cli.report.measured import Cosines, Matrix
from mtl_cli.tracking.heat_map import (
    NO_VALUE,
    Scale,
    colour_of,
    cosine_table,
    heat_table,
    hex_of,
    limits_of,
    number_text,
)

_MOST_SMALL_CHARTS = 400

STYLE = """
.wide { overflow-x: auto; margin-bottom: 6px; }
.beside { display: flex; flex-wrap: wrap; gap: 24px; }
.legend { font-size: 12px; color: #333; margin: 2px 0 10px; }
.legend .bar { display: inline-block; width: 120px; height: 12px; border: 1px solid #999; vertical-align: middle; }
.legend .none { display: inline-block; width: 12px; height: 12px; vertical-align: middle; margin-left: 16px; }
details { margin: 0 0 18px; }
"""
"""The style sheet that heat maps need besides that of the table."""


def matrix_section(matrix: Matrix) -> str:
    """Draw a matrix of what the sharing strategy has learnt, and the development of its numbers to be unfolded."""
    low, high = limits_of(matrix.values, matrix.scale)
    table = heat_table(matrix.rows, matrix.columns, matrix.values, matrix.scale, matrix.when, (low, high))
    has_gaps = any(value is None for row in matrix.values for value in row)
    return (
        f'<h3>{html.escape(matrix.title)}</h3>\n<div class="wide">{table}</div>\n'
        f"{legend(matrix.scale, low, high, has_gaps)}\n{_development(matrix)}"
    )


def _development(matrix: Matrix) -> str:
    lengths = [len(curve) for curve in matrix.curves.values()]
    if max(lengths, default=0) < 2:
        return ""
    if len(matrix.rows) * len(matrix.columns) > _MOST_SMALL_CHARTS:
        return f"<p>How its {len(lengths):,} numbers developed is in metrics.jsonl; too many to be drawn here.</p>"
    charts = small_charts(matrix.rows, matrix.columns, matrix.curves)
    return f'<details open><summary>over training</summary>\n<div class="wide">{charts}</div></details>'


def cosine_section(tasks: Sequence[str], parts: Sequence[Cosines]) -> str:
    """Draw the cosines between the tasks' gradients, parts of training side by side."""
    tables = []
    for part in parts:
        steps = f"step {part.last_step:,}"
        if part.first_step != part.last_step:
            steps = f"steps {part.first_step:,} to {part.last_step:,}"
        tables.append(f'<div class="wide">{cosine_table(tasks, part.means, f"mean over the lines of {steps}")}</div>')
    return f'<div class="beside">{"".join(tables)}</div>\n{legend("signed", -1.0, 1.0, has_gaps=True)}'


def legend(scale: Scale, low: float, high: float, has_gaps: bool) -> str:
    """Say in a line which number each colour stands for."""
    middle = (low + high) / 2
    stops = ", ".join(hex_of(colour_of(value, scale, low, high)) for value in (low, middle, high))
    ends = [html.escape(number_text(value, low, high)) for value in (low, high)]
    zero = " (white: 0)" if scale == "signed" else ""
    none = f'<span class="none" style="background:{NO_VALUE}"></span> no value' if has_gaps else ""
    return (
        f'<div class="legend">{ends[0]} '
        f'<span class="bar" style="background:linear-gradient(to right, {stops})"></span> {ends[1]}{zero}{none}</div>'
    )
