import pytest
from report.made_up_run import Page

from mtl_cli.report.heat_maps import legend, matrix_section
from mtl_cli.report.line_charts import line_chart, small_charts
from mtl_cli.report.measured import Matrix, cosines_over_training, learnt_matrices


def matrix(values, scale="plain", curves=None):
    rows, columns = [f"r{i}" for i in range(len(values))], [f"c{i}" for i in range(len(values[0]))]
    return Matrix("title", rows, columns, values, scale, "when", curves or {})


@pytest.mark.parametrize(
    ("values", "scale", "ends"),
    [
        ([[0.2, -0.5]], "signed", "-0.50  0.50 (white: 0)"),
        ([[0.2, 0.4]], "share", "0.00  1.00"),
        ([[3.0, 12.0]], "plain", "3.00  12.00"),
        ([[0.2, None]], "share", "0.00  1.00 no value"),
        ([[None]], "signed", "-1.00  1.00 (white: 0) no value"),
    ],
)
def test_the_legend_says_what_the_ends_of_the_colours_are(values, scale, ends):
    assert Page(matrix_section(matrix(values, scale))).text.strip().endswith(ends)


def test_the_legend_runs_through_the_colours_of_the_cells():
    assert "linear-gradient(to right, #b2182b, #ffffff, #2166ac)" in legend("signed", -2.0, 2.0, has_gaps=False)
    assert "linear-gradient(to right, #ffffff, #90b2d6, #2166ac)" in legend("share", 0.0, 1.0, has_gaps=False)


def test_numbers_of_one_evaluation_alone_have_no_development():
    assert "over training" not in matrix_section(matrix([[0.5]], curves={("r0", "c0"): [(1, 0.5)]}))
    assert "over training" in matrix_section(matrix([[0.5]], curves={("r0", "c0"): [(1, 0.5), (2, 0.6)]}))


def polylines(page):
    found = [value for tag, name, value in Page(page).attributes if (tag, name) == ("polyline", "points")]
    return [[tuple(map(float, point.split(","))) for point in points.split()] for points in found]


def test_a_curve_runs_from_the_left_end_to_the_right_one_and_higher_values_lie_higher():
    curve, key = polylines(line_chart("title", {"a": [(0, 1.0), (5, 3.0), (10, 2.0)]}))
    # The chart's inner part: 62 to 508 across, 164 (below) to 8 (above); 2 is half of the way from 1 to 3.
    assert curve == [(62.0, 164.0), (285.0, 8.0), (508.0, 86.0)]
    assert key == [(0, 4), (26, 4)]


def test_an_axis_is_logarithmic_where_values_differ_by_a_hundred():
    (curve, _), (plain, _) = (
        polylines(line_chart("t", {"a": [(0, 0.1), (1, 1.0), (2, largest)]})) for largest in (10.0, 9.9)
    )
    assert curve[1][1] == 86.0  # 1 is half of the way from 0.1 to 10 by its logarithm
    assert plain[1][1] > 140
    assert "t (logarithmic)" in line_chart("t", {"a": [(0, 0.1), (1, 10.0)]})


def test_a_constant_and_a_single_value_can_be_drawn():
    assert polylines(line_chart("t", {"a": [(0, 1.0), (10, 1.0)]}))[0] == [(62.0, 86.0), (508.0, 86.0)]
    assert polylines(line_chart("t", {"a": [(3, 1.0)]}))[0] == [(285.0, 86.0)]
    assert "<circle" in line_chart("t", {"a": [(3, 1.0)]})
    assert line_chart("t", {}) == line_chart("t", {"a": []}) == ""


def test_huge_values_do_not_overflow():
    assert polylines(line_chart("t", {"a": [(0, -1.7e308), (1, 1.7e308)]}))[0] == [(62.0, 164.0), (508.0, 8.0)]


def test_lines_differ_in_dashes_and_not_in_colour_alone():
    found = Page(line_chart("t", {f"task{i}": [(0, 1.0), (1, i)] for i in range(8)})).attributes
    for attribute in ("stroke", "stroke-dasharray"):
        of_lines = [value for tag, name, value in found if (tag, name) == ("polyline", attribute)]
        assert len(set(of_lines)) == 8


def test_long_curves_are_thinned_and_keep_their_ends():
    curve, _ = polylines(line_chart("t", {"a": [(step, float(step)) for step in range(5000)]}))
    assert len(curve) == 300
    assert (curve[0], curve[-1]) == ((62.0, 164.0), (508.0, 8.0))


def test_small_curves_share_their_axes():
    charts = small_charts(["r"], ["a", "b", "c"], {("r", "a"): [(0, 0.0), (2, 1.0)], ("r", "b"): [(1, 0.5)]})
    # 2 to 62 across, 20 (below) to 2 (above).
    assert polylines(charts) == [[(2.0, 20.0), (62.0, 2.0)], [(32.0, 11.0)]]
    assert Page(charts).tables[0]["rows"] == [["", "a", "b", "c"], ["r", "0 → 1", "0.5 → 0.5", ""]]


@pytest.mark.parametrize(("values", "scale"), [((0.0, 1.0), "share"), ((0.5, -0.1), "signed"), ((0.5, 1.5), "plain")])
def test_without_results_the_scale_is_what_the_numbers_look_like(values, scale):
    record = {"step": 1, **{f"sharing/gates/task/expert{i}": value for i, value in enumerate(values)}}
    (found,) = learnt_matrices({}, [record], "results.json")
    assert (found.title, found.rows, found.columns) == ("gates", ["task"], ["expert0", "expert1"])
    assert (found.values, found.scale) == ([list(values)], scale)


def test_values_that_were_not_finite_are_gaps():
    records = [{"step": 1, "sharing/gates/a/x": 0.5, "sharing/gates/b/x": None}, {"step": 2, "sharing/gates/a/x": None}]
    (found,) = learnt_matrices({}, records, "results.json")
    assert found.rows == ["a", "b"]
    assert found.values == [[0.5], [None]]
    assert found.when.endswith("step 1")


def test_columns_may_hold_a_slash():
    (found,) = learnt_matrices({}, [{"step": 1, "sharing/gates/a/block 1/ffn": 0.5}], "results.json")
    assert (found.rows, found.columns) == (["a"], ["block 1/ffn"])


def test_cosines_that_are_missing_are_left_out_of_the_means():
    records = [{"step": i, "train/cosine/a/b": value} for i, value in enumerate([0.5, None, -1.0])]
    (found,) = cosines_over_training(["a", "b", "c"], records)
    assert (found.first_step, found.last_step, found.means) == (0, 2, {("a", "b"): -0.25})
    assert cosines_over_training(["a", "b"], []) == []
