"""How numbers of a study are written: metrics times 100, errors as they are, p without a leading zero."""

from __future__ import annotations

from mtl_cli.studies.plan import TaskInfo
from mtl_cli.studies.statistics import Interval

NONE = "-"


def metric(value: float | None, task: TaskInfo, sign: bool = False) -> str:
    """Write a metric, or a difference of two of them with its sign."""
    if value is None:
        return NONE
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if task.higher_is_better else f"{value:{plus}.4f}"


def mean_and_half(interval: Interval | None, task: TaskInfo) -> str:
    """Write a mean and half the width of its interval: 67.1 ± 2.3."""
    if interval is None:
        return NONE
    half = interval.half_width
    return metric(interval.mean, task) + ("" if half is None else f" ± {metric(half, task)}")


def difference(interval: Interval | None, task: TaskInfo) -> str:
    """Write a difference with its interval: +2.1 [-0.4, +4.6]."""
    if interval is None:
        return NONE
    return metric(interval.mean, task, sign=True) + ends(interval.low, interval.high, task)


def ends(low: float | None, high: float | None, task: TaskInfo) -> str:
    """Write the ends of an interval of differences, after a space."""
    return "" if low is None or high is None else f" [{metric(low, task, True)}, {metric(high, task, True)}]"


def percent(interval: Interval | None) -> str:
    """Write delta_m: +1.2 [-0.5, +2.9]."""
    if interval is None:
        return NONE
    ends = "" if interval.low is None or interval.high is None else f" [{interval.low:+.1f}, {interval.high:+.1f}]"
    return f"{interval.mean:+.1f}{ends}"


def p_value(p: float | None) -> str:
    """Write p: .034, <.001, 1."""
    if p is None:
        return NONE
    if p < 0.001:
        return "<.001"
    text = f"{p:.3f}"
    return "1" if text == "1.000" else text.removeprefix("0")


def p_in_words(p: float | None) -> str:
    """Write p for a sentence: p = .034, p < .001."""
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def count(value: float) -> str:
    """Write a number of things: 1,234 or, where large, 23.4 M."""
    return f"{value / 1e6:,.1f} M" if value >= 1e7 else f"{value:,.0f}"


def unit(task: TaskInfo) -> str:
    """Name the unit of a difference, for a sentence."""
    return " points" if task.higher_is_better else ""
