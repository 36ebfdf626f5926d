"""`mtl search` as a user types it."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from compose import composed
from made_up_runs import MadeUpRuns
from tiny_project import TINY, write

from mtl_cli.check_config import check_config
from mtl_cli.cli import _main
from mtl_cli.commands import search as search_module
from mtl_cli.search import worker as worker_module
from mtl_cli.search.search_folder import SearchFolder
from mtl_cli.search.storage import open_storage, open_study
from mtl_cli.search.worker import Worker

RUN = [*TINY, "task=[reviews]", "trainer.max_steps=120", "trainer.evaluate_every=30"]


@pytest.fixture
def project(tmp_path):
    write(tmp_path)
    return tmp_path


def start(project, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "mtl_cli", "search", *arguments],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def workers_of(process):
    return [p for p in psutil.Process(process.pid).children() if "mtl_cli.search.worker" in p.cmdline()]


def test_a_search_survives_the_death_of_a_worker_and_ctrl_c_and_is_resumed(project):
    folder = project / "found"
    process = start(
        project,
        "--config-dir",
        "conf",
        *RUN,
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "encoder.pooling=first,mean",
        "search.trials=3",
        "search.workers=2",
        "search.pruner=none",
        f"hydra.run.dir={folder}",
    )
    trained = [folder / f"trial-00{number}" / "metrics.jsonl" for number in (0, 1)]
    wait_until(lambda: all(file.exists() and file.stat().st_size for file in trained))
    killed = workers_of(process)[0]
    killed.kill()
    # The other worker takes its trial as soon as it is free itself; before that the search is stopped.
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "a worker was killed by SIGKILL" in said
    assert "go on with: mtl search search.resume=found" in said
    study = open_study(open_storage(SearchFolder(folder)))
    before = {trial.number: trial.params for trial in study.get_trials()}
    assert not all(trial.state.is_finished() for trial in study.get_trials())

    process = start(project, "search.resume=found")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "resumed" in said
    trials = open_study(open_storage(SearchFolder(folder))).get_trials()
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 3
    assert {number: trials[number].params for number in before} == before
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    for trial, row in zip(trials, rows, strict=True):
        run = folder / row["trial"]
        assert json.loads((run / "results.json").read_text())["score"] == trial.value == float(row["score"])
        assert f"optimizer.lr={row['optimizer.lr']}" in yaml.safe_load((run / "overrides.yaml").read_text())
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)  # one process at a time wrote it
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
    sweep = json.loads((folder / "sweep.json").read_text())
    assert sweep["kind"] == "search"
    assert [job["name"] for job in sweep["jobs"]] == [row["trial"] for row in rows]

    comment, line = (folder / "best.txt").read_text().splitlines()
    best = max(trials, key=lambda trial: trial.value)
    assert comment == f"# trial-{best.number:03d}: score {best.value:.4f}"
    assert line in said
    command, subcommand, flag, config_dir, *overrides = shlex.split(line)
    assert (command, subcommand, flag) == ("mtl", "train", "--config-dir")
    config = composed(*overrides, config_dir=Path(config_dir))
    check_config(config)
    assert config["encoder"]["pooling"] == best.params["encoder.pooling"]
    assert (folder / "search.html").stat().st_size > 1e6


@pytest.fixture
def made_up(project, monkeypatch):
    """Work in the project, with a worker in this process, over made-up runs."""
    monkeypatch.chdir(project)

    def runs(*acts):
        made = MadeUpRuns(*acts)
        monkeypatch.setattr(worker_module, "run_job_process", made)

        class Session:
            signal_number = None

            def __init__(self, folder, options, working_folder):
                self.folder, self.options = folder, options

            def run(self):
                code = Worker(self.folder, self.options, lambda: made.stop).run()
                self.signal_number = signal.SIGINT if made.stop else None
                return [code]

        monkeypatch.setattr(search_module, "Session", Session)
        return made

    return runs


SEARCH = ["search", "--config-dir", "conf", *RUN, "hydra.run.dir=found"]


def test_a_search_ends_with_a_table_the_line_to_paste_and_where_the_results_are(made_up, capsys):
    made_up([0.5], "it broke", [0.7])
    assert _main([*SEARCH, "encoder.pooling=first,mean", "search.trials=3"]) == 0
    said = capsys.readouterr().out
    assert "search in found: 3 trials, 1 worker, tpe, pruner median" in said
    assert "│ trial-002 │ finished │ 0.7000 │" in said
    assert "the best trial, to paste:\n# trial-002: score 0.7000\nmtl train --config-dir" in said
    assert "1 of 3 trials failed; trial-001: it broke" in said
    assert "results: found/trials.csv, found/best.txt, found/search.html" in said
    assert said.rstrip().splitlines()[-1] == "found"


def test_a_search_whose_trials_all_fail_says_why(made_up, capsys):
    made_up("no file reviews.csv", "no file reviews.csv", "no file reviews.csv")
    assert _main([*SEARCH, "seed=1,2,3,4"]) == 2
    said = capsys.readouterr().err
    assert "error: the first 3 trials have all failed, so that the search was stopped. no file reviews.csv" in said
    assert "Traceback" not in said


def test_a_stopped_search_says_how_to_go_on_and_more_trials_can_be_asked_for_then(made_up, capsys):
    made_up([0.5], "stop")
    assert _main([*SEARCH, "seed=1,2,3,4", "search.trials=3"]) == 130
    assert "2 trials are left; go on with: mtl search search.resume=found" in capsys.readouterr().out
    made_up([0.6], [0.7], [0.8])
    assert _main(["search", "search.resume=found", "search.trials=4"]) == 0
    said = capsys.readouterr().out
    assert "trials so far: 1 have ended, 1 go on, here or where they are at work" in said
    assert "[2/4] trial-001  resumed" in said
    assert _main(["search", "search.resume=found"]) == 0  # nothing left to do
    assert "trial-004" not in capsys.readouterr().out


def test_a_folder_that_holds_a_search_is_not_searched_again(made_up, capsys):
    made_up([0.5])
    assert _main([*SEARCH, "seed=1,2", "search.trials=1"]) == 0
    assert _main([*SEARCH, "seed=1,2"]) == 2
    assert "holds a search already. Go on with it by search.resume=" in capsys.readouterr().err


def test_a_search_needs_something_to_search_and_leaves_nothing_behind(made_up, project, capsys):
    made_up()
    assert _main(["search", "seed=1"]) == 2
    assert "search.space: found nothing to search" in capsys.readouterr().err
    assert {path.name for path in project.iterdir()} == {"data", "conf"}


def test_a_space_in_a_yaml_of_ones_own_is_chosen_by_name(made_up, project):
    (project / "conf" / "search").mkdir()
    (project / "conf" / "search" / "mine.yaml").write_text(
        "defaults: [default]\ntrials: 1\nspace:\n  seed: range(3,9)\n  encoder.pooling: [first, mean]\n"
    )
    made_up([0.5])
    assert _main([*SEARCH, "search=mine", "search.page=false"]) == 0
    plan = SearchFolder(project / "found").read_plan()
    assert list(plan.space.dimensions) == ["seed", "encoder.pooling"]
    assert plan.settings.trials == 1
    assert not (project / "found" / "search.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=1,2"], "-m: a search is many runs by itself"),
        (["seed=1,2", "search.trails=3"], "search.trails: no such key; did you mean trials?"),
        (["seed=1,2", "search=deflaut"], "search=deflaut: no such option; did you mean default?"),
        (["search.resume=nowhere"], "nowhere is not the folder of a search"),
        (["search.resume=nowhere", "seed=2"], "leave out seed"),
    ],
)
def test_slips_are_answered_in_words(made_up, capsys, arguments, message):
    made_up()
    assert _main(["search", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
