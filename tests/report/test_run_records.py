"""Reading run folders in whatever state they are, and saying what differs among them."""

import copy
import json
import math
import os

import pytest
from report.made_up_run import CONFIG, finished, records, write

from mtl_cli.report.run_records import differing_settings, find_runs, read_run, read_runs, same_but_for_seed
from mtl_cli.tracking import Results


def config(**changes):
    """CONFIG with dotted settings changed; a double underscore stands for the dot."""
    changed = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *nodes, last = key.split("__")
        node = changed
        for name in nodes:
            node = node.setdefault(name, {})
        node[last] = value
    return changed


def write_runs(folder, configs, overrides=()):
    for name, changed in configs.items():
        write(folder / name, config=changed).write_overrides(list(overrides))
    return read_runs([folder])


def test_a_finished_run_is_read_whole(tmp_path):
    write(tmp_path / "run")
    (run,) = read_runs([tmp_path])
    assert (run.path, run.name, run.group, run.status, run.problem) == (tmp_path / "run", "run", "", "finished", None)
    assert run.settings["encoder.pooling"] == "mean"
    assert run.settings["tasks.sst2.source.path"] == "glue"
    assert run.settings["encoder.dropout"] is None
    assert run.settings["seed"] == 7
    assert run.overrides == ("sharing=cross_stitch", "seed=7")
    assert run.tasks == ["sst2", "snli"]
    assert run.metrics == {
        "validation/sst2/accuracy": 0.8125,
        "validation/sst2/loss": 0.4,
        "test/sst2/accuracy": 0.75,
        "validation/score": 0.8125,
    }
    assert run.results.parameters.total == 22_700_000
    assert run.created == "2026-01-31T12:00:00+00:00"
    assert [record["step"] for record in run.history()][:3] == [10, 20, 30]


def test_the_choice_of_a_group_has_the_name_that_was_typed_or_that_the_class_is_known_by(tmp_path):
    changed = config(encoder___target_="mtl_cli.encoders.HuggingFaceEncoder", own={"_target_": "mine.DeepMTLThing"})
    write(tmp_path / "run", config=changed).write_overrides(["+weighting=my/pcgrad", "seed=7"])
    (run,) = read_runs([tmp_path])
    assert run.settings["weighting"] == "my/pcgrad"  # typed
    assert run.settings["sharing"] == "cross_stitch"  # conf/sharing/cross_stitch.yaml alone names CrossStitch
    assert run.settings["encoder"] == "hugging_face_encoder"  # many options name this class
    assert run.settings["own"] == "deep_mtl_thing"
    assert run.settings["tasks"] == ["sst2", "snli"]


def test_a_class_that_was_put_in_by_hand_does_not_go_by_the_option_it_replaced(tmp_path):
    changed = config(weighting___target_="mtl_cli.weighting.MGDA")
    write(tmp_path / "run", config=changed).write_overrides(
        ["weighting=pcgrad", "weighting._target_=mtl_cli.weighting.MGDA"]
    )
    (run,) = read_runs([tmp_path])
    assert run.settings["weighting"] == "mgda"


@pytest.mark.parametrize(
    ("node", "results", "expected"),
    [
        ({"main_metric": "f1", "metrics": ["accuracy", "f1"]}, finished(), "f1"),
        ({"metrics": ["f1", "accuracy"]}, finished(), "f1"),
        ({"metrics": None}, finished(), "accuracy"),  # the first of results.json
        ({"metrics": None}, Results(), "accuracy"),  # the first of metrics.jsonl
        ("not a node", finished(), "accuracy"),
    ],
)
def test_the_main_metric_is_the_setting_or_the_first_that_was_measured(tmp_path, node, results, expected):
    write(tmp_path / "run", results=results, config=config(tasks={"sst2": node, "new": {}}))
    (run,) = read_runs([tmp_path])
    assert run.main_metrics == {"sst2": expected}


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_an_unfinished_run_has_the_figures_of_its_last_evaluation(tmp_path, status):
    write(tmp_path / "run", results=Results(status=status))
    (run,) = read_runs([tmp_path])
    assert (run.status, run.problem) == (status, None)
    last = [record for record in records() if "validation/score" in record][-1]
    assert run.metrics["validation/score"] == last["validation/score"]
    assert math.isnan(run.metrics["validation/snli/accuracy"])  # null in metrics.jsonl
    assert set(run.metrics) == {"validation/score", "validation/sst2/accuracy", "validation/snli/accuracy"}


