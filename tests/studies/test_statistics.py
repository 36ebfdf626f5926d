"""Statistics of a study against scipy and values worked out by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from mtl_cli.studies.statistics import delta_m, holm, mean_interval, mean_ranks, paired_test, relative_gain

VALUES = [0.71, 0.68, 0.74, 0.69, 0.77]
BASELINES = [0.70, 0.66, 0.70, 0.70, 0.71]


def test_the_interval_of_a_mean_is_that_of_students_t():
    interval = mean_interval(VALUES)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=scipy.stats.sem(VALUES))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.mean == pytest.approx(0.718)
    assert interval.n == 5


def test_the_interval_of_three_values_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.302653: 2 +- 4.302653 / sqrt(3) = 2 +- 2.484138
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.half_width == pytest.approx(2.484138, abs=1e-6)


def test_one_value_has_no_interval_and_none_no_mean():
    interval = mean_interval([0.5])
    assert (interval.mean, interval.low, interval.high, interval.half_width) == (0.5, None, None, None)
    assert mean_interval([]) is None
    assert mean_interval([0.5, math.nan]) is None


def test_the_paired_test_is_scipys():
    test = paired_test(VALUES, BASELINES)
    expected = scipy.stats.ttest_rel(VALUES, BASELINES)
    interval = expected.confidence_interval(0.95)
    assert test.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert (test.difference.low, test.difference.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert test.difference.mean == pytest.approx(0.024)


def test_no_p_where_there_is_one_pair_or_where_all_differences_are_the_same():
    assert paired_test([0.7], [0.6]).p is None
    assert paired_test([0.7, 0.8], [0.7, 0.8]).p == 1.0
    # 0.8 - 0.7 and 0.9 - 0.8 differ in their last bits only, which is no spread to divide by
    assert paired_test([0.8, 0.9], [0.7, 0.8]).p is None
    assert paired_test([], []) is None


def test_pairs_need_as_many_values_on_both_sides():
    with pytest.raises(ValueError, match="as many values"):
        paired_test([1.0], [1.0, 2.0])


def test_holms_correction_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, and no value below the one before: .04 .06 .06 .06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_tests_without_a_p():
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


def test_holm_rejects_what_stepping_down_rejects():
    generator = np.random.default_rng(0)
    for _ in range(50):
        p_values = (generator.random(6) ** 3).tolist()
        rejected = set()
        for step, place in enumerate(np.argsort(p_values)):  # the procedure as Holm states it
            if p_values[place] > 0.05 / (6 - step):
                break
            rejected.add(int(place))
        assert {place for place, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


def test_delta_m_by_hand():
    # accuracy 0.66 against 0.60 is +10 %, an error of 0.9 against 1.0 is +10 %, F1 0.45 against 0.50 is -10 %
    values, baselines = {"a": 0.66, "b": 0.9, "c": 0.45}, {"a": 0.60, "b": 1.0, "c": 0.50}
    higher = {"a": True, "b": False, "c": True}
    assert delta_m(values, baselines, higher) == pytest.approx(10 / 3)
    assert delta_m(baselines, baselines, higher) == 0


@pytest.mark.parametrize(("baseline", "higher"), [(0.0, True), (0.009, True), (-0.2, True), (0.0, False)])
def test_delta_m_is_not_defined_where_a_baseline_is_near_to_zero(baseline, higher):
    assert relative_gain(0.5, baseline, higher) is None
    assert delta_m({"a": 0.5, "b": 0.5}, {"a": baseline, "b": 0.5}, {"a": higher, "b": True}) is None


def test_a_small_error_is_a_baseline():
    assert relative_gain(0.004, 0.005, higher_is_better=False) == pytest.approx(20)


def test_mean_ranks_share_ties_and_turn_errors_round():
    # accuracy: x 1, y and z share 2.5; error: y 1, z 2, x 3
    scores = {"x": {"a": 0.9, "e": 3.0}, "y": {"a": 0.8, "e": 1.0}, "z": {"a": 0.8, "e": 2.0}}
    assert mean_ranks(scores, {"a": True, "e": False}) == {"x": 2.0, "y": 1.75, "z": 2.25}
    assert mean_ranks({"x": {}, "y": {"a": 1.0}}, {"a": True}) == {}
