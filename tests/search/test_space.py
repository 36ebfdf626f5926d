"""The dimensions of a space and what its points are as overrides."""

import math
import random

import pytest
from plans import SPACE
from scipy import stats

from mtl_cli.errors import UserError
from mtl_cli.search.space import Choice, Float, Integer, Simplex, Space


def test_weights_of_a_simplex_are_normalised_exponentials_that_sum_to_their_number():
    # e = -log(1 - u): u = 1 - exp(-1), 1 - exp(-2), 1 - exp(-3) give e = 1, 2, 3, whose sum is 6; times 3 / 6.
    uniforms = [1 - math.exp(-1), 1 - math.exp(-2), 1 - math.exp(-3)]
    assert Simplex(("a", "b", "c")).weights(uniforms) == pytest.approx([0.5, 1.0, 1.5])


def test_weights_of_a_simplex_have_the_marginal_of_a_flat_dirichlet_distribution():
    # One coordinate of Dirichlet(1, 1, 1) is Beta(1, 2).
    draw = random.Random(3)
    simplex = Simplex(("a", "b", "c"))
    shares = [simplex.weights([draw.random() for _ in range(3)])[1] / 3 for _ in range(2000)]
    assert stats.kstest(shares, stats.beta(1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("uniforms", [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
def test_weights_of_a_simplex_are_finite_at_the_corners(uniforms):
    weights = Simplex(("a", "b")).weights(uniforms)
    assert sum(weights) == pytest.approx(2)
    assert all(math.isfinite(weight) and weight >= 0 for weight in weights)


def test_a_point_becomes_overrides_with_the_weights_in_place_of_what_was_drawn():
    point = {"optimizer.lr": 0.000123456789, "encoder.num_layers": 4, "sharing": "cross_stitch"}
    point |= {f"weighting.task_weights.{task}": 0.5 for task in ("reviews", "pairs", "names")}
    assert SPACE.overrides(point) == [
        "optimizer.lr=0.000123457",
        "encoder.num_layers=4",
        "sharing=cross_stitch",
        "weighting.task_weights.reviews=1.0",
        "weighting.task_weights.pairs=1.0",
        "weighting.task_weights.names=1.0",
    ]


def test_rounding_does_not_leave_the_bounds():
    space = Space({"x": Float(0.12345612, 0.98765478)})
    assert space.settings({"x": 0.12345612}) == {"x": 0.12345612}
    assert space.settings({"x": 0.98765478}) == {"x": 0.98765478}
    assert space.settings({"x": 0.55555555}) == {"x": 0.555556}


def test_a_space_survives_json():
    assert Space.from_dict(SPACE.to_dict()) == SPACE


def test_points_to_check_hold_each_choice_and_both_ends():
    space = Space({"x": Float(0.0, 1.0), "sharing": Choice(("a", "b", "c"))})
    assert space.points_to_check() == [
        {"x": 0.0, "sharing": "a"},
        {"x": 1.0, "sharing": "a"},
        {"x": 0.0, "sharing": "b"},
        {"x": 0.0, "sharing": "c"},
    ]


def test_a_grid_holds_every_value():
    space = Space({"n": Integer(1, 7, step=3), "x": Float(0.1, 0.3, step=0.1), "c": Choice(("a", "b"))})
    assert space.grid() == {"n": [1, 4, 7], "x": [0.1, 0.2, 0.3], "c": ["a", "b"]}


def test_a_grid_of_any_number_is_refused():
    with pytest.raises(UserError, match=r"grid: optimizer\.lr, weighting\.task_weights can take any value"):
        SPACE.grid()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(1.0, 1.0), "found the bounds 1.0 and 1.0"),
        (lambda: Float(0.0, math.inf), "both must be finite"),
        (lambda: Float(0.0, 1.0, log=True), r"found the lower bound 0.0 with tag\(log"),
        (lambda: Integer(3, 2), "found the bounds 3 and 2"),
        (lambda: Integer(1, 9, log=True, step=2), "in the logarithm the step must be 1"),
        (lambda: Choice(()), "found no value"),
        (lambda: Choice(("a", "b", "a")), "found a more than once"),
        (lambda: Simplex(("a",)), "two or more"),
    ],
)
def test_what_is_no_dimension_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
