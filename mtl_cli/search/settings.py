"""The settings of `mtl search`: the node `search` of conf/search.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from mtl_cli.tracking.logger import lower_is_better
from mtl_cli.types import NonNegativeInt, PositiveFloat, PositiveInt

Sampler = Literal["tpe", "random", "grid", "qmc", "gp", "nsga2"]
Pruner = Literal["none", "median", "percentile", "successive_halving", "hyperband"]

CAN_CHANGE_ON_RESUMING = ("resume", "trials", "workers", "timeout_seconds")


@dataclass(kw_only=True)
class SearchSettings:
    """What a search is.

    Args:
        trials: how many there are in all, of all workers together, failed and pruned ones included.
        workers: processes that train at the same time.
        space: key -> Hydra's sweep syntax, or a list of values.
        sampler: what proposes the next values.
        pruner: what stops bad trials by their validation scores; None: median, and none with several objectives.
        objectives: validation metrics: `score` or TASK/METRIC; several are searched for their Pareto front.
        seed: of the sampler.
        startup_trials: that are drawn at random before the sampler learns and the pruner prunes.
        population_size: with sampler=nsga2, trials of a generation; None: a fifth of all, from 4 to 50.
        percentile: with pruner=percentile, the share of trials, in percent, that go on.
        timeout_seconds: no trial begins after so long; those that run go on to their end.
        resume: folder of a search to go on with, or to help with.
        page: write search.html.
    """

    trials: PositiveInt = 20
    workers: PositiveInt = 1
    space: dict[str, Any] = field(default_factory=dict)
    sampler: Sampler = "tpe"
    pruner: Pruner | None = None
    objectives: list[str] = field(default_factory=lambda: ["score"])
    seed: NonNegativeInt = 1
    startup_trials: NonNegativeInt = 5
    population_size: Annotated[int, Ge(2)] | None = None
    percentile: PositiveFloat = 25.0
    timeout_seconds: PositiveFloat | None = None
    resume: str | None = None
    page: bool = True

    @property
    def chosen_pruner(self) -> Pruner:
        """The pruner, where none was named the one that fits the objectives."""
        if self.pruner is not None:
            return self.pruner
        return "median" if len(self.objectives) == 1 else "none"

    def problems(self) -> list[str]:
        """Say what does not go together."""
        found = []
        if not self.objectives:
            found.append("search.objectives: found none, give at least one, such as score")
        if len(set(self.objectives)) < len(self.objectives):
            found.append(f"search.objectives: found {self.objectives}, each may be named once")
        if len(self.objectives) > 1 and self.chosen_pruner != "none":
            found.append(
                f"search.pruner: found {self.pruner!r} with {len(self.objectives)} objectives; whether a trial is bad "
                "can be said by one objective only: leave out search.pruner, or all objectives but one"
            )
        if self.percentile > 100:
            found.append(f"search.percentile: found {self.percentile}, allowed: more than 0, at most 100")
        return found

    @property
    def chosen_population_size(self) -> int:
        """Trials of a generation: Optuna's 50, or a fifth of all where these are few."""
        return self.population_size or max(4, min(50, self.trials // 5))


def metric_key(objective: str) -> str:
    """The name of an objective in metrics.jsonl and results.json."""
    name = objective.removeprefix("validation/")
    return f"validation/{name}"


def directions(objectives: list[str]) -> list[Literal["minimize", "maximize"]]:
    """Optuna's direction of each objective."""
    return ["minimize" if lower_is_better(objective) else "maximize" for objective in objectives]
