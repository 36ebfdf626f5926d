"""Parallel coordinates of plain lines. (Plotly's own draws by WebGL and compiles code, which the page forbids.)"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.colors
import plotly.graph_objects as go

from mtl_cli.search.results import short_names
from mtl_cli.search.space import Choice, Float, Integer, Value
from mtl_cli.search.trials import Trial

_COLOURS = "Viridis"


def parallel_coordinates(
    finished: Sequence[Trial],
    scales: Mapping[str, Float | Integer | Choice],
    place: int,
    objective: str,
    lower_is_better: bool,
    most_axes: int,
) -> go.Figure:
    """Draw a line for each trial over an axis for each setting and one for the objective.

    Args:
        finished: trials that have values.
        scales: of each setting, where it can lie.
        place: of the objective among the trials' values.
        objective: its name.
        lower_is_better: whether the best trial has the lowest value.
        most_axes: of settings; further ones are left out.
    """
    keys = list(dict.fromkeys(key for trial in finished for key in trial.settings))[:most_axes]
    values = [trial.values[place] for trial in finished if trial.values is not None]
    low, high = min(values), max(values)
    figure = go.Figure()
    order = sorted(zip(values, finished, strict=True), key=lambda pair: pair[0], reverse=lower_is_better)
    for value, trial in order:  # the best one is drawn last, over the others
        share = (value - low) / (high - low) if high > low else 1.0
        colour = plotly.colors.sample_colorscale(_COLOURS, [1 - share if lower_is_better else share])[0]
        heights = [position(scales[key], trial.settings[key]) for key in keys]
        said = "<br>".join(f"{key} = {trial.settings[key]}" for key in keys)
        figure.add_trace(
            go.Scatter(
                x=list(range(len(keys) + 1)),
                y=[*heights, share],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 5},
                name=trial.name,
                showlegend=False,
                hovertemplate=f"{trial.name}: {objective} = {value:.4f}<br>{said}<extra></extra>",
            )
        )
    for x, key in enumerate(keys):
        for height, text in ticks(scales[key]):
            figure.add_annotation(
                x=x, y=height, text=text, showarrow=False, xanchor="left", xshift=4, font={"size": 10}
            )
    for height, bound in ((0.0, low), (1.0, high)):
        figure.add_annotation(
            x=len(keys), y=height, text=f"{bound:.4f}", showarrow=False, xanchor="left", xshift=4, font={"size": 10}
        )
    figure.update_xaxes(
        tickvals=list(range(len(keys) + 1)),
        ticktext=[*short_names(keys), objective],
        range=[-0.2, len(keys) + 0.6],
        showgrid=True,
        gridcolor="#999",
        zeroline=False,
    )
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    return figure


def position(scale: Float | Integer | Choice, value: Value) -> float:
    """Return where a value lies on its axis, from 0 to 1."""
    if isinstance(scale, Choice):
        return scale.values.index(str(value)) / max(1, len(scale.values) - 1)
    assert not isinstance(value, str)
    low, high, number = float(scale.low), float(scale.high), float(value)
    if scale.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low)


def ticks(scale: Float | Integer | Choice) -> list[tuple[float, str]]:
    """Return what is written on an axis: every choice, or both ends and the middle of a range."""
    if isinstance(scale, Choice):
        return [(position(scale, value), value) for value in scale.values]
    low, high = float(scale.low), float(scale.high)
    middle = math.sqrt(low * high) if scale.log else (low + high) / 2
    return [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]
