"""The figures of a search: Optuna's, of a study that shows the settings as they were, and parallel coordinates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState

from mtl_cli.search.parallel_coordinates import parallel_coordinates
from mtl_cli.search.pareto_fronts import pareto_front
from mtl_cli.search.samplers import distributions
from mtl_cli.search.search_folder import Plan
from mtl_cli.search.settings import directions
from mtl_cli.search.trials import Trial

_MOST_AXES = 12
_MOST_PAIRS = 6
_HEIGHT = 420


@dataclass(frozen=True)
class Figure:
    """A figure, or why there is none."""

    title: str
    figure: go.Figure | None
    note: str = ""


def figures(trials: Sequence[Trial], plan: Plan) -> list[Figure]:
    """Draw all figures that the trials are enough for."""
    objectives = plan.settings.objectives
    study = study_to_show(trials, plan)
    finished = [trial for trial in trials if trial.values is not None]
    if not finished:
        return []
    several = len(objectives) > 1
    drawn = []
    pairs = list(combinations(range(len(objectives)), 2))[:_MOST_PAIRS]
    for x, y in pairs:
        drawn.append(
            _drawn(
                "Pareto front" if len(pairs) == 1 else f"Pareto front: {objectives[x]} and {objectives[y]}",
                lambda x=x, y=y: pareto_front(finished, objectives, x, y),  # type: ignore[misc]
                "Each point is a trial; those on the front are not beaten by any other in all objectives at once.",
            )
        )
    for place, objective in enumerate(objectives):
        of = f": {objective}" if several else ""

        def target(trial: optuna.trial.FrozenTrial, place: int = place) -> float:
            return float(trial.values[place])

        # With one objective Optuna knows the direction by itself, and draws the best value so far.
        asked = {"target": target} if several else {}
        drawn += [
            _drawn(
                f"History{of}",
                lambda asked=asked, name=objective: optuna.visualization.plot_optimization_history(  # type: ignore[misc]
                    study, target_name=name, **asked
                ),
                "The value of each finished trial" + ("." if several else ", and the best so far."),
            ),
            _drawn(
                f"Parallel coordinates{of}",
                lambda place=place, name=objective: parallel_coordinates(  # type: ignore[misc]
                    finished, plan.space.scales(), place, name, directions(objectives)[place] == "minimize", _MOST_AXES
                ),
                "A line is a finished trial; its colour is the objective.",
            ),
            _importances(study, target, f"Importance of the settings{of}", objective, finished),
            _drawn(
                f"Slices{of}",
                lambda asked=asked, name=objective: optuna.visualization.plot_slice(study, target_name=name, **asked),  # type: ignore[misc]
                "Each setting against the objective.",
            ),
        ]
    if not several:
        drawn.append(
            _drawn(
                "Evaluations during training",
                lambda: optuna.visualization.plot_intermediate_values(study).update_layout(
                    xaxis_title="evaluation", yaxis_title=objectives[0]
                ),
                "By the number of the evaluation. Pruned trials end early.",
            )
        )
    return drawn


def study_to_show(trials: Sequence[Trial], plan: Plan) -> optuna.Study:
    """Return a study in memory whose parameters are the settings: weights, not what a simplex draws them from."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions(plan.settings.objectives))
    scales = distributions(plan.space.scales())
    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    for trial in trials:
        if trial.state not in states or not trial.settings:  # keeps its number
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
            continue
        last = list(trial.evaluations.values())[-1:]
        study.add_trial(
            optuna.trial.create_trial(
                state=states[trial.state],
                values=list(trial.values) if trial.values is not None else None,
                value=last[0] if trial.state == "pruned" and last and math.isfinite(last[0]) else None,
                params=dict(trial.settings),
                distributions={key: scales[key] for key in trial.settings},
                intermediate_values=dict(trial.evaluations),
            )
        )
    return study


def _drawn(title: str, draw: Callable[[], go.Figure], note: str) -> Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental functions, axes without values
        try:
            figure = draw()
        except (ValueError, RuntimeError) as error:
            return Figure(title, None, f"Cannot be drawn from these trials: {error}")
    figure.update_layout(
        title=None, height=_HEIGHT, margin={"l": 60, "r": 30, "t": 30, "b": 60}, template="plotly_white"
    )
    return Figure(title, figure, note)


def _importances(
    study: optuna.Study,
    target: Callable[[optuna.trial.FrozenTrial], float],
    title: str,
    objective: str,
    finished: Sequence[Trial],
) -> Figure:
    """Draw the shares of a functional ANOVA.

    Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    values = [target(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < 4 or len(set(values)) < 2:
        return Figure(title, None, "Needs four finished trials that do not all score the same.")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return _drawn(
        title,
        lambda: optuna.visualization.plot_param_importances(
            study, evaluator=evaluator, target=target, target_name=objective
        ),
        "The share of the variance of the objective that each setting explains by itself (functional ANOVA of "
        f"{len(finished)} trials). With few trials this says little.",
    )
