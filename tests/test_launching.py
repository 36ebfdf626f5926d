"""Sweeps as a user types them: which jobs there are, what is skipped, resumed, refused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tiny_project import TINY

from mtl_cli.cli import _main, conf_dir
from mtl_cli.sweeps import Job, SweepFolder
from mtl_cli.tracking import RunFolder, read_metrics

LAUNCHERS = sorted(path.stem for path in (conf_dir() / "hydra/launcher").glob("*.yaml"))


@pytest.fixture
def sweep(project, tmp_path, monkeypatch):
    """Runs `mtl train -m` on a tiny task, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words, small=("task=[reviews]", "trainer.max_steps=2", *TINY)):
        return _main(["train", "-m", "--config-dir", str(project), *small, *words])

    return run


def status(folder):
    return {outcome.job.name: outcome.status for outcome in SweepFolder.read(Path(folder)).outcomes()}


def test_jobs_are_named_by_their_overrides_and_the_folder_says_which_there_are(sweep, capsys):
    assert sweep("seed=1,2", "hydra.sweep.dir=s") == 0
    assert status("s") == {"seed=1": "finished", "seed=2": "finished"}
    assert RunFolder("s/seed=2").read_overrides()[-1] == "seed=2"
    assert "sweep" not in RunFolder("s/seed=2").read_config()
    record = json.loads(Path("s/sweep.json").read_text())
    assert [job["name"] for job in record["jobs"]] == ["seed=1", "seed=2"]
    shown = capsys.readouterr().out
    assert "job 2 of 2: seed=2" in shown
    assert "2 jobs: 2 finished" in shown
    assert shown.splitlines()[-1] == "s"


def test_a_sweep_that_is_started_again_skips_what_is_finished_and_goes_on_with_the_rest(sweep, capsys):
    assert sweep("seed=1,2,3", "hydra.sweep.dir=s") == 0
    interrupted = RunFolder("s/seed=2")
    results = interrupted.read_results()
    results.status, results.tasks, results.score = "interrupted", {}, None
    interrupted.write_results(results)
    for file in Path("s/seed=3").rglob("*"):
        if file.is_file():
            file.unlink()
    before = Path("s/seed=1/log.txt").read_text()
    capsys.readouterr()
    assert _main(["train", "-m", "sweep.resume=s"]) == 0
    shown = capsys.readouterr().out
    assert "3 jobs in s: 1 finished, 1 to go on with" in shown
    assert "3 jobs: 3 finished (1 of them before)" in shown
    assert set(status("s").values()) == {"finished"}
    assert Path("s/seed=1/log.txt").read_text() == before
    assert "resumed at step 2 of 2" in Path("s/seed=2/log.txt").read_text()


def test_the_same_words_again_find_the_same_sweep(sweep, capsys):
    words = ("seed=1,2", "hydra.sweep.dir=out/a")
    assert sweep(*words) == 0
    capsys.readouterr()
    assert sweep(*words, "sweep.skip_finished=true") == 0
    assert "2 finished (2 of them before)" in capsys.readouterr().out
    # By default the folder is named by the time: it is found by the words.
    assert sweep("seed=5,6") == 0
    assert sweep("seed=5,6", "sweep.skip_finished=true") == 0
    assert len(list(Path("multirun").glob("*/*/sweep.json"))) == 1
    assert sweep("seed=5,7", "sweep.skip_finished=true") == 0
    assert len(list(Path("multirun").glob("*/*/sweep.json"))) == 2


def test_a_folder_with_another_sweep_is_refused(sweep, capsys):
    assert sweep("seed=1,2", "hydra.sweep.dir=s") == 0
    assert sweep("seed=1,2", "hydra.sweep.dir=s") == 2
    assert "holds a sweep already" in capsys.readouterr().err
    assert sweep("optimizer.lr=1e-3,1e-4", "hydra.sweep.dir=s", "sweep.skip_finished=true") == 2
    assert "has other jobs" in capsys.readouterr().err


