"""Means, deviations and intervals, which runs count, and that the table and the page are of one mind about it."""

import math
import statistics
import sys

import pytest
from report.made_up_run import CONFIG, finished, write
from scipy import stats

from mtl_cli.report.averages import groups_to_average
from mtl_cli.report.columns import ComparisonSettings
from mtl_cli.report.comparison import compare_runs
from mtl_cli.report.page_data import as_json, page_data
from mtl_cli.report.run_records import read_runs
from mtl_cli.report.seed_averages import Average, mean_of
from mtl_cli.report.seed_means import seed_groups
from mtl_cli.report.table_formats import as_markdown, records


def test_mean_and_sample_deviation():
    # Mean 3; deviations -2, 0, 2; variance 8 / 2.
    assert mean_of([1.0, 3.0, 5.0]) == Average(3.0, 2.0, 3)
    values = [0.8125, 0.8217, 0.79, 0.1 + 0.2]
    assert mean_of(values).mean == pytest.approx(statistics.mean(values))
    assert mean_of(values).deviation == pytest.approx(statistics.stdev(values))


def test_an_interval_is_that_of_students_t():
    # Mean 0.8, s = 0.02, s / sqrt(3) = 0.011547; t(0.975, 2) = 4.302653 (any table of it): half = 0.049683.
    found = mean_of([0.78, 0.80, 0.82])
    assert found.mean == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx((0.8 - 0.049683, 0.8 + 0.049683), abs=1e-6)
    assert found.n == 3


def test_an_interval_is_that_of_scipy():
    values = [0.71, 0.735, 0.69, 0.74, 0.702]
    expected = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert (mean_of(values).low, mean_of(values).high) == pytest.approx(expected)


def test_one_value_has_no_spread_and_what_is_not_finite_does_not_count():
    found = mean_of([0.5, math.nan, math.inf, -math.inf])
    assert (found.mean, found.deviation, found.low, found.high, found.n) == (0.5, None, None, None, 1)
    assert mean_of([math.nan]) is None
    assert mean_of([]) is None


def test_equal_values_have_an_interval_of_no_width():
    assert (mean_of([0.5, 0.5]).low, mean_of([0.5, 0.5]).high) == (0.5, 0.5)


def test_the_largest_numbers_have_a_mean_too():
    # Deviations of half of 1e300 each way: sqrt(2 * 0.25) 1e300.
    assert mean_of([1e300, 2e300]).mean == pytest.approx(1.5e300)
    assert mean_of([1e300, 2e300]).deviation == pytest.approx(math.sqrt(0.5) * 1e300)
    largest = sys.float_info.max
    assert mean_of([largest, largest]) == Average(largest, 0.0, 2)
    assert mean_of([largest, -largest]) == Average(0.0, math.inf, 2)


NO_SEED = {key: value for key, value in CONFIG.items() if key != "seed"}
CASES = {
    # Seed and score of each run -> mean, how many are averaged, how many of them have a finite score.
    "no seed is a draw of its own": ([(..., 0.5), (..., 0.75)], 0.625, 2, 2),
    "one seed as two kinds of number": ([(1, 0.5), (1.0, 0.75)], 0.75, 1, 1),
    "an infinite score": ([(1, 0.5), (2, math.inf)], 0.5, 2, 1),
    "a score that is not a number": ([(1, 0.5), (2, math.nan)], 0.5, 2, 1),
}


@pytest.mark.parametrize(("made", "mean", "averaged", "with_value"), CASES.values(), ids=CASES)
def test_the_table_and_the_page_count_and_average_the_same_runs(tmp_path, made, mean, averaged, with_value):
    for number, (seed, score) in enumerate(made):
        results = finished(sharing={})
        results.tasks["sst2"]["validation"]["accuracy"] = score
        folder = write(tmp_path / f"run {number}", results, NO_SEED if seed is ... else CONFIG | {"seed": seed})
        folder.write_environment({"created": f"2026-01-0{number + 1}"})
        if score == math.inf:  # json.dump of ours would write null
            text = folder.results_file.read_text()
            folder.results_file.write_text(text.replace("null", "1e999"))
    runs = read_runs([tmp_path])
    key = "validation/sst2/accuracy"
    comparison = compare_runs(runs, ComparisonSettings(mean=True))
    (row,), (group,) = comparison.rows, seed_groups(runs)
    assert row.values["n"] == len(group.counted) == averaged
    assert row.values[key] == group.means[key]
    assert (row.values[key].mean, row.values[key].n) == (mean, with_value)
    note = f"{key}: 1 of {averaged} runs have no finite value"
    missing = with_value < averaged
    assert any(line.startswith(note) for line in comparison.notes) == any(note in n for n in group.notes) == missing
    assert (" (n=1) |" in as_markdown(comparison)) == missing
    assert records(comparison)[0][f"{key}/n"] == with_value
    assert as_json(page_data(runs, None))


def test_the_table_says_what_its_plus_minus_means(tmp_path):
    for seed in (1, 2):
        write(tmp_path / str(seed), config=CONFIG | {"seed": seed})
    runs = read_runs([tmp_path])
    note = "± is the standard deviation over seeds (n - 1); the page has 95 % intervals for the mean"
    assert note in compare_runs(runs, ComparisonSettings(mean=True)).notes
    assert note not in compare_runs(runs[:1], ComparisonSettings(mean=True)).notes
    assert groups_to_average(runs, None)[1] == []
