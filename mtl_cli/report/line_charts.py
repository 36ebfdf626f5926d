"""Curves over steps as SVG by hand, to stand inside a page of HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from mtl_cli.report.measured import Curve

# Of Okabe and Ito (2008), which people with colour blindness tell apart; dashes tell the lines apart without colour.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#b58900", "#56b4e9", "#7f7f7f")
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3", "10 4", "4 1", "3 5")
_MOST_POINTS = 300
_MOST_POINTS_SMALL = 60
_LOG_FROM = 100.0  # from this ratio of the largest to the least value on, the axis is logarithmic

_WIDTH, _HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 8, 26
_SMALL_WIDTH, _SMALL_HEIGHT = 64, 22

STYLE = """
figure { margin: 0 0 18px; }
figcaption { font-weight: bold; margin-bottom: 4px; }
svg { overflow: visible; }
svg text { font: 11px sans-serif; fill: #333; }
svg .axis { stroke: #999; fill: none; }
svg polyline { fill: none; stroke-width: 1.6; }
ul.lines { list-style: none; margin: 4px 0 0; padding: 0 0 0 62px; }
ul.lines li { display: inline-block; margin-right: 16px; }
table.small td { border: 1px solid #ddd; padding: 2px 4px; }
table.small th { font-weight: normal; text-align: right; padding: 2px 6px; }
"""
"""The style sheet that the charts need."""


def line_chart(title: str, curves: Mapping[str, Curve]) -> str:
    """Draw the curves in one chart, with the last value of each below; curves without points are left out."""
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return ""
    points = [point for curve in curves.values() for point in curve]
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low >= _LOG_FROM
    lines, names = [], []
    for place, (name, curve) in enumerate(curves.items()):
        style = f'stroke="{_COLOURS[place % len(_COLOURS)]}" stroke-dasharray="{_DASHES[place % len(_DASHES)]}"'
        drawn = _points(
            _thinned(curve, _MOST_POINTS),
            (min(steps), max(steps)),
            (low, high),
            (_LEFT, _WIDTH - _RIGHT),
            (_HEIGHT - _BOTTOM, _TOP),
            logarithmic,
        )
        lines.append(f'<polyline {style} points="{drawn}"><title>{html.escape(name)}</title></polyline>{_dot(drawn)}')
        key = f'<svg width="26" height="8" aria-hidden="true"><polyline {style} points="0,4 26,4"/></svg>'
        names.append(f"<li>{key} {html.escape(name)}: {_number(curve[-1][1])}</li>")
    note = " (logarithmic)" if logarithmic else ""
    return (
        f"<figure>\n<figcaption>{html.escape(title)}{note}</figcaption>\n"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">\n'
        f"{_axes((min(steps), max(steps)), (low, high))}\n{''.join(lines)}\n</svg>\n"
        f'<ul class="lines">{"".join(names)}</ul>\n</figure>'
    )


def small_charts(rows: Sequence[str], columns: Sequence[str], curves: Mapping[tuple[str, str], Curve]) -> str:
    """Draw a table with a small curve in each cell, all by the same axes, each with its first and its last number."""
    points = [point for curve in curves.values() for point in curve]
    steps, values = [step for step, _ in points], [value for _, value in points]
    limits_x, limits_y = (min(steps), max(steps)), (min(values), max(values))
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = []
    for row in rows:
        cells = "".join(_small_cell(curves.get((row, column), []), limits_x, limits_y) for column in columns)
        lines.append(f"<tr><th>{html.escape(row)}</th>{cells}</tr>\n")
    return f'<table class="small"><thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n{"".join(lines)}</tbody></table>'


def _small_cell(curve: Curve, limits_x: tuple[int, int], limits_y: tuple[float, float]) -> str:
    if not curve:
        return "<td></td>"
    (first_step, first), (last_step, last) = curve[0], curve[-1]
    drawn = _points(_thinned(curve, _MOST_POINTS_SMALL), limits_x, limits_y, (2, _SMALL_WIDTH - 2), (20, 2), False)
    start, end = _number(first), _number(last)
    told = f"{start} at step {first_step:,}, {end} at step {last_step:,}"
    return (
        f'<td><svg width="{_SMALL_WIDTH}" height="{_SMALL_HEIGHT}" role="img" aria-label="{told}">'
        f'<title>{told}</title><polyline stroke="{_COLOURS[0]}" points="{drawn}"/>{_dot(drawn)}</svg>'
        f"<br>{start} → {end}</td>"
    )


def _points(
    curve: Curve,
    limits_x: tuple[float, float],
    limits_y: tuple[float, float],
    range_x: tuple[float, float],
    range_y: tuple[float, float],
    logarithmic: bool,
) -> str:
    """The places of a curve's points in a drawing, as a polyline has them."""
    if logarithmic:
        curve = [(step, math.log(value)) for step, value in curve]
        limits_y = (math.log(limits_y[0]), math.log(limits_y[1]))
    return " ".join(f"{_place(x, limits_x, range_x):.1f},{_place(y, limits_y, range_y):.1f}" for x, y in curve)


def _place(value: float, limits: tuple[float, float], span: tuple[float, float]) -> float:
    """Where a number lies between the two ends of an axis; in the middle where there is one number only."""
    low, high = limits
    # Halves, since the distance of two large numbers may be beyond the largest one.
    part = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
    return span[0] + part * (span[1] - span[0])


def _thinned(curve: Curve, most: int) -> Curve:
    """At most so many points of a curve, the first and the last among them."""
    if len(curve) <= most:
        return curve
    return [curve[place * (len(curve) - 1) // (most - 1)] for place in range(most)]


def _dot(drawn: str) -> str:
    """The last point, so that a curve of a single one can be seen."""
    x, y = drawn.split(" ")[-1].split(",")
    return f'<circle cx="{x}" cy="{y}" r="1.8" fill="#333"/>'


def _axes(limits_x: tuple[int, int], limits_y: tuple[float, float]) -> str:
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    low, high = limits_y
    texts = [(right, bottom + 16, "end", f"step {limits_x[1]:,}")]
    if limits_x[0] < limits_x[1]:
        texts.append((left, bottom + 16, "start", f"{limits_x[0]:,}"))
    if low < high:
        texts += [(left - 6, bottom, "end", _number(low)), (left - 6, top + 8, "end", _number(high))]
    else:
        texts.append((left - 6, (top + bottom) // 2 + 4, "end", _number(low)))
    written = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' for x, y, anchor, text in texts)
    return f'<path class="axis" d="M{left} {top} V{bottom} H{right}"/>{written}'


def _number(value: float) -> str:
    return f"{value:.3g}"
