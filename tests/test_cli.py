"""The commands, as a user types them."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from tiny_project import TINY
from training.test_record_of_what_is_learnt import SETTINGS

from mtl_cli.cli import COMMANDS, _main, conf_dir
from mtl_cli.overrides import groups_in
from mtl_cli.saved_model import load_model
from mtl_cli.tracking import read_metrics


def test_help_lists_every_command_with_an_example(capsys):
    assert _main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert command.summary in printed
        assert f"mtl {name}" in command.example
        assert command.example in printed


def test_an_unknown_command_is_answered_in_one_line_with_the_nearest(capsys):
    assert _main(["trian"]) == 2
    message = capsys.readouterr().err
    known = "train, evaluate, predict, inspect, study, compare, sync, search, bench, tasks"
    assert message == f"mtl: no command 'trian'; there are {known}; did you mean `mtl train`?\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--cfg", "job"],
        ["train", "--help"],
        ["search", "--help"],
        ["bench", "--cfg", "job"],
        ["tasks"],
    ],
)
def test_help_and_configuration_are_shown_without_torch(arguments):
    code = (
        "import sys\nfrom mtl_cli.cli import _main\n"
        "try:\n    code = _main(sys.argv[1:])\nexcept SystemExit as exit:\n    code = exit.code\n"
        "heavy = [m for m in ('torch', 'transformers', 'wandb', 'datasets') if m in sys.modules]\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_module_runs_as_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mtl_cli", "train", "--cfg", "job"], capture_output=True, text=True)
    assert done.returncode == 0
    assert set(yaml.safe_load(done.stdout)["tasks"]) == {"sentiment", "entities", "inference"}


def test_all_errors_of_a_command_line_come_at_once_without_a_traceback_and_leave_nothing_behind(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert _main(["train", "encoder=minlm", "trainer.epoch=3", "optimizer.lr=0"]) == 2
    message = capsys.readouterr().err
    assert "error: 3 errors in the configuration" in message
    assert "did you mean minilm?" in message
    assert "did you mean epochs?" in message
    assert "optimizer.lr: found 0, input should be greater than 0" in message
    assert "Traceback" not in message
    assert _main(["train", "trainer.epoch=3"]) == 2
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compiled_is_among_the_errors_of_a_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["sharing=adapters", "sharing.blocks=[9]", "encoder.packing=false", "trainer.compile=true"]
    assert _main(["train", *arguments]) == 2
    message = capsys.readouterr().err
    assert "error: 2 errors in the configuration" in message
    assert "sharing.blocks: found [9]" in message
    assert "trainer.compile: true, but a 'modernbert' model runs padded rows" in message
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _main(["train", "trainer.epoch=3", "debug=true"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_run_folder_is_complete(finished_run):
    assert {path.name for path in finished_run.iterdir()} >= {
        "checkpoints",
        "config.yaml",
        "environment.json",
        "log.txt",
        "metrics.jsonl",
        "model",
        "overrides.yaml",
        "predictions",
        "results.json",
    }
    tasks = ["reviews", "pairs", "scores", "names"]
    assert {path.name for path in (finished_run / "predictions").iterdir()} == {
        f"{task}.{split}.jsonl" for task in tasks for split in ("validation", "test")
    }
    results = json.loads((finished_run / "results.json").read_text())
    assert set(results) == {"status", "tasks", "score", "training", "parameters", "seen"}
    assert sum(seen["tokens"] for seen in results["seen"].values()) == results["training"]["tokens"]
    assert all(seen["passes"] >= 3 for seen in results["seen"].values())
    assert results["status"] == "finished"
    assert set(results["tasks"]) == set(tasks)
    assert set(results["training"]) == {"steps", "seconds", "tokens", "tokens_per_second", "peak_memory_bytes"}
    assert results["parameters"]["total"] == results["parameters"]["shared"] + results["parameters"]["task_specific"]
    assert yaml.safe_load((finished_run / "overrides.yaml").read_text())[:2] == TINY[:2]


def test_metrics_have_the_documented_names(finished_run):
    keys = {key for record in read_metrics(finished_run / "metrics.jsonl") for key in record}
    assert keys >= {
        "train/loss/reviews",
        "train/weight/reviews",
        "train/lr",
        "train/grad_norm",
        "train/tokens_per_second",
        "validation/reviews/accuracy",
        "validation/names/span_f1",
        "validation/scores/pearson",
        "validation/score",
        "test/pairs/accuracy",
    }


def test_the_test_split_is_scored_once_at_the_end(finished_run):
    records = read_metrics(finished_run / "metrics.jsonl")
    with_test = [i for i, record in enumerate(records) if any(key.startswith("test/") for key in record)]
    assert with_test == [len(records) - 1]


def test_evaluate_repeats_the_final_figures_exactly(finished_run, tmp_path, capfd):
    assert _main(["evaluate", f"run={finished_run}", f"output={tmp_path}"]) == 0
    assert "the same figures as at the end of the run" in capfd.readouterr().err
    ours = json.loads((tmp_path / "results.json").read_text())
    theirs = json.loads((finished_run / "results.json").read_text())
    assert (ours["tasks"], ours["score"]) == (theirs["tasks"], theirs["score"])
    for file in (finished_run / "predictions").iterdir():
        assert (tmp_path / "predictions" / file.name).read_bytes() == file.read_bytes()


def test_evaluate_says_where_figures_differ(finished_run, tmp_path, capfd):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    results = json.loads((copy / "results.json").read_text())
    results["tasks"]["reviews"]["test"]["accuracy"] = 2.0
    (copy / "results.json").write_text(json.dumps(results))
    assert _main(["evaluate", f"run={copy}", "splits=[test]"]) == 0
    assert "not the figures that the run ended with: test/reviews/accuracy was 2.0" in capfd.readouterr().err


def write_input(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".txt":
        path.write_text("".join(row["text"] + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


ROWS = [{"id": f"{i}", "text": f"the film was {'great' if i % 2 else 'grim'}, no. {i}"} for i in range(20)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_predict_answers_each_row_as_the_loaded_model_does(finished_run, tmp_path, suffix):
    source = write_input(tmp_path / f"in.{suffix}", ROWS)
    output = tmp_path / "out.jsonl"
    arguments = [f"run={finished_run}", f"input={source}", f"output={output}", "precision=fp32"]
    assert _main(["predict", *arguments, "tasks=[reviews,scores]"]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    model = load_model(finished_run)
    texts = [row["text"] for row in ROWS]
    assert [record["text"] for record in records] == texts
    for task in ("reviews", "scores"):
        expected = [found["prediction"] for found in model.predict(task, texts)]
        assert [record["predictions"][task]["prediction"] for record in records] == expected


def test_predict_writes_a_table_with_a_column_a_task(finished_run, tmp_path):
    source, output = write_input(tmp_path / "in.csv", ROWS), tmp_path / "out.csv"
    assert _main(["predict", f"run={finished_run}", f"input={source}", f"output={output}"]) == 0
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ROWS)
    # pairs and names need columns that the file does not have
    assert list(rows[0]) == ["id", "text", "reviews_prediction", "reviews_probability", "scores_prediction"]
    assert all(
        row["reviews_prediction"] in ("good", "bad") and 0 < float(row["reviews_probability"]) <= 1 for row in rows
    )


def test_predict_takes_a_column_of_another_name_and_words_with_spaces_between(finished_run, tmp_path):
    source = write_input(tmp_path / "in.jsonl", [{"sentence": "Ada Bo took the book"}])
    output = tmp_path / "out.jsonl"
    arguments = [
        f"run={finished_run}",
        f"input={source}",
        f"output={output}",
        "tasks=names",
        "columns={tokens: sentence}",
    ]
    assert _main(["predict", *arguments]) == 0
    (record,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(record["predictions"]["names"]["prediction"]) == 5


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        ([{"review": "x"}], [], "has the columns review, but reviews needs text"),
        ([{"text": "x"}], ["tasks=revews"], "did you mean 'reviews'"),
        ([{"text": "x"}, {"text": " "}], ["tasks=reviews"], "row 2, column 'text': no text"),
        ([{"text": "x"}], ["tasks=pairs"], "pairs needs a, b"),
    ],
)
def test_what_cannot_be_predicted_is_said(finished_run, tmp_path, capsys, rows, overrides, message):
    source = write_input(tmp_path / "in.jsonl", rows)
    arguments = [f"run={finished_run}", f"input={source}", f"output={tmp_path / 'out.csv'}", *overrides]
    assert _main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_sweep_over_seeds_and_lists_of_tasks_makes_a_run_of_each(project, tmp_path):
    arguments = ["-m", "seed=1,2", "task=[reviews],[reviews,scores]", f"hydra.sweep.dir={tmp_path}", *TINY]
    assert _main(["train", "--config-dir", str(project), *arguments, "trainer.max_steps=2"]) == 0
    runs = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    tasks = ("task=reviews", "task=reviews+scores")
    assert [run.name for run in runs] == [f"seed={seed},{task}" for seed in (1, 2) for task in tasks]
    found = []
    for run in runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert json.loads((run / "results.json").read_text())["status"] == "finished"
        found.append((config["seed"], list(config["tasks"])))
    assert found == [(1, ["reviews"]), (1, ["reviews", "scores"]), (2, ["reviews"]), (2, ["reviews", "scores"])]


def test_a_dry_run_says_what_would_be_trained_and_leaves_nothing_behind(project, tmp_path, capsys):
    run = tmp_path / "outputs" / "run"
    arguments = ["task=[reviews,names]", "sharing.num_shared_layers=1", "dry_run=true", f"hydra.run.dir={run}", *TINY]
    assert _main(["train", "--config-dir", str(project), *arguments]) == 0
    printed = capsys.readouterr().out
    for word in (
        "HardSharing",
        "shared",
        "reviews",
        "names",
        "x hard sharing",
        "one epoch: 6 steps",
        "16 rows",
        "estimated memory",
        "KiB a token",
    ):
        assert word in printed
    assert "operations of a step: 1.00" in printed
    assert "not counted: libraries, machine code that oneDNN makes for new shapes, free pieces of the heap." in printed
    assert "whole step" not in printed
    assert not run.exists()
    cut = ["trainer.num_micro_batches=2", "trainer.batch_tokens=auto"]
    assert _main(["train", "--config-dir", str(project), *arguments, *cut]) == 0
    assert "those of a whole step, but trainer.num_micro_batches=2 cuts it into 2 parts" in capsys.readouterr().out
    assert _main(["train", "--config-dir", str(project), *arguments, "trainer.batch_tokens=20", *cut[:1]]) == 0
    assert "whole step" not in capsys.readouterr().out  # but of 20 tokens
    assert _main(["train", "--config-dir", str(project), *arguments, "optimizer.lr=-1"]) == 2
    assert "optimizer.lr: found -1" in capsys.readouterr().err


def ratios_of(printed):
    """Of parameters, of what weights take, and of that with activations: what a dry run prints against hard sharing."""
    rows = [line.partition("operations")[0] for line in printed.splitlines() if "x hard sharing" in line]
    return [float(number) for row in rows for number in re.findall(r"\d+\.\d+", row)]


def memory_of(printed):
    """What weights, activations and both take, in MiB, as a dry run prints it."""
    return [float(size) for size in re.findall(r"([\d.]+) MiB", printed.partition("estimated memory")[2])]


@pytest.mark.parametrize(
    ("sharing", "grows_more"),
    # A row goes through its task's encoder alone; every row goes through all columns, which are mixed besides.
    [("soft_l2", "weights"), ("sluice", "activations")],
)
def test_a_dry_run_compares_all_of_the_memory_with_hard_sharing(project, tmp_path, capsys, sharing, grows_more):
    arguments = ["task=[reviews,names,scores]", "dry_run=true", f"hydra.run.dir={tmp_path}", *TINY]
    arguments += ["encoder.hidden_size=128", "encoder.num_heads=4", "sampler.batch_size=32"]
    printed = []
    for name in (sharing, "hard"):
        assert _main(["train", "--config-dir", str(project), *arguments, f"sharing={name}"]) == 0
        printed.append(capsys.readouterr().out)
    assert ratios_of(printed[1]) == [1.0, 1.0, 1.0]
    _, of_weights, of_both = ratios_of(printed[0])
    run, hard = (memory_of(text) for text in printed)
    assert of_weights == pytest.approx(run[0] / hard[0], rel=0.05)  # sizes are printed to 0.1 MiB
    assert of_both == pytest.approx((run[0] + run[1]) / (hard[0] + hard[1]), rel=0.02)
    assert of_both < of_weights - 0.2 if grows_more == "weights" else of_both > of_weights + 0.2


def parts_of(printed):
    """What a dry run prints of each part: name -> parameters, MiB."""
    rows = re.findall(r"^ *(shared|frozen|all|reviews|names)\W+([\d,]+)\W+([\d.,]+) MiB", printed, re.MULTILINE)
    return {part: (int(count.replace(",", "")), float(size.replace(",", ""))) for part, count, size in rows}


@pytest.mark.parametrize("sharing", [option for option in groups_in([conf_dir()])["sharing"] if option != "hard"])
def test_a_dry_run_says_of_every_strategy_what_is_whose_and_how_it_compares(project, tmp_path, capsys, sharing):
    settings = SETTINGS.get(sharing, {}) | ({"groups": "[[reviews],[names]]"} if sharing == "grouped" else {})
    arguments = ["task=[reviews,names]", "dry_run=true", f"hydra.run.dir={tmp_path}", *TINY]
    arguments += ["encoder.hidden_size=128", "encoder.num_heads=4"]
    printed = []
    for chosen in (["sharing=hard"], [f"sharing={sharing}", *(f"sharing.{k}={v}" for k, v in settings.items())]):
        assert _main(["train", "--config-dir", str(project), *arguments, *chosen]) == 0
        printed.append(capsys.readouterr().out)
    hard, run = map(parts_of, printed)
    assert ratios_of(printed[0]) == [1.0, 1.0, 1.0]
    assert {"reviews", "names", "all"} <= run.keys()
    for found in (hard, run):
        assert sum(count for part, (count, _) in found.items() if part != "all") == found["all"][0]
        for part, (count, size) in found.items():
            if part != "all":  # in which there are also buffers
                assert size == pytest.approx((4 if part == "frozen" else 16) * count / 2**20, abs=0.051)
    of_parameters, of_weights, of_both = ratios_of(printed[1])
    assert of_parameters == pytest.approx(run["all"][0] / hard["all"][0], abs=0.0051)
    assert of_weights == pytest.approx(run["all"][1] / hard["all"][1], rel=0.02)  # sizes are printed to 0.1 MiB
    assert of_both > 0
    weights, activations, together = memory_of(printed[1])
    assert weights == run["all"][1]
    assert activations > 0
    assert together == pytest.approx(weights + activations, abs=0.11)


@pytest.mark.parametrize(
    "target", ["os.system", "torch.hub.load", "builtins.exec", "evil.Source"], ids=["os", "hub", "exec", "own"]
)
def test_somebody_elses_run_folder_runs_no_code_of_its_choice(finished_run, tmp_path, capsys, target, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["allow_targets"] = [target.partition(".")[0]]
    config["tasks"]["reviews"]["source"] = {"_target_": target}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert _main(["evaluate", f"run={copy}"]) == 2
    assert "_target_" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_task_type_of_the_users_own_trains_evaluates_and_predicts_where_its_package_is_allowed(
    project, tmp_path, monkeypatch, capsys
):
    (tmp_path / "own_package.py").write_text(
        "from mtl_cli.tasks import SingleTextClassification\nclass Own(SingleTextClassification):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run, output = tmp_path / "run", tmp_path / "out.jsonl"
    arguments = ["task=[reviews]", "tasks.reviews._target_=own_package.Own", *TINY, "trainer.max_steps=1"]
    train = ["train", "--config-dir", str(project), *arguments, f"hydra.run.dir={run}"]
    assert _main(train) == 2
    assert "allow_targets=[own_package]" in capsys.readouterr().err
    assert _main([*train, "allow_targets=[own_package]"]) == 0
    source = write_input(tmp_path / "in.csv", ROWS)
    predict = ["predict", f"run={run}", f"input={source}", f"output={output}"]
    for command in (["evaluate", f"run={run}"], predict):
        assert _main(command) == 2
        assert "allow" in capsys.readouterr().err
        assert _main([*command, "allow_targets=[own_package]"]) == 0
    assert output.exists()


def test_a_wrong_column_is_said_with_the_task_also_where_the_tokenizer_is_trained(project, tmp_path, capsys):
    arguments = ["task=[reviews]", *TINY, "tasks.reviews.text=txt", f"hydra.run.dir={tmp_path / 'run'}"]
    assert _main(["train", "--config-dir", str(project), *arguments]) == 2
    message = capsys.readouterr().err
    assert "tasks.reviews" in message
    assert "'txt'" in message
    assert "Traceback" not in message


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_task(project, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [
        "task=[reviews,scores]",
        *TINY,
        "optimizer.lr=1e18",
        "trainer.max_grad_norm=null",
        f"hydra.run.dir={run}",
    ]
    assert _main(["train", "--config-dir", str(project), *arguments, "schedule.warmup_fraction=0"]) == 2
    message = capsys.readouterr().err
    assert "loss of task" in message or "norm of the gradient" in message
    assert "step " in message
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "failed"
    assert results["error"].startswith("step ")


def test_the_listing_shows_a_users_own_task(project, capsys):
    assert _main(["tasks", "task", "--config-dir", str(project)]) == 0
    printed = capsys.readouterr().out
    assert "reviews" in printed
    assert "Reviews in a file of the user's" in printed
    assert "glue/sst2" in printed


def test_user_errors_in_data_name_the_place_and_exit_with_two(project, tmp_path, capsys):
    bad = tmp_path / "bad.csv"
    bad.write_text("text,label\nthe film was fine,good\n,bad\n")
    arguments = ["task=[reviews]", *TINY, f"tasks.reviews.source.train={bad}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert _main(["train", "--config-dir", str(project), *arguments]) == 2
    message = capsys.readouterr().err
    for part in ("reviews", str(bad), "row 2", "'text'"):
        assert part in message
    assert "Traceback" not in message
