"""The page of a run is read back with the standard library's parser."""

import json
from dataclasses import replace

import pytest
from report.made_up_run import CONFIG, STITCH, TASKS, Page, finished, records, write

from mtl_cli.errors import UserError
from mtl_cli.report import inspect_page
from mtl_cli.tracking import Results, RunFolder


def page_of(path, **how):
    return Page(inspect_page(write(path, **how)))


def test_a_finished_run_says_what_it_was_and_how_it_scored(tmp_path):
    page = page_of(tmp_path / "run")
    assert page.headings[0] == "run"
    assert page.rows("status") == [["finished"]]
    assert page.rows("encoder") == [["BundledMiniLM: pooling=mean"]]  # what is null is left out
    assert page.rows("sharing") == [["CrossStitch: num_shared_layers=2"]]
    assert page.rows("task sst2") == [["SingleTextClassification: main_metric=accuracy, source=(HubSource: path=glue)"]]
    assert page.rows("command line") == [["sharing=cross_stitch seed=7"]]
    assert page.rows("sst2")[0] == ["accuracy", "0.8125", "0.7500"]
    assert page.rows("score") == [["mean of main metrics", "0.8125", ""]]
    assert "90 steps, 12 s, 34,567 tokens" in page.rows("training")[0][0]


def test_a_matrix_shows_its_numbers_under_the_names_of_rows_and_columns(tmp_path):
    page = page_of(tmp_path / "run")
    assert STITCH["title"] in page.headings
    assert page.table("with the best weights") == [["", *TASKS], ["sst2", "0.90", "-0.10"], ["snli", "", "1.00"]]
    # The ends of the colours are the largest number and its negative.
    assert "-1.00  1.00 (white: 0)" in page.text


def test_each_cell_shows_its_first_and_last_number_over_training(tmp_path):
    page = page_of(tmp_path / "run")
    (small,) = (table["rows"] for table in page.tables if any("→" in cell for row in table["rows"] for cell in row))
    assert small == [["", *TASKS], ["sst2", "0.3 → 0.9", "0.25 → 0.25"], ["snli", "0.25 → 0.25", "0.3 → 0.9"]]
    assert ("svg", "aria-label", "0.3 at step 30, 0.9 at step 90") in page.attributes


def test_a_run_that_goes_on_shows_the_last_values_of_its_metrics_and_says_so(tmp_path):
    page = page_of(tmp_path / "run", results=Results(status="running"))
    assert page.rows("status") == [["running, or killed"]]
    assert page.rows("training") == [["90 steps so far"]]
    assert page.text.count("The run has not come to its end") == 2
    assert page.table("last values of metrics.jsonl, step 90") == [
        ["", *TASKS],
        ["sst2", "0.90", "0.25"],
        ["snli", "0.25", "0.90"],
    ]
    assert page.rows("sst2")[0] == ["accuracy", "0.5900", "-"]
    assert page.rows("score") == [["mean of main metrics", "0.9000", ""]]


def test_a_run_that_has_measured_nothing_yet_has_a_page(tmp_path):
    page = page_of(tmp_path / "run", results=Results(status="running"), lines=[])
    assert "There are no scores yet" in page.text
    assert page.text.count("Nothing has been logged yet") == 2


def test_a_failed_run_says_why(tmp_path):
    page = page_of(tmp_path / "run", results=Results(status="failed", error="step 3: the loss is <nan>"))
    assert page.rows("error") == [["step 3: the loss is <nan>"]]


def test_a_strategy_that_learns_nothing_says_so_and_the_rest_is_there(tmp_path):
    config = CONFIG | {"sharing": {"_target_": "mtl_cli.sharing.HardSharing"}}
    page = page_of(tmp_path / "run", results=finished(sharing={}), config=config, lines=records(learnt=False))
    assert "HardSharing learns nothing about the tasks" in page.text
    assert "The run has not come to its end" not in page.text
    assert page.rows("sst2")[0] == ["accuracy", "0.8125", "0.7500"]
    assert "Norms of the tasks' gradients" in page.headings


def test_cosines_are_means_over_each_third_of_training(tmp_path):
    page = page_of(tmp_path / "run")
    # Of 9 lines: (-.1 - .2 - .3) / 3, then -.5 and -.8.
    for steps, mean in (("steps 10 to 30", "-0.20"), ("steps 40 to 60", "-0.50"), ("steps 70 to 90", "-0.80")):
        assert page.table(steps) == [["", *TASKS], ["sst2", "1", mean], ["snli", mean, "1"]]


def test_few_lines_with_cosines_make_one_matrix(tmp_path):
    page = page_of(tmp_path / "run", lines=[{"step": 5, "train/cosine/snli/sst2": 0.5}])
    assert page.table("lines of step 5")[1] == ["sst2", "1", "0.50"]


def test_a_run_without_gradients_of_tasks_says_how_to_get_them(tmp_path):
    page = page_of(tmp_path / "run", lines=[{"step": 5, "train/loss/sst2": 0.5}])
    assert "weighting.track_conflict_every" in page.text