def test_jobs_that_cannot_run_are_named_before_the_others_run(sweep, capsys):
    assert sweep("optimizer.lr=-1,0.001", "hydra.sweep.dir=s") == 1
    shown = capsys.readouterr().out
    assert shown.index("lr=-1 cannot run: optimizer.lr: found -1") < shown.index("job 1 of 1: lr=0.001")
    assert "failed: lr=-1" in shown
    assert "go on with: mtl train -m sweep.resume=s" in shown
    assert status("s") == {"lr=-1": "not started", "lr=0.001": "finished"}


def test_a_sweep_of_which_no_job_can_run_is_refused_with_all_of_its_errors(sweep, capsys, tmp_path):
    assert sweep("optimizer.lr=-1,-2", "trainer.epoch=3") == 2
    message = capsys.readouterr().err
    assert "error: 3 errors in the configuration" in message
    assert "found -1" in message
    assert "found -2" in message
    assert "did you mean epochs" in message
    assert not list(tmp_path.iterdir())


def test_other_settings_that_all_jobs_share_are_refused_too(sweep, capsys):
    assert sweep("seed=1,2", "hydra.sweep.dir=s") == 0
    before = Path("s/sweep.json").read_text()
    assert sweep("seed=1,2", "optimizer.lr=0.5", "hydra.sweep.dir=s", "sweep.skip_finished=true") == 2
    assert "was started with another optimizer.lr" in capsys.readouterr().err
    assert Path("s/sweep.json").read_text() == before


def test_a_sweep_that_another_process_works_on_is_left_as_it_is(sweep, capsys):
    folder = SweepFolder(Path("s").absolute(), (Job(name="seed=1", overrides=("seed=1",)),), ("seed=1",))
    folder.path.mkdir()
    folder.write()
    before = (folder.path / "sweep.json").read_text()
    with folder.alone():
        assert _main(["train", "-m", "sweep.resume=s"]) == 2
        assert "worked on by another process" in capsys.readouterr().err
        assert (folder.path / "sweep.json").read_text() == before


def test_a_run_that_another_process_trains_is_left_to_it(sweep, capsys):
    assert sweep("seed=1,2", "hydra.sweep.dir=s") == 0
    running = RunFolder("s/seed=2")
    results = running.read_results()
    results.status = "running"
    running.write_results(results)
    with running.in_use():
        assert _main(["train", "-m", "sweep.resume=s"]) == 1
    assert "1 finished (1 of them before), 1 running" in capsys.readouterr().out
    assert status("s") == {"seed=1": "finished", "seed=2": "running"}


def test_settings_of_sweeps_need_a_sweep(capsys):
    assert _main(["train", "sweep.skip_finished=true"]) == 2
    assert "add -m" in capsys.readouterr().err


def test_going_on_takes_no_other_settings(sweep, capsys):
    assert sweep("seed=1,2", "hydra.sweep.dir=s") == 0
    assert _main(["train", "-m", "sweep.resume=s", "seed=4"]) == 2
    assert "leave out seed=4" in capsys.readouterr().err
    assert _main(["train", "-m", "sweep.resume=nowhere"]) == 2
    assert "nowhere is not the folder of a sweep" in capsys.readouterr().err


def test_a_secret_has_to_be_given_again(sweep, capsys):
    words = ("seed=1,2", "hydra.sweep.dir=s", "tasks.reviews.source.api_key=hunter22")
    # No such setting: the jobs are refused, and the folder taken back.
    assert sweep(*words) == 2
    SweepFolder(Path("s"), (), ("loggers.wandb.api_key=hunter22",)).write()
    capsys.readouterr()
    assert _main(["train", "-m", "sweep.resume=s"]) == 2
    assert "give loggers.wandb.api_key=... again" in capsys.readouterr().err


