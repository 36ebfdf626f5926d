"""The trials of a search as plain records, and which of them are best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mtl_cli.search.search_folder import Plan, trial_name
from mtl_cli.search.settings import directions
from mtl_cli.search.space import Value

if TYPE_CHECKING:
    import optuna

TrialState = Literal["unfinished", "finished", "pruned", "failed"]
"""Unfinished: it runs, or its run was stopped and goes on when the search is resumed."""

ERROR, PRUNED_AT = "error", "pruned_at_step"
"""What a worker notes of a trial: the first line of what stopped it; the step at which it was pruned."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial.

    Attributes:
        number: counted from 0, as Optuna does.
        values: of the objectives, in their order; of a finished trial only.
        settings: what was drawn, key -> value; empty where the worker died before it had drawn all.
        overrides: all overrides of the run.
        evaluations: value of the objective at each evaluation, counted from 1; with one objective only.
        seconds: from the first start to the end, time in which the search was stopped included; None: it has not ended.
    """

    number: int
    state: TrialState
    values: tuple[float, ...] | None = None
    settings: Mapping[str, Value]
    overrides: tuple[str, ...]
    evaluations: Mapping[int, float]
    seconds: float | None = None
    error: str | None = None
    pruned_at_step: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return trial_name(self.number)


_STATES: dict[str, TrialState] = {
    "RUNNING": "unfinished",
    "WAITING": "unfinished",
    "COMPLETE": "finished",
    "PRUNED": "pruned",
    "FAIL": "failed",
}


def trials_of(study: optuna.Study, plan: Plan) -> list[Trial]:
    """Return all trials, in the order of their numbers."""
    needed = plan.space.parameters().keys()
    found = []
    for trial in study.get_trials(deepcopy=False):
        whole = needed <= trial.params.keys()
        state = _STATES[trial.state.name]
        found.append(
            Trial(
                number=trial.number,
                state=state,
                values=tuple(trial.values) if state == "finished" else None,
                settings=plan.space.settings(trial.params) if whole else {},
                overrides=plan.overrides(trial.params) if whole else (),
                evaluations=dict(sorted(trial.intermediate_values.items())),
                seconds=trial.duration.total_seconds() if trial.duration is not None else None,
                error=trial.user_attrs.get(ERROR),
                pruned_at_step=trial.user_attrs.get(PRUNED_AT),
            )
        )
    return found


def best_trials(trials: Sequence[Trial], objectives: list[str]) -> list[Trial]:
    """Return the best finished trial or, with several objectives, the Pareto front, by its first objective.

    The Pareto front are the trials that no other one beats: is as good in every objective and better in one. Of equal
    trials the first counts with one objective, and all with several.
    """
    signs = [-1.0 if direction == "minimize" else 1.0 for direction in directions(objectives)]
    scored = [
        (tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)), trial)
        for trial in trials
        if trial.values is not None and not any(map(math.isnan, trial.values))
    ]
    if len(objectives) == 1:
        return [max(scored, key=lambda pair: (pair[0], -pair[1].number))[1]] if scored else []
    front = [(own, trial) for own, trial in scored if not any(_beats(other, own) for other, _ in scored)]
    return [trial for _, trial in sorted(front, key=lambda pair: (-pair[0][0], pair[1].number))]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def scores(trial: Trial, objectives: list[str]) -> str:
    """Name the objectives of a finished trial with their values."""
    assert trial.values is not None
    return ", ".join(f"{name} {value:.4f}" for name, value in zip(objectives, trial.values, strict=True))
