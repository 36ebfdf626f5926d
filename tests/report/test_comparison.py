"""Rows, columns, order and marks of a comparison, and its forms."""

import csv
import io
import json
import re

import pytest
from report.made_up_run import CONFIG, finished, write
from rich.console import Console

from mtl_cli.errors import UserError
from mtl_cli.report.columns import ComparisonSettings
from mtl_cli.report.comparison import compare_runs
from mtl_cli.report.group_labels import group_labels
from mtl_cli.report.run_records import read_runs
from mtl_cli.report.table_formats import as_csv, as_json, as_latex, as_markdown, cell_text
from mtl_cli.report.terminal_table import terminal_table
from mtl_cli.tracking import Results


def result(accuracy, loss=0.4, **more):
    """A finished run with these figures on validation; its test accuracy is 0.1 lower."""
    results = finished(sharing={})
    results.score = accuracy
    validation = {"accuracy": accuracy, "loss": loss, **more}
    results.tasks = {"sst2": {"validation": validation, "test": {"accuracy": accuracy - 0.1}}}
    return results


def hard(**changes):
    return CONFIG | {"sharing": {"_target_": "mtl_cli.sharing.HardSharing"}} | changes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two strategies with two seeds, a failed run that had a better accuracy, and a broken one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, accuracy, loss in (("stitch1", 1, 0.8, 0.3), ("stitch2", 2, 0.9, 0.5)):
        write(folder / name, result(accuracy, loss, mse=loss), config=CONFIG | {"seed": seed})
    for name, seed, accuracy, loss in (("hard1", 1, 0.7, 0.2), ("hard2", 2, 0.6, 0.6)):
        write(folder / name, result(accuracy, loss, mse=loss), config=hard(seed=seed)).write_overrides([])
    lines = [{"step": 5, "validation/score": 0.95, "validation/sst2/accuracy": 0.95}]
    failed = Results(status="failed", error="step 6: the loss | is nan & void")
    write(folder / "failed", failed, lines=lines, config=CONFIG | {"seed": 3})
    write(folder / "torn").results_file.write_text("{")
    return read_runs([folder])


def compared(runs, **settings):
    return compare_runs(runs, ComparisonSettings(**settings))


def labels(comparison):
    return [column.label for column in comparison.columns]


def names(comparison):
    return [[run.name for run in row.runs] for row in comparison.rows]


def test_columns_are_what_differs_and_the_main_metrics(runs):
    assert labels(compared(runs)) == ["name", "status", "sharing", "seed", "score", "sst2/accuracy"]
    assert labels(compared(runs, where="status=finished")) == ["name", "sharing", "seed", "score", "sst2/accuracy"]
    assert labels(compared(runs, where=["sharing=hard"])) == ["name", "seed", "score", "sst2/accuracy"]
    assert labels(compared(runs, metrics="all"))[4:] == ["score", "sst2/accuracy", "sst2/loss", "sst2/mse"]


def test_test_scores_are_shown_on_request_only(runs):
    keys = [column.key for column in compared(runs, metrics="all").columns]
    assert not [key for key in keys if key.startswith("test/")]
    both = compared(runs, splits=["validation", "test"])
    assert [column.key for column in both.columns][-3:] == [
        "validation/score",
        "validation/sst2/accuracy",
        "test/sst2/accuracy",
    ]
    assert labels(both)[-3:] == ["score", "validation/sst2/accuracy", "test/sst2/accuracy"]


def test_columns_can_be_added_taken_away_and_chosen(runs):
    changed = compared(runs, columns=["+cost", "-seed", "+sst2/mse", "-status"])
    assert labels(changed) == [
        *("name", "sharing", "score", "sst2/accuracy"),
        *("parameters", "tokens", "seconds", "tokens_per_second", "sst2/mse"),
    ]
    assert labels(compared(runs, columns=["seed", "pooling"])) == ["name", "seed", "pooling"]
    assert labels(compared(runs, columns="mse")) == ["name", "sst2/mse"]