def test_values_to_sweep_over_can_stand_in_a_yaml(sweep, project, tmp_path):
    params = {"hydra": {"sweeper": {"params": {"seed": "1,2"}}}}
    folder = project / "experiment"
    folder.mkdir(exist_ok=True)
    (folder / "seeds.yaml").write_text("# @package _global_\n# Two seeds\n" + yaml.safe_dump(params))
    assert sweep("experiment=seeds", "hydra.sweep.dir=s") == 0
    assert status("s") == {"seed=1": "finished", "seed=2": "finished"}
    # What the command line says of the same setting counts instead.
    assert sweep("experiment=seeds", "seed=4", "hydra.sweep.dir=t") == 0
    assert len(status("t")) == 1
    assert RunFolder(next(Path("t").glob("*/config.yaml")).parent).read_config()["seed"] == 4


def test_a_folder_pattern_of_the_users_own_is_kept(sweep):
    assert sweep("seed=1,2", "hydra.sweep.dir=s", "hydra.sweep.subdir='run_${hydra.job.num}'") == 0
    assert status("s") == {"run_0": "finished", "run_1": "finished"}


def test_parallel_jobs_run_in_processes_of_their_own_and_one_that_fails_stops_no_other(sweep, capfd):
    words = ("hydra/launcher=parallel", "optimizer.lr=0.001,1e30", "hydra.sweep.dir=s", "trainer.max_grad_norm=null")
    assert sweep(*words, "trainer.max_steps=20") == 1
    shown = capfd.readouterr().out
    assert "finished  lr=0.001" in shown
    assert status("s") == {"lr=0.001": "finished", "lr=1e+30": "failed"}
    assert "step" in (RunFolder("s/lr=1e+30").read_results().error or "")
    assert "mean of main metrics" in Path("s/lr=0.001/console.txt").read_text()
    assert (Path("s") / ".slots/1.lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_isolated_runs_to_stop_and_the_table_says_what_was_done(project, tmp_path, number):
    words = [
        "hydra.sweep.dir=s",
        "seed=1,2",
        "sweep.isolate=true",
        "trainer.max_steps=100000",
        "trainer.log_every_steps=1",
    ]
    command = [
        sys.executable,
        "-m",
        "mtl_cli",
        "train",
        "-m",
        "--config-dir",
        str(project),
        "task=[reviews]",
        *TINY,
        *words,
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        metrics = tmp_path / "s/seed=1/metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not read_metrics(metrics):
            time.sleep(0.05)
        process.send_signal(number)
        shown = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number
    assert "stopping: the runs write a checkpoint each" in shown
    assert "1 interrupted, 1 not started" in shown
    assert status(tmp_path / "s") == {"seed=1": "interrupted", "seed=2": "not started"}
    assert any((tmp_path / "s/seed=1/checkpoints").glob("step-*"))
    assert not (tmp_path / "s/.stop").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the process by /proc")
def test_a_job_that_its_queue_preempts_goes_on_from_its_checkpoint(sweep, tmp_path, capfd):
    words = (
        "hydra/launcher=queue",
        "hydra.sweep.dir=s",
        "hydra.sweep.subdir=run",
        "trainer.max_steps=150",
        "trainer.log_every_steps=1",
    )

    def preempt():
        metrics = Path("s/run/metrics.jsonl")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(read_metrics(metrics)) < 3:
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", f"submitit.core._submit.*{tmp_path}"], capture_output=True, text=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGUSR2)

    preempting = threading.Thread(target=preempt)
    preempting.start()
    assert sweep(*words) == 0
    preempting.join()
    assert status("s") == {"run": "finished"}
    assert "resumed at step" in Path("s/run/log.txt").read_text()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes(launcher):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert config.hydra.launcher._target_.startswith("hydra_plugins.")


def test_hydras_own_questions_are_answered_for_a_sweep_too(capsys):
    with pytest.raises(SystemExit):
        _main(["train", "-m", "--help"])
    assert "mtl train trains one model" in capsys.readouterr().out
