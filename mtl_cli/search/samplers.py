"""What proposes the values of the next trial, and what stops bad ones: Optuna's samplers and pruners."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

from mtl_cli.search.settings import SearchSettings
from mtl_cli.search.space import Choice, Float, Integer, Space, Value


def sampler_for(settings: SearchSettings, space: Space, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that draws trial `number`.

    Each trial has a generator of its own, seeded by `settings.seed` and its number: what is drawn depends on these and
    on the trials before it, and not on which worker draws or on how often the search was stopped. With one worker a
    search can be repeated exactly. Orders that belong to the whole search (of a grid, of a quasi-random sequence) are
    seeded once.

    CMA-ES is not offered: Optuna keeps its state pickled in the storage, and reading that runs code.
    """
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    makers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            # Trials that run count as bad ones, so that workers do not try the same.
            seed=seed,
            n_startup_trials=settings.startup_trials,
            constant_liar=True,
        ),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "grid": lambda: optuna.samplers.GridSampler(space.grid(), seed=settings.seed),
        "qmc": lambda: optuna.samplers.QMCSampler(
            scramble=True,
            seed=settings.seed,
            independent_sampler=optuna.samplers.RandomSampler(seed=seed),
            warn_independent_sampling=False,
        ),
        "gp": lambda: optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=max(1, settings.startup_trials), warn_independent_sampling=False
        ),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=settings.chosen_population_size),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return makers[settings.sampler]()


def pruner_for(settings: SearchSettings) -> optuna.pruners.BasePruner:
    """Return the pruner. What it takes for a step is the number of the evaluation: 1, 2, ..."""
    match settings.chosen_pruner:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=settings.startup_trials)
        case "percentile":
            return optuna.pruners.PercentilePruner(settings.percentile, n_startup_trials=settings.startup_trials)
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1)
        case _:
            return optuna.pruners.NopPruner()


def draw(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """Return the trial's values; those that it has already stay as they are."""
    drawn: dict[str, Value] = {}
    for name, dimension in space.parameters().items():
        match dimension:
            case Float():
                drawn[name] = trial.suggest_float(
                    name, dimension.low, dimension.high, log=dimension.log, step=dimension.step
                )
            case Integer():
                drawn[name] = trial.suggest_int(
                    name, dimension.low, dimension.high, log=dimension.log, step=dimension.step
                )
            case Choice():
                drawn[name] = trial.suggest_categorical(name, dimension.values)
    return drawn


def distributions(space: dict[str, Float | Integer | Choice]) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return Optuna's distribution of each parameter."""
    made = {}
    for name, dimension in space.items():
        match dimension:
            case Float(low, high, log, step):
                made[name] = optuna.distributions.FloatDistribution(low, high, log=log, step=step)
            case Integer(low, high, log, step):
                made[name] = optuna.distributions.IntDistribution(low, high, log=log, step=step)
            case Choice(values):
                made[name] = optuna.distributions.CategoricalDistribution(values)
    return made