def test_the_best_comes_first_and_what_is_unfinished_or_has_no_value_last(runs):
    assert names(compared(runs)) == [["stitch2"], ["stitch1"], ["hard1"], ["hard2"], ["failed"], ["torn"]]
    assert names(compared(runs, sort="-score"))[:2] == [["hard2"], ["hard1"]]
    # Of an error the lowest is best.
    assert names(compared(runs, sort="sst2/mse"))[:4] == [["hard1"], ["stitch1"], ["stitch2"], ["hard2"]]
    assert names(compared(runs, sort="seed"))[:2] == [["hard1"], ["stitch1"]]
    assert names(compared(runs, sort="-name"))[:3] == [["torn"], ["stitch2"], ["stitch1"]]
    assert names(compared(runs, sort="sharing"))[-2:] == [["hard1"], ["hard2"]]
    assert names(compared(runs, sort="status"))[0] == ["torn"]


def test_the_best_of_finished_runs_is_marked_and_lower_is_better_for_errors(runs):
    comparison = compared(runs, metrics="all")
    marked = {
        column.label: [row.runs[0].name for row in comparison.rows if comparison.is_best(row, column)]
        for column in comparison.columns
    }
    assert marked == {
        **{label: [] for label in ("name", "status", "sharing", "seed")},
        "score": ["stitch2"],
        "sst2/accuracy": ["stitch2"],  # the failed run had 0.95
        "sst2/loss": ["hard1"],
        "sst2/mse": ["hard1"],
    }
    assert compared(runs, where="name=stitch2").best == {}  # nothing to choose from


def test_ties_are_all_marked(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / name, config=CONFIG | {"seed": seed})
    comparison = compared(read_runs([tmp_path]))
    score = next(column for column in comparison.columns if column.label == "score")
    assert [comparison.is_best(row, score) for row in comparison.rows] == [True, True]


def test_a_limit_leaves_out_the_last_rows_and_counts_them(runs):
    comparison = compared(runs, limit=2)
    assert names(comparison) == [["stitch2"], ["stitch1"]]
    assert comparison.num_left_out == 4
    assert len(comparison.runs) == 6
    assert comparison.best == compared(runs).best


def test_averages_over_seeds(runs):
    comparison = compared(runs, mean=True)
    assert labels(comparison) == ["sharing", "n", "score", "sst2/accuracy"]
    assert names(comparison) == [["stitch1", "stitch2"], ["hard1", "hard2"]]
    # 0.8 and 0.9: mean 0.85, deviation sqrt(2 * 0.05^2) = 0.0707
    assert as_markdown(comparison).splitlines()[2] == (
        "| cross\\_stitch |   2 | **0.8500 ± 0.0707** | **0.8500 ± 0.0707** |"
    )
    assert "2 of 6 runs are not finished and do not count" in comparison.notes
    assert labels(compared(runs, group_by=["sharing", "pooling"]))[:3] == ["sharing", "pooling", "n"]


def test_averages_leave_no_run_out_of_the_page(runs):
    comparison = compared(runs, mean=True)
    assert [run.name for run in comparison.runs] == ["stitch2", "stitch1", "hard1", "hard2", "failed", "torn"]
    assert [run.name for run in compared(runs, mean=True, where="sharing=hard").runs] == ["hard1", "hard2"]


def test_a_setting_beyond_the_largest_float_is_sorted_and_shown(tmp_path):
    for name, size in (("small", -(10**400)), ("large", 10**400), ("middle", 3)):
        write(tmp_path / name, config=CONFIG | {"size": size})
    comparison = compared(read_runs([tmp_path]), sort="size")
    assert names(comparison) == [["small"], ["middle"], ["large"]]
    assert "1000000" in as_markdown(comparison)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["nothing"]}, "columns: no run has 'nothing'"),
        ({"sort": "scroe"}, "sort: no run has 'scroe'; did you mean score"),
        ({"group_by": "sharin"}, "group_by: no run has 'sharin'; did you mean sharing"),
        ({"group_by": "pooling"}, r"the 4 runs with encoder.pooling=mean differ in sharing \("),
        ({"where": "score>0.99"}, r"score>0.99: met by 0 of 6; the runs have 0.6 to 0.95"),
        (
            {"where": ["sharing=mmoe", "seed=1"]},
            r"(?s)sharing=mmoe: met by 0 of 6; .*cross_stitch, hard.*seed=1: met by 2",
        ),
        ({"where": "status=failed", "mean": True}, "mean: none of the 1 runs is finished"),
    ],
)
def test_what_cannot_be_shown_is_said(runs, settings, message):
    with pytest.raises(UserError, match=message):
        compared(runs, **settings)