def test_a_run_that_has_not_evaluated_yet_has_no_metrics(tmp_path):
    write(tmp_path / "run", results=Results(), lines=[{"step": 1, "train/loss/sst2": 0.5}])
    (run,) = read_runs([tmp_path])
    assert (run.status, run.metrics, run.main_metrics) == ("running", {}, {"sst2": "accuracy"})


def test_a_figure_beyond_the_largest_float_is_not_a_number_and_a_step_is_no_step(tmp_path):
    folder = write(tmp_path / "run", results=Results(), lines=[{"step": 1, "validation/score": 0.5}])
    with open(folder.metrics_file, "a", encoding="utf-8") as file:
        file.write(f'{{"step": {10**400}, "train/loss/sst2": 1}}\n{{"step": 2, "validation/score": {10**400}}}\n')
    (run,) = read_runs([tmp_path])
    assert run.status == "running"
    assert math.isnan(run.metrics["validation/score"])
    assert [record["step"] for record in run.history()] == [1, 2]


def test_a_failed_run_says_the_first_line_of_its_error(tmp_path):
    write(tmp_path / "run", results=Results(status="failed", error="step 3: no\nmore"))
    (run,) = read_runs([tmp_path])
    assert (run.status, run.problem) == ("failed", "step 3: no")


BREAKAGES = {
    "no config": ("config.yaml", None, "config.yaml is missing"),
    "no results": ("results.json", None, "results.json is missing"),
    "no environment": ("environment.json", None, "environment.json is missing"),
    "torn results": ("results.json", '{"status": "finis', "results.json cannot be read: Unterminated string"),
    "a list for results": ("results.json", "[1]", "results.json holds a list, not an object"),
    "no status": ("results.json", "{}", "results.json is not what mtl writes: KeyError('status')"),
    "a newer format": ("environment.json", '{"format_version": 2}', "environment.json has format_version 2; this mtl"),
    "no format": ("environment.json", "{}", "environment.json has format_version None"),
    "torn configuration": ("config.yaml", "a: [1", "config.yaml cannot be read: while parsing a flow sequence"),
    "text for settings": ("config.yaml", "text", "config.yaml holds a str, not settings"),
    "a configuration that holds itself": ("config.yaml", "&a {b: *a}", "config.yaml is nested more than 50 levels"),
    "bytes": ("config.yaml", b"\xff\xfe\xff", "config.yaml cannot be read: "),
    "deep results": ("results.json", "[" * 100_000, "results.json cannot be read: it is nested too deeply"),
}


@pytest.mark.parametrize(("file", "content", "problem"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_folder_that_is_not_whole_is_broken_and_says_why_in_one_line(tmp_path, file, content, problem):
    write(tmp_path / "broken")
    write(tmp_path / "sound")
    path = tmp_path / "broken" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    broken, sound = read_runs([tmp_path])
    assert (broken.status, broken.results, broken.metrics) == ("broken", None, {})
    assert broken.problem.startswith(problem)
    assert "\n" not in broken.problem
    assert sound.status == "finished"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"status": "done"}, "results.json has the status 'done'"),
        ({"status": ["finished"]}, "results.json has the status ['finished']"),
        ({"score": "high"}, "results.json is not what mtl writes: found 'high' where a number belongs"),
        ({"tasks": {"sst2": {"validation": {"accuracy": True}}}}, "results.json is not what mtl writes: found True"),
        ({"tasks": {"sst2": [1]}}, "results.json is not what mtl writes: AttributeError"),
        ({"training": {"steps": "many"}}, "results.json is not what mtl writes: found 'many'"),
        ({"training": None}, "results.json is not what mtl writes: AttributeError"),
        ({"sharing": [1]}, "results.json is not what mtl writes: sharing is a list"),
        ({"score": 10**400}, "results.json is not what mtl writes: it holds a number beyond the largest float"),
        ({"tasks": {"sst2": {"test": {"accuracy": -(10**400)}}}}, "results.json is not what mtl writes: it holds a nu"),
        ({"training": {"seconds": 10**400}}, "results.json is not what mtl writes: it holds a number beyond"),
        ({"seen": {"sst2": {"tokens": 10**400}}}, "results.json is not what mtl writes: it holds a number beyond"),
    ],
)
def test_values_of_wrong_types_make_a_run_broken(tmp_path, change, problem):
    folder = write(tmp_path / "run")
    record = json.loads(folder.results_file.read_text()) | change
    folder.results_file.write_text(json.dumps(record))
    (run,) = read_runs([tmp_path])
    assert run.status == "broken"
    assert run.problem.startswith(problem)