def test_weights_by_group_of_parameters_are_a_matrix(tmp_path):
    lines = [
        {"step": step, "train/weight/sst2": 1.0, "train/weight/sst2/block 0": step, "train/weight/snli/block 1": 2.0}
        for step in (1, 3)
    ]
    page = page_of(tmp_path / "run", lines=lines)
    assert page.table("last values") == [
        ["", "block 0", "block 1"],
        ["sst2", "3.00", ""],
        ["snli", "", "2.00"],
    ]


def test_curves_are_named_and_say_their_last_value(tmp_path):
    page = page_of(tmp_path / "run")
    for heading in ("Penalty: sparsity", "Weights of the tasks", "Training losses", "Score on validation"):
        assert heading in page.headings
    assert "snli: 0.0222" in page.text  # 2 / 90


def test_whatever_the_folder_holds_is_text(tmp_path):
    evil = '<script>alert("x")</script>&'
    config = CONFIG | {
        "tasks": {evil: {"_target_": evil, "key": evil}},
        "sharing": {"_target_": f"a.{evil}", evil: evil},
    }
    matrix = STITCH | {"title": evil, "rows": [evil, "b"], "columns": [evil, "c"]}
    results = replace(finished({evil: matrix}), tasks={evil: {"validation": {evil: 1.0}}}, error=evil)
    lines = [
        {"step": step, f"train/{kind}/{evil}": 1.0, f"sharing/{evil}/{evil}/c": 1.0}
        for step in (1, 2)
        for kind in ("loss", "weight", "grad_norm", "penalty", f"weight/{evil}")
    ]
    for name, found in (("finished", results), ("running", Results(status="running"))):
        text = inspect_page(write(tmp_path / f"{name}<b>", results=found, config=config, lines=lines))
        assert "<script" not in text
        assert "<b>" not in text
        assert not {"script", "b"} & Page(text).tags
        assert evil in Page(text).text


def test_the_page_fetches_and_runs_nothing(tmp_path):
    text = inspect_page(write(tmp_path / "run"))
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & page.tags
    assert not {name for _, name, _ in page.attributes if name in ("href", "src") or name.startswith("on")}
    assert not any(word in text for word in ("://", "url(", "@import"))
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_page_of_a_long_run_stays_small(tmp_path):
    page = inspect_page(write(tmp_path / "run", lines=records(range(10, 100_000, 10))))
    assert len(page) < 100_000


def test_a_matrix_of_very_many_cells_is_drawn_without_curves(tmp_path):
    names = [f"task{i}" for i in range(25)]
    matrix = STITCH | {"rows": names, "columns": names, "values": [[0.5] * 25] * 25}
    lines = [{"step": step, **{f"sharing/stitch/{a}/{b}": 0.5 for a in names for b in names}} for step in (1, 2)]
    page = page_of(tmp_path / "run", results=finished({"stitch": matrix}), lines=lines)
    assert len(page.table("with the best weights")) == 26
    assert "How its 625 numbers developed is in metrics.jsonl" in page.text


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (3, "sharing.stitch is not what mtl writes: found 3"),
        ({"title": "t"}, "it has no rows"),
        (STITCH | {"title": 1}, "its title is 1"),
        (STITCH | {"rows": [1, 2]}, r"its rows are \[1, 2\]"),
        (STITCH | {"values": [[1, 2]]}, r"are not 2 lists \(rows\) of 2 numbers \(columns\)"),
        (STITCH | {"values": [[1], [2]]}, r"are not 2 lists \(rows\) of 2 numbers \(columns\)"),
        (STITCH | {"values": [["1", 2], [3, 4]]}, "some of its values are no numbers"),
        (STITCH | {"scale": "loud"}, "its scale is 'loud'; known are signed, share, plain"),
    ],
)
def test_a_matrix_that_is_not_as_documented_is_refused(tmp_path, matrix, message):
    folder = write(tmp_path / "run", results=finished({"stitch": matrix}))
    with pytest.raises(UserError, match=message):
        inspect_page(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "a: [", r"config\.yaml cannot be read"),
        ("config.yaml", "- a", r"config\.yaml is not what mtl writes"),
        ("overrides.yaml", "a: [", r"overrides\.yaml cannot be read"),
        ("metrics.jsonl", '{"step": 1}\nno json\n', r"metrics\.jsonl cannot be read"),
        ("metrics.jsonl", '{"step": 1}\n{"loss": 1}\n', r"metrics\.jsonl, line 2: has no step"),
        ("results.json", "{", r"results\.json cannot be read"),
        ("results.json", '{"status": "finished"}', r"results\.json is not what mtl writes"),
        ("results.json", json.dumps(finished().to_dict() | {"score": "high"}), r"results\.json is not what mtl writes"),
        ("results.json", json.dumps(finished().to_dict() | {"sharing": [1]}), r"results\.json is not what mtl writes"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, file, content, message):
    write(tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(UserError, match=message):
        inspect_page(RunFolder(tmp_path / "run"))