def test_csv_has_full_names_and_all_digits(runs):
    rows = list(csv.DictReader(io.StringIO(as_csv(compared(runs, columns=["+tasks", "+encoder.dropout"])))))
    assert list(rows[0]) == [
        *("name", "status", "sharing", "seed", "validation/score", "validation/sst2/accuracy"),
        *("tasks", "encoder.dropout", "problem", "path"),
    ]
    assert rows[0]["validation/score"] == "0.9"
    assert json.loads(rows[0]["tasks"]) == ["sst2", "snli"]
    assert rows[4]["problem"] == "step 6: the loss | is nan & void"
    assert (rows[5]["status"], rows[5]["validation/score"]) == ("broken", "")
    averaged = list(csv.DictReader(io.StringIO(as_csv(compared(runs, mean=True)))))
    assert averaged[0]["n"] == "2"
    assert float(averaged[0]["validation/score/std"]) == pytest.approx(0.005**0.5)
    assert json.loads(averaged[0]["runs"]) == ["stitch1", "stitch2"]


def test_json_is_a_list_of_flat_records(runs):
    records = json.loads(as_json(compared(runs)))
    assert [record["name"] for record in records] == ["stitch2", "stitch1", "hard1", "hard2", "failed", "torn"]
    assert records[0]["sharing"] == "cross_stitch"
    assert records[0]["validation/score"] == 0.9
    assert records[5]["validation/score"] is None
    assert records[4]["path"] == str(runs[0].path)


def test_markdown_escapes_what_would_break_the_table(runs):
    table = as_markdown(compared(runs))
    assert "failed: step 6: the loss \\| is nan & void" in table
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in table.splitlines())
    assert "**0.9000**" in table
    assert table.splitlines()[1].split("|")[5].strip().endswith("-:")


def test_latex_escapes_and_marks_the_best(runs):
    table = as_latex(compared(runs, columns=["-status", "+problem", "+name"]))
    assert "\\toprule" in table
    assert table.count("\\\\\n") == 7
    assert "step 6: the loss $|$ is nan \\& void" in table
    assert "\\textbf{0.9000}" in table
    assert "cross\\_stitch" in table
    assert "$\\pm$" in as_latex(compared(runs, mean=True))


def shown(comparison, width=None, colours=False):
    table, left_out = terminal_table(comparison, width, colours)
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width or 500,
        force_terminal=colours,
        color_system="standard" if colours else None,
        no_color=not colours,
        _environ={},
    )
    console.print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()], left_out


def test_the_table_marks_the_best_by_a_star_where_there_are_no_colours(runs):
    lines, left_out = shown(compared(runs))
    assert left_out == []
    assert lines[0].split() == ["sst2"]
    assert lines[1].split() == ["name", "status", "sharing", "seed", "score", "accuracy"]
    assert lines[3].split() == ["stitch2", "finished", "cross_stitch", "2", "0.9000*", "0.9000*"]
    assert lines[4].split()[-2:] == ["0.8000", "0.8000"]
    # Numbers stand under one another.
    assert len({line.rstrip("*").rfind(".") for line in lines[3:7]}) == 1
    assert lines[7].split()[:2] == ["failed", "failed:"]
    assert lines[8].split()[:2] == ["torn", "broken:"]


def test_colours_take_the_place_of_the_star_and_unfinished_runs_are_dim(runs):
    lines, _ = shown(compared(runs), colours=True)
    assert "\x1b[1;32m0.9000\x1b[0m" in lines[3]
    assert "*" not in "".join(lines)
    assert "\x1b[2m" in lines[7]
    assert "\x1b[2m" not in lines[4]


@pytest.mark.parametrize("width", [30, 40, 50, 60, 75, 90, 200])
def test_the_table_never_is_wider_than_the_terminal_and_says_what_it_lacks(runs, width):
    comparison = compared(runs, metrics="all", columns=["+cost", "+path"])
    lines, left_out = shown(comparison, width)
    assert max(map(len, lines)) <= width
    header = " ".join(lines[:2])
    assert "name" in header
    assert "score" in header
    assert len(left_out) + len(terminal_table(comparison, width, False)[0].columns) == len(comparison.columns)
    if width <= 90:
        assert {"parameters", "tokens"} <= set(left_out)
    if width >= 60:
        assert not {"sharing", "seed"} & set(left_out)


