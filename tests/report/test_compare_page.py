"""What the page of a comparison is made of. What a browser makes of it: test_compare_browser.py."""

import base64
import hashlib
import json
import math
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report.made_up_sweep import config, records, results, write_job, write_run, write_sweep, write_unfinished

from mtl_cli.report import compare_page as module
from mtl_cli.report.compare_page import compare_page
from mtl_cli.report.page_data import as_json, page_data
from mtl_cli.report.run_records import read_runs
from mtl_cli.tracking import Results

EVIL = '</script><script>alert("x")</script><!--&'


class Parts(HTMLParser):
    """The scripts of a page, its policy, and everything that a tag could fetch."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.fetched, self.policy, self._inside = [], [], "", None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self._inside = tag
        if tag == "script":
            self.scripts.append((given.get("type", ""), ""))
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)


def data_of(page):
    (text,) = (text for kind, text in Parts(page).scripts if kind == "application/json")
    return json.loads(text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    write_sweep(folder / "sweep")
    write_unfinished(folder)
    return read_runs([folder])


@pytest.fixture(scope="module")
def page(runs):
    return compare_page(runs)


def run_of(data, name):
    (found,) = (run for run in data["runs"] if run["name"] == name)
    return found


def test_the_page_holds_every_run_with_its_state_scores_and_cost(page, runs):
    data = data_of(page)
    assert [run["name"] for run in data["runs"]] == [run.name for run in runs]
    run = run_of(data, "sharing=hard,weighting=pcgrad,seed=3")
    assert run["status"] == "finished"
    assert run["metrics"]["validation/sentiment/accuracy"] == pytest.approx(0.86)
    assert run["metrics"]["test/sentiment/accuracy"] == pytest.approx(0.76)
    assert run["cost"]["tokens"] == 410_000
    assert run["cost"]["seconds"] == 42.5
    assert run["parameters"] == {"total": 696_000, "shared": 694_000, "task_specific": 2_000}
    assert run["overrides"] == ["sharing=hard", "weighting=pcgrad", "seed=3"]
    assert run["environment"]["torch"] == "2.13.0"
    assert data["tasks"] == ["sentiment", "entities", "inference"]


def test_runs_that_are_not_finished_say_what_is_wrong(page):
    data = data_of(page)
    assert run_of(data, "failed")["problem"] == "step 61: the loss of <b>inference</b> is not finite"
    assert run_of(data, "broken")["status"] == "broken"
    assert "results.json" in run_of(data, "broken")["problem"]
    assert run_of(data, "running")["metrics"]["validation/score"] > 0  # its last evaluation
    assert run_of(data, "running")["cost"] == {}  # zeros of a run that has not counted yet


def test_settings_are_split_into_common_and_differing_ones(page):
    data = data_of(page)
    assert [setting["key"] for setting in data["settings"]] == ["sharing", "weighting", "optimizer.lr", "seed"]
    assert data["same_settings"]["encoder.hidden_size"] == 128
    run = run_of(data, "sharing=mmoe,weighting=equal,seed=1")
    assert (run["settings"]["sharing.num_experts"], run["settings"]["seed"]) == (4, 1)
    assert not data["same_settings"].keys() & run["settings"].keys()


def test_curves_are_of_losses_weights_conflicts_and_validation(page):
    curves = run_of(data_of(page), "sharing=hard,weighting=equal,seed=1")["curves"]
    train, validation = curves["train"], curves["validation"]
    assert train["axes"]["step"][:2] == [2, 4]
    assert train["axes"]["tokens"][-1] == 2050 * 200
    for name in (
        "train/loss/sentiment",
        "train/weight/entities",
        "train/conflict_rate",
        "train/cosine/sentiment/entities",
    ):
        assert len(train["values"][name]) == train["num_points"] == 100
    assert validation["axes"]["step"] == [40, 80, 120, 160, 200]
    # Of the middle seed 0.8, less 0.02, times 1 - exp(-3).
    assert validation["values"]["validation/sentiment/accuracy"][-1] == pytest.approx(
        0.78 * (1 - math.exp(-3)), rel=1e-4
    )


def test_long_curves_are_thinned_and_the_page_says_so(tmp_path):
    write_job(tmp_path, num_steps=3000, every=1)
    data = page_data(read_runs([tmp_path]), None)
    train = data["runs"][0]["curves"]["train"]
    assert (train["num_lines"], train["num_points"]) == (3000, 400)
    assert (train["axes"]["step"][0], train["axes"]["step"][-1]) == (1, 3000)
    assert data["thinning"] == {"most": 400, "longest": 3000}


def test_groups_have_means_and_intervals(page):
    groups = {group["label"]: group for group in data_of(page)["groups"]}
    mean, low, high, n = groups["hard, pcgrad, lr=0.001"]["means"]["validation/sentiment/accuracy"]
    # 0.82, 0.84, 0.86: s = 0.02, half = 4.302653 * 0.02 / sqrt(3).
    assert (mean, low, high, n) == (
        pytest.approx(0.84),
        pytest.approx(0.84 - 0.049683),
        pytest.approx(0.84 + 0.049683),
        3,
    )
    assert groups["hard, equal, lr=0.1"]["counted"] == []  # the failed run


def test_groups_that_were_called_alike_but_differ_are_refused_by_key(tmp_path):
    for folder, lr in (("first", 0.001), ("second", 0.01)):
        write_sweep(tmp_path / folder, lr=lr)
    data = page_data(read_runs([tmp_path]), None)
    assert len(data["groups"]) == 8
    assert all(len(group["counted"]) == 3 for group in data["groups"])
    assert [refusal["differences"] for refusal in data["refusals"]] == [{"optimizer.lr": [0.001, 0.01]}] * 4


def test_averages_over_different_versions_say_so(tmp_path):
    write_job(tmp_path, seed=1)
    write_job(tmp_path, seed=2, mtl_version="0.2.0", git={"commit": "abc", "dirty": True})
    (group,) = page_data(read_runs([tmp_path]), None)["groups"]
    assert group["notes"] == [
        "averaged, though mtl differs: 0.1.0, 0.2.0",
        "averaged, though commit differs: unknown, abc, with changes",
    ]


def test_metrics_say_their_split_their_task_and_which_way_is_better(page):
    metrics = {metric["name"]: metric for metric in data_of(page)["metrics"]}
    assert next(iter(metrics)) == "validation/score"
    main = metrics["validation/entities/span_f1"]
    assert (main["split"], main["task"], main["metric"], main["lower"], main["main"]) == (
        "validation", "entities", "span_f1", False, True,
    )  # fmt: skip
    assert metrics["validation/entities/loss"]["lower"]
    assert not metrics["validation/entities/loss"]["main"]


def test_the_baseline_is_the_first_run_or_the_given_one(runs):
    assert page_data(runs, None)["baseline"] == 0
    assert page_data(runs, runs[4])["baseline"] == 4
    assert page_data(runs, replace(runs[4]))["baseline"] == 4  # read a second time


def test_a_baseline_that_is_not_on_the_page_and_a_page_without_runs_are_refused(runs):
    with pytest.raises(ValueError, match="'failed' is none of the 1 runs"):
        compare_page(
            [run for run in runs if run.name == "running"], baseline=next(r for r in runs if r.name == "failed")
        )
    with pytest.raises(ValueError, match="at least one run"):
        compare_page([])


def test_whatever_the_folders_hold_is_data(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    made = config(tasks={"<b>": EVIL}) | {EVIL: EVIL, "notes": [EVIL, {"key": EVIL}]}
    lines = [{"step": 1, f"train/loss/{EVIL}": 1.0, EVIL: 2.0, "train/loss/<b>": 0.5}]
    write_run(folder, made, results({"<b>": 0.5}, "failed", error=EVIL), lines, [EVIL], git={"commit": EVIL})
    page = compare_page(read_runs([folder]))
    parts = Parts(page)
    assert [kind for kind, _ in parts.scripts] == ["application/json", "", ""]
    data = data_of(page)
    assert data["runs"][0]["name"] == folder.name
    assert data["runs"][0]["problem"] == EVIL
    assert data["same_settings"][EVIL] == EVIL
    assert "alert(1)>" not in page
    assert EVIL not in page


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&amp;", "\u2028", "\udc80", "é"])
def test_data_is_ascii_without_angles_and_comes_back_the_same(text):
    written = as_json({text: [text]})
    assert written.isascii()
    assert not set("<>&") & set(written)
    assert json.loads(written) == {text: [text]}


def test_the_page_fetches_nothing_and_its_policy_names_its_scripts(page):
    parts = Parts(page)
    assert parts.fetched == []
    scripts = [text for kind, text in parts.scripts if kind == ""]
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in parts.policy
    assert parts.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in parts.policy
    assert "http" not in parts.policy


def test_no_script_of_ours_parses_data_as_markup():
    for file in Path(module.__file__).with_name("page_files").glob("*.js"):
        text = file.read_text(encoding="utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "fetch(",
        ):
            assert word not in text, (file.name, word)


def test_all_files_of_the_page_are_used():
    folder = Path(module.__file__).with_name("page_files")
    assert {file.name for file in folder.iterdir()} == {*module._SCRIPTS, "page.html", "page.css"}


def test_numbers_that_are_not_finite_do_not_reach_the_page(tmp_path):
    scores = {"sentiment": math.nan, "entities": math.inf, "inference": 0.5}
    made = config() | {"margin": math.nan}
    write_run(tmp_path / "run", made, results(scores), [{"step": 1, "train/loss/sentiment": math.nan}])
    (run,) = data_of(compare_page(read_runs([tmp_path])))["runs"]
    assert run["metrics"]["validation/sentiment/accuracy"] is None
    assert run["metrics"]["validation/inference/accuracy"] == 0.5
    assert run["curves"]["train"]["values"] == {}


@pytest.mark.parametrize(
    "missing", ["metrics.jsonl", "environment.json", "config.yaml", "results.json", "overrides.yaml"]
)
def test_a_run_that_lacks_a_file_has_a_page(tmp_path, missing):
    write_job(tmp_path, name="whole")
    write_job(tmp_path, seed=2, name="other")
    (tmp_path / "other" / missing).unlink()
    data = data_of(compare_page(read_runs([tmp_path])))
    assert [run["name"] for run in data["runs"]] == ["other", "whole"]


def test_broken_lines_of_the_metrics_do_no_harm(tmp_path):
    path = write_job(tmp_path, name="run")
    (path / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss/sentiment": 2}\nnonsense\n[1]\n{"step": "x"}\n{"step": 3'
    )
    (run,) = page_data(read_runs([path]), None)["runs"]
    assert run["curves"]["train"]["values"] == {"train/loss/sentiment": [2]}


def test_runs_of_different_tasks_share_a_page(tmp_path):
    for task in ("sentiment", "entities"):
        scores = {task: 0.5}
        write_run(tmp_path / task, config(tasks={task: "accuracy"}), results(scores), records(scores), [f"task={task}"])
    data = page_data(read_runs([tmp_path]), None)
    assert data["tasks"] == ["entities", "sentiment"]
    assert len(data["groups"]) == 2
    assert "validation/sentiment/accuracy" not in run_of(data, "entities")["metrics"]


def test_a_page_without_a_finished_run_has_no_means(tmp_path):
    write_run(tmp_path / "run", config(), Results(), [])
    data = page_data(read_runs([tmp_path]), None)
    assert data["groups"][0]["means"] == {}
    assert compare_page(read_runs([tmp_path]))


def test_names_that_are_no_unicode_can_be_written(tmp_path):
    path = write_job(tmp_path, name="run")
    odd = tmp_path / "run\udc80"
    try:
        shutil.move(path, odd)
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error}")
    page = compare_page(read_runs([tmp_path]))
    page.encode("utf-8")
    assert data_of(page)["runs"][0]["name"] == "run\udc80"


def test_the_page_of_a_hundred_runs_stays_small(tmp_path):
    write_job(tmp_path, num_steps=1000, every=1)
    (run,) = read_runs([tmp_path])
    assert len(as_json(page_data([run] * 100, None))) < 5e6
