"""Charts of a study as SVG by hand: differences with their intervals, and curves over sizes. Colours come from CSS."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _LEFT, _RIGHT, _ROW = 640, 190, 150, 22
_CURVE_HEIGHT, _CURVE_LEFT, _CURVE_RIGHT, _TOP, _BOTTOM = 260, 56, 16, 10, 34
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4", "12 4", "4 2", "3 6")

STYLE = """
figure { margin: 12px 0 20px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg text.quiet { fill: var(--quiet); }
svg .axis { stroke: var(--line); fill: none; }
svg .zero { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg .interval { stroke-width: 2; fill: none; }
svg .curve { stroke-width: 2; fill: none; }
svg .none { stroke: var(--quiet); fill: var(--quiet); }
svg .better { stroke: var(--better); fill: var(--better); }
svg .worse { stroke: var(--worse); fill: var(--worse); }
svg .s0 { stroke: var(--s0); } svg .s1 { stroke: var(--s1); } svg .s2 { stroke: var(--s2); }
svg .s3 { stroke: var(--s3); } svg .s4 { stroke: var(--s4); } svg .s5 { stroke: var(--s5); }
svg .s6 { stroke: var(--s6); } svg .s7 { stroke: var(--s7); }
svg circle.point { fill: var(--paper); stroke-width: 2; }
ul.legend { list-style: none; margin: 4px 0 0; padding: 0; }
ul.legend li { display: inline-block; margin-right: 18px; }
"""
"""The style sheet that the charts need; the page says what the variables are."""


@dataclass(frozen=True)
class Difference:
    """One line of a chart of differences: a name, a value, its interval, what is beyond noise, and how it reads."""

    name: str
    value: float
    low: float | None
    high: float | None
    mark: str
    text: str


def difference_chart(title: str, differences: Sequence[Difference]) -> str:
    """Draw differences around zero, a line each, with their intervals."""
    if not differences:
        return ""
    ends = [end for d in differences for end in (d.low, d.high, d.value, 0.0) if end is not None]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.05 or 1.0
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    height = _ROW * len(differences) + 12
    drawn = [f'<path class="zero" d="M{x(0):.1f} 2 V{height - 4}"/>']
    for place, d in enumerate(differences):
        y = _ROW * place + 18
        drawn.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{html.escape(_short(d.name))}</text>')
        if d.low is not None and d.high is not None:
            drawn.append(
                f'<path class="interval {d.mark}" d="M{x(d.low):.1f} {y} H{x(d.high):.1f} M{x(d.low):.1f} {y - 4} v8 '
                f'M{x(d.high):.1f} {y - 4} v8"/>'
            )
        drawn.append(f'<circle class="{d.mark}" cx="{x(d.value):.1f}" cy="{y}" r="4"/>')
        drawn.append(f'<text class="quiet" x="{_WIDTH - _RIGHT + 10}" y="{y + 4}">{html.escape(d.text)}</text>')
    return _figure(title, height, drawn)


@dataclass(frozen=True)
class Point:
    """A point of a curve with its interval."""

    x: float
    y: float
    low: float | None
    high: float | None


def size_chart(title: str, curves: Mapping[str, Sequence[Point]], number: str = "{:.1f}") -> str:
    """Draw curves over sizes, which lie on a logarithmic axis, with intervals at their points."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    sizes = sorted({point.x for point in points})
    ends = [end for point in points for end in (point.low, point.high, point.y) if end is not None]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1.0
    first, last = math.log(sizes[0]), math.log(sizes[-1])

    def x(size: float, shift: float = 0.0) -> float:
        part = (math.log(size) - first) / (last - first) if last > first else 0.5
        return _CURVE_LEFT + 14 + part * (_WIDTH - _CURVE_LEFT - _CURVE_RIGHT - 28) + shift

    def y(value: float) -> float:
        return _CURVE_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_CURVE_HEIGHT - _BOTTOM - _TOP)

    bottom = _CURVE_HEIGHT - _BOTTOM
    drawn = [f'<path class="axis" d="M{_CURVE_LEFT} {_TOP} V{bottom} H{_WIDTH - _CURVE_RIGHT}"/>']
    drawn += [f'<text x="{x(size):.1f}" y="{bottom + 18}" text-anchor="middle">{size:,.0f}</text>' for size in sizes]
    drawn += [
        f'<text x="{_CURVE_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{number.format(value)}</text>'
        for value in (low, (low + high) / 2, high)
    ]
    legend = []
    for place, (name, curve) in enumerate(curves.items()):
        colour, dash = f"s{place % 8}", f'stroke-dasharray="{_DASHES[place % 8]}"'
        shift = 3.0 * (place - (len(curves) - 1) / 2)  # so that intervals do not hide one another
        line = " ".join(f"{x(p.x, shift):.1f},{y(p.y):.1f}" for p in curve)
        drawn.append(f'<polyline class="curve {colour}" {dash} points="{line}"/>')
        for p in curve:
            at = f"{x(p.x, shift):.1f}"
            if p.low is not None and p.high is not None:
                drawn.append(f'<path class="interval {colour}" d="M{at} {y(p.low):.1f} V{y(p.high):.1f}"/>')
            hint = html.escape(f"{name}, {p.x:,.0f}: {number.format(p.y)}")
            circle = f'<circle class="point {colour}" cx="{at}" cy="{y(p.y):.1f}" r="4">'
            drawn.append(f"{circle}<title>{hint}</title></circle>")
        key = f'<svg width="28" height="8" aria-hidden="true"><path class="curve {colour}" {dash} d="M0 4 H28"/></svg>'
        legend.append(f"<li>{key} {html.escape(name)}</li>")
    return _figure(title, _CURVE_HEIGHT, drawn, f'<ul class="legend">{"".join(legend)}</ul>')


def _figure(title: str, height: int, drawn: Sequence[str], below: str = "") -> str:
    return (
        f"<figure>\n<figcaption>{html.escape(title)}</figcaption>\n"
        f'<svg width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}">\n{"".join(drawn)}\n</svg>\n{below}</figure>'
    )


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