def test_a_history_leaves_out_what_cannot_be_read(tmp_path):
    folder = write(tmp_path / "run", lines=[{"step": 1}])
    with open(folder.metrics_file, "ab") as file:
        file.write(b'[1]\n{"no": 1}\n{"torn\n{"step": 2}\n{"step": 3')
    assert read_run(tmp_path / "run").history() == [{"step": 1}, {"step": 2}]
    folder.metrics_file.unlink()
    assert read_run(tmp_path / "run").history() == []


def test_runs_are_found_at_any_depth_once_and_in_natural_order(tmp_path):
    for place in ("outputs/2026-01-31/12-00-00", "multirun/a/10", "multirun/a/2", "multirun/a/sharing=hard,seed=[1 2]"):
        write(tmp_path / place)
    write(tmp_path / "multirun/a/2/model/inside")
    write(tmp_path / ".hidden" / "run")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("a: 1")  # one file of this name makes no run
    os.symlink(tmp_path, tmp_path / "outputs" / "circle")
    os.symlink(tmp_path / "nowhere", tmp_path / "outputs" / "dangling")
    found = find_runs([tmp_path / "multirun", tmp_path / "outputs", tmp_path / "multirun" / "a" / "2", tmp_path / "x"])
    assert [str(run.relative_to(tmp_path)) for run in found] == [
        "multirun/a/2",
        "multirun/a/10",
        "multirun/a/sharing=hard,seed=[1 2]",
        "outputs/2026-01-31/12-00-00",
    ]