def test_long_texts_are_shortened_before_columns_go(tmp_path):
    name = "sharing=cross_stitch,weighting=pcgrad,optimizer.lr=0.0001,seed=1"
    for seed in (1, 2):
        write(tmp_path / f"{name[:-1]}{seed}", config=CONFIG | {"seed": seed})
    lines, left_out = shown(compared(read_runs([tmp_path])), width=60)
    assert left_out == []
    assert lines[-1].startswith("sharing=")
    assert "…" in lines[-1]
    assert "seed=2" in lines[-1]


def test_names_from_somebodys_folder_do_nothing_to_the_terminal(tmp_path):
    config = CONFIG | {"a": "x\x1b[2Jy\nz", "seed": "[red]1[/red]"}
    write(tmp_path / "one", config=config)
    write(tmp_path / "two")
    lines, _ = shown(compared(read_runs([tmp_path])))
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "x\N{REPLACEMENT CHARACTER}[2Jy z" in text
    assert "[red]1[/red]" in text


def test_settings_are_shown_as_people_write_them(tmp_path):
    changes = {"a": 1e-4, "b": True, "c": None, "d": [1, "x"], "e": "", "f": {"g": {}}, "h": 1000000.0}
    write(tmp_path / "one", config=CONFIG | changes)
    write(tmp_path / "two")
    comparison = compared(read_runs([tmp_path]), columns=["a", "b", "c", "d", "e", "h"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in as_markdown(comparison).splitlines()]
    assert sorted(rows[2:]) == [
        ["one", "0.0001", "true", "null", "\\[1,x]", "''", "1e+06"],
        ["two", "-", "-", "-", "-", "-", "-"],
    ]


def test_the_table_and_the_page_write_settings_in_the_same_way(tmp_path):
    values = {"a": [1, "x"], "b": 1 / 3, "c": {"_target_": "mtl_cli.data.HubSource"}, "d": True}
    write(tmp_path / "one", config=CONFIG | values)
    write(tmp_path / "two", config=CONFIG | {"a": [2], "b": 0.5, "c": {"_target_": "mtl_cli.data.Other"}, "d": None})
    runs = read_runs([tmp_path])
    columns = ["a", "b", "c._target_", "d"]
    comparison = compared(runs, columns=columns)
    cells = [[cell_text(row, column) for column in comparison.columns[1:]] for row in comparison.rows]
    assert sorted(cells) == [["[1,x]", "0.333333", "HubSource", "true"], ["[2]", "0.5", "Other", "null"]]
    labels = group_labels([{key: run.settings[key] for key in columns} for run in runs])
    assert labels == ["a=[1,x], b=0.333333, c=HubSource, d=true", "a=[2], b=0.5, c=Other, d=null"]


def test_jobs_that_have_not_begun_are_counted(tmp_path):
    from mtl_cli.report.jobs_not_begun import jobs_not_begun

    write(tmp_path / "s" / "seed=1")
    (tmp_path / "s" / "seed=2").mkdir()  # made, but nothing written yet
    record = {"format_version": 1, "kind": "sweep", "jobs": [{"name": f"seed={seed}"} for seed in (1, 2, 3)]}
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(record))
    assert jobs_not_begun(read_runs([tmp_path])) == ["sweep s: 2 of 3 jobs have not begun (seed=2, seed=3)"]
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(record | {"kind": "study", "name": "sharing"}))
    assert jobs_not_begun(read_runs([tmp_path])) == ["study sharing (s): 2 of 3 jobs have not begun (seed=2, seed=3)"]
    odd = [{"name": name} for name in ("/", "..", "../s", "a\0b", "\ud800", "seed=1")]
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(record | {"kind": ["x"], "name": 1, "jobs": odd}))
    assert jobs_not_begun(read_runs([tmp_path])) == ["sweep s: 2 of 3 jobs have not begun (a\0b, \ud800)"]
    for content in ("{", "[]", '{"jobs": [1]}', '{"jobs": 1}'):
        (tmp_path / "s" / "sweep.json").write_text(content)
        assert jobs_not_begun(read_runs([tmp_path])) == []
