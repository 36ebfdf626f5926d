"""What Optuna draws from our spaces, and that a search can be repeated."""

import math
import warnings

import optuna
import pytest
from plans import SPACE, begun, plan
from scipy import stats

from mtl_cli.search.claims import Claim, claim
from mtl_cli.search.samplers import draw, pruner_for, sampler_for
from mtl_cli.search.settings import SearchSettings
from mtl_cli.search.space import Choice, Float, Integer, Space
from mtl_cli.search.storage import open_study

DISCRETE = Space({"a": Choice(("x", "y")), "b": Integer(1, 5, step=2), "c": Float(0.1, 0.2, step=0.1)})
SAMPLERS = ["tpe", "random", "qmc", "gp", "nsga2"]


def searched(path, made, score):
    """Run a whole search whose trials score `score(point)`; return the points in order."""
    folder, storage = begun(path, made)
    while isinstance(taken := claim(folder, storage), Claim):
        open_study(storage).tell(taken.trial.number, score(taken.trial.params))
        taken.lock.release()
    return [trial.params for trial in open_study(storage).get_trials()]


def score(point):
    return -((math.log10(point["optimizer.lr"]) + 4) ** 2) + (point["sharing"] == "hard") - point["encoder.num_layers"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_stays_inside_the_space_and_repeats_itself(sampler, tmp_path):
    made = plan(sampler=sampler, trials=7, startup_trials=5, seed=7)
    points = searched(tmp_path / "first", made, score)
    assert len(points) == 7
    for point in points:
        assert 1e-5 <= point["optimizer.lr"] <= 1e-3
        assert point["encoder.num_layers"] in (2, 4, 6, 8)
        assert point["sharing"] in ("hard", "cross_stitch")
    assert (
        len({point["optimizer.lr"] for point in points}) >= 5
    )  # children of a generation repeat their parents' values
    assert searched(tmp_path / "second", made, score) == points


def test_another_seed_draws_other_points(tmp_path):
    first, second = (searched(tmp_path / str(seed), plan(trials=3, seed=seed), score) for seed in (1, 2))
    assert first != second


def test_a_logarithmic_range_is_drawn_evenly_in_the_logarithm():
    space = Space({"x": Float(1e-5, 1e-1, log=True)})
    made = plan(space, sampler="random")
    study = optuna.create_study()
    drawn = []
    for number in range(500):
        study.sampler = sampler_for(made.settings, space, number)
        drawn.append(math.log10(draw(study.ask(), space)["x"]))
    assert stats.kstest(drawn, stats.uniform(-5, 4).cdf).pvalue > 0.01


def test_a_grid_is_searched_point_by_point_and_then_over(tmp_path):
    points = searched(tmp_path / "s", plan(DISCRETE, sampler="grid", trials=100), lambda point: point["b"])
    assert len(points) == 12
    assert {(p["a"], p["b"], p["c"]) for p in points} == {
        (a, b, c) for a in ("x", "y") for b in (1, 3, 5) for c in (0.1, 0.2)
    }


def test_tpe_finds_better_points_than_its_random_start(tmp_path):
    made = plan(trials=24, startup_trials=8, seed=3)
    values = [score(point) for point in searched(tmp_path / "s", made, score)]
    assert sum(values[8:]) / 16 > sum(values[:8]) / 8 + 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none", optuna.pruners.NopPruner),
        ("median", optuna.pruners.MedianPruner),
        ("percentile", optuna.pruners.PercentilePruner),
        ("successive_halving", optuna.pruners.SuccessiveHalvingPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
    ],
)
def test_pruners_are_optunas(name, kind):
    assert type(pruner_for(SearchSettings(pruner=name))) is kind


@pytest.mark.parametrize("name", ["median", "percentile", "successive_halving", "hyperband"])
def test_a_pruner_stops_a_trial_that_scores_far_below_the_others(name, tmp_path):
    made = plan(pruner=name, trials=30, startup_trials=2, seed=5)
    folder, storage = begun(tmp_path / "s", made)
    pruned = []
    for number in range(12):
        taken = claim(folder, storage)
        for evaluation in range(1, 10):
            taken.trial.report(0.9 - 0.01 * number if number < 8 else 0.1, evaluation)
            if taken.trial.should_prune() and number >= 8:
                pruned.append(number)
                break
        open_study(storage).tell(number, 0.9 - 0.01 * number)
        taken.lock.release()
    assert pruned


def test_the_pruner_is_none_with_several_objectives_and_median_with_one():
    assert SearchSettings().chosen_pruner == "median"
    assert SearchSettings(objectives=["a/accuracy", "b/accuracy"]).chosen_pruner == "none"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_several_objectives(sampler, tmp_path):
    made = plan(sampler=sampler, trials=6, startup_trials=5, objectives=["a/accuracy", "a/loss"])
    folder, storage = begun(tmp_path / "s", made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while isinstance(taken := claim(folder, storage), Claim):
            open_study(storage).tell(
                taken.trial.number, [score(taken.trial.params), taken.trial.params["optimizer.lr"]]
            )
            taken.lock.release()
    study = open_study(storage)
    assert len(study.trials) == 6
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_values_that_a_trial_has_are_kept_when_it_is_taken_up_again():
    study = optuna.create_study()
    trial = study.ask()
    first = draw(trial, SPACE)
    again = optuna.Trial(study, trial._trial_id)
    study.sampler = optuna.samplers.RandomSampler(seed=99)
    assert draw(again, SPACE) == first
