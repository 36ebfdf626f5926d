"""Pareto fronts, two objectives a figure. (Optuna's figure of three is drawn by WebGL, which the page forbids.)"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from mtl_cli.search.settings import directions
from mtl_cli.search.trials import Trial, best_trials, scores


def pareto_front(finished: Sequence[Trial], objectives: list[str], x: int, y: int) -> go.Figure:
    """Draw finished trials by two of their objectives.

    Args:
        finished: trials that have values.
        objectives: all of them: a trial of the front may be beaten in these two, for the sake of a third.
        x: which objective is drawn from left to right.
        y: which one from bottom to top.
    """
    front = best_trials(finished, objectives)
    on_front = {trial.number for trial in front}
    groups = {"others": [t for t in finished if t.number not in on_front], "Pareto front": front}
    colours = {"others": "#9a9a9a", "Pareto front": "#d62728"}
    figure = go.Figure()
    for name, trials in groups.items():
        values = [trial.values for trial in trials if trial.values is not None]
        figure.add_trace(
            go.Scatter(
                x=[value[x] for value in values],
                y=[value[y] for value in values],
                mode="markers+text",
                text=[str(trial.number) for trial in trials],
                textposition="top center",
                marker={"size": 9, "color": colours[name]},
                name=name,
                hovertext=[_hover(trial, objectives) for trial in trials],
                hoverinfo="text",
            )
        )
    better = ["lower" if direction == "minimize" else "higher" for direction in directions(objectives)]
    figure.update_xaxes(title=f"{objectives[x]} ({better[x]} is better)")
    figure.update_yaxes(title=f"{objectives[y]} ({better[y]} is better)")
    return figure


def _hover(trial: Trial, objectives: list[str]) -> str:
    settings = "<br>".join(f"{key} = {value}" for key, value in trial.settings.items())
    return f"{trial.name}: {scores(trial, objectives)}<br>{settings}"