def test_a_folder_given_itself_is_a_run_with_one_of_the_files(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    assert find_runs([tmp_path / "run"]) == [tmp_path / "run"]
    assert find_runs([tmp_path]) == []


def test_names_are_as_long_as_they_must_be(tmp_path):
    for place in ("a/x/0", "a/x/1", "b/x/0", "b/y/2"):
        write(tmp_path / place)
    assert [run.name for run in read_runs([tmp_path])] == ["a/x/0", "1", "b/x/0", "2"]


def test_runs_know_the_sweep_that_they_belong_to(tmp_path, monkeypatch):
    for place in ("one/s/0", "one/s/deeper/1", "two/s/0", "single"):
        write(tmp_path / place)
    (tmp_path / "one" / "s" / "sweep.json").write_text("{}")
    (tmp_path / "two" / "s" / "multirun.yaml").write_text("")
    assert [run.group for run in read_runs([tmp_path])] == ["one/s", "one/s", "", "two/s"]
    monkeypatch.chdir(tmp_path / "one" / "s")
    (run,) = read_runs([type(tmp_path)("0")])
    assert (run.name, run.group) == ("0", "s")


def test_what_differs_is_named_once_without_the_place_and_the_dashboard(tmp_path):
    runs = write_runs(
        tmp_path,
        {
            "a": config(
                cache_dir="/a", loggers={"wandb": {"name": "a"}}, optimizer={"lr": 1}, trainer={"device": "cpu"}
            ),
            "b": config(cache_dir="/b", loggers={"none": {}}, optimizer={"lr": 1.0}, trainer={"device": "cuda:1"}),
            "c": config(seed=8, encoder__dropout=0.1, optimizer={"lr": 1}, trainer={"device": "cpu"}),
        },
    )
    assert differing_settings(runs) == ["encoder.dropout", "seed"]
    assert differing_settings(runs[:2]) == []
    assert differing_settings([]) == []


def test_what_follows_from_a_choice_is_left_out_and_what_differs_within_it_is_not(tmp_path):
    mmoe = {"_target_": "mtl_cli.sharing.MMoE", "num_experts": 4, "gate": {"temperature": 1}}
    runs = write_runs(
        tmp_path,
        {
            "hard": config(sharing={"_target_": "mtl_cli.sharing.HardSharing"}),
            "mmoe": config(sharing=mmoe),
            "mmoe8": config(sharing=mmoe | {"num_experts": 8}),
            "alone": config(tasks={"sst2": CONFIG["tasks"]["sst2"]}),
        },
    )
    # In the order alone, hard, mmoe, mmoe8. The temperature follows from `mmoe`, what the lone task lacks from `tasks`.
    assert differing_settings(runs) == ["tasks", "sharing", "sharing.num_experts"]
    assert differing_settings(runs[2:]) == ["sharing.num_experts"]


def test_options_of_one_class_are_told_apart_by_their_names(tmp_path):
    for name, path in (("bert_base", "bert-base"), ("xlm", "xlm-r")):
        changed = config(encoder={"_target_": "mtl_cli.encoders.HuggingFaceEncoder", "path": path})
        write(tmp_path / name, config=changed).write_overrides([f"encoder={name}"])
    runs = read_runs([tmp_path])
    assert differing_settings(runs) == ["encoder"]
    assert [run.settings["encoder"] for run in runs] == ["bert_base", "xlm"]


def test_two_names_for_the_same_settings_are_no_difference(tmp_path):
    for name, overrides in (("a", ["weighting=mine"]), ("b", ["weighting=pcgrad"])):
        write(tmp_path / name).write_overrides(overrides)
    runs = read_runs([tmp_path])
    assert [run.settings["weighting"] for run in runs] == ["mine", "pcgrad"]
    assert differing_settings(runs) == []
    assert list(map(len, same_but_for_seed(runs).values())) == [2]


def test_only_runs_that_differ_in_nothing_but_the_seed_are_one_group(tmp_path):
    runs = write_runs(
        tmp_path,
        {
            "a1": config(seed=1),
            "a2": config(seed=2, cache_dir="/elsewhere"),
            "b1": config(seed=1, encoder__dropout=0.1),
            "b2": config(seed=2, encoder__dropout=0.1),
            "c": config(seed=1, encoder__dropout=0.1, weighting={"_target_": "mtl_cli.weighting.MGDA"}),
        },
    )
    broken = write(tmp_path / "d")
    broken.config_file.unlink()
    groups = same_but_for_seed([*runs, read_run(tmp_path / "d")])
    assert {key: [run.name for run in group] for key, group in groups.items()} == {
        (("weighting", '"pcgrad"'), ("encoder.dropout", "null")): ["a1", "a2"],
        (("weighting", '"pcgrad"'), ("encoder.dropout", "0.1")): ["b1", "b2"],
        (("weighting", '"mgda"'), ("encoder.dropout", "0.1")): ["c"],
    }
    assert same_but_for_seed([]) == {}


def test_the_order_of_the_runs_does_not_matter_to_what_differs(tmp_path):
    runs = write_runs(tmp_path, {"a": config(x=1), "b": config(), "c": config(x=1, y=[1, 2]), "d": config(y=[2, 1])})
    expected = {"x", "y"}
    assert set(differing_settings(runs)) == set(differing_settings(runs[::-1])) == expected
    assert sorted(len(group) for group in same_but_for_seed(runs).values()) == [1, 1, 1, 1]


def test_a_real_run_is_read_as_its_folder_has_it(finished_run):
    (run,) = read_runs([finished_run])
    assert run.status == "finished"
    assert run.metrics == run.results.flat()
    assert run.main_metrics == {
        "reviews": "accuracy",
        "pairs": "accuracy",
        "scores": "pearson",
        "names": "span_f1",
    }
    assert (run.settings["sharing"], run.settings["weighting"]) == ("hard", "equal")
    assert run.settings["optimizer"] == "adamw"
