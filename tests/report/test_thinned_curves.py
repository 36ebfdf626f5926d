"""Long histories become few points that still say what was measured."""

import math

import pytest

from mtl_cli.report.thinned_curves import points_for, rounded, thinned_curves

LOSS = "train/loss/sst2"


def lines(num, value=lambda step: step / 1000):
    return [
        {"step": step, LOSS: value(step), "train/tokens": 100 * step, "train/epoch": step / 10}
        for step in range(1, num + 1)
    ]


def test_a_short_history_stays_as_it_is():
    curves = thinned_curves(lines(5), ["train/loss/"], most=5)
    assert curves.axes == {
        "step": [1, 2, 3, 4, 5],
        "tokens": [100, 200, 300, 400, 500],
        "epoch": [0.1, 0.2, 0.3, 0.4, 0.5],
    }
    assert curves.values == {LOSS: [0.001, 0.002, 0.003, 0.004, 0.005]}
    assert (curves.num_lines, curves.num_points) == (5, 5)


@pytest.mark.parametrize("num", [401, 402, 1000, 12_345])
def test_a_long_one_keeps_its_first_and_last_line_and_no_more_than_so_many(num):
    curves = thinned_curves(lines(num), ["train/loss/"], most=400)
    assert curves.num_points == 400
    assert (curves.num_lines, len(curves.values[LOSS])) == (num, 400)
    assert (curves.axes["step"][0], curves.axes["step"][-1]) == (1, num)
    assert curves.values[LOSS][0] == 0.001
    assert curves.values[LOSS][-1] == pytest.approx(num / 1000, rel=1e-4)
    assert curves.axes["step"] == sorted(curves.axes["step"])


def test_neighbours_become_their_mean():
    # Ten lines, six points: the first, four pairs, the last.
    values = [9, 1, 3, 5, 7, 2, 4, 6, 8, 0]
    curves = thinned_curves([{"step": step, LOSS: value} for step, value in enumerate(values)], ["train/"], most=6)
    assert curves.values[LOSS] == [9, 2, 6, 3, 7, 0]
    assert curves.axes["step"] == [0, 1.5, 3.5, 5.5, 7.5, 9]


def test_what_is_not_finite_or_not_there_has_no_value():
    history = [{"step": 1, LOSS: None}, {"step": 2, LOSS: math.nan}, {"step": 3, LOSS: 10**400}, {"step": 4, LOSS: "x"}]
    history += [{"step": 5, LOSS: True}, {"step": 6, LOSS: 0.5}]
    assert thinned_curves(history, ["train/"], most=10).values[LOSS] == [None] * 5 + [0.5]


def test_means_are_over_the_finite_values_alone():
    history = [{"step": step, LOSS: value} for step, value in enumerate([1.0, 2.0, None, 4.0])]
    assert thinned_curves(history, ["train/"], most=3).values[LOSS] == [1, 2, 4]


def test_tokens_and_epochs_of_an_evaluation_are_interpolated():
    history = [
        {"step": 10, LOSS: 1.0, "train/tokens": 1000, "train/epoch": 0.5},
        {"step": 15, "validation/score": 0.5},
        {"step": 20, LOSS: 1.0, "train/tokens": 3000, "train/epoch": 1.0},
        {"step": 25, "validation/score": 0.6},
    ]
    axes = thinned_curves(history, ["validation/"], most=10).axes
    assert axes["step"] == [15, 25]
    assert axes["tokens"] == [2000, None]  # nothing is known beyond the last line that says it
    assert axes["epoch"] == [0.75, None]


def test_only_what_was_asked_for_is_taken():
    history = [{"step": 1, LOSS: 1.0, "train/lr": 0.1, "validation/score": 0.2}]
    assert list(thinned_curves(history, ["train/loss/", "validation/"], most=10).values) == [LOSS, "validation/score"]


def test_a_run_without_a_line_has_no_points():
    curves = thinned_curves([], ["train/"], most=10)
    assert (curves.num_points, curves.values) == (0, {})


def test_more_runs_have_fewer_points_each():
    assert [points_for(num) for num in (0, 1, 50, 100, 10_000)] == [400, 400, 400, 200, 60]


def test_numbers_keep_the_digits_that_a_plot_can_show():
    assert [rounded(value) for value in (0.123456789, 1234567.0, 1e-9, math.nan)] == [0.12346, 1234567, 1e-9, None]
