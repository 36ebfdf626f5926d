"""A job in a process of its own: finished, failed, killed, stopped, resumed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tiny_project import TINY

from mtl_cli.sweeps import Job, run_job_process
from mtl_cli.tracking import Results, RunFolder, read_metrics, without_clock


def tiny_job(conf, *overrides, name="job"):
    return Job(name=name, overrides=("task=[reviews]", *TINY, *overrides)), ["--config-dir", str(conf)]


def child_of(folder, deadline=60):
    """The process id of the run in a folder, once it trains."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        found = subprocess.run(["pgrep", "-f", f"hydra.run.dir='{folder}'|resume='{folder}'"], capture_output=True)
        if found.stdout and read_metrics(folder / "metrics.jsonl"):
            return int(found.stdout.split()[0])
        time.sleep(0.05)
    raise AssertionError("no training process came up")


LONG = ("trainer.max_steps=100000", "trainer.log_every_steps=1", "trainer.checkpoint_every_steps=5")


def test_a_finished_job_tells_its_score_and_is_not_run_again(project, tmp_path):
    job, words = tiny_job(project, "trainer.max_steps=2")
    outcome = run_job_process(job, tmp_path / "run", config_arguments=words)
    assert (outcome.status, outcome.error) == ("finished", None)
    assert outcome.score == RunFolder(tmp_path / "run").read_results().score
    before = (tmp_path / "run" / "console.txt").read_text()
    assert "mean of main metrics" in before
    assert run_job_process(job, tmp_path / "run", config_arguments=words) == outcome
    assert (tmp_path / "run" / "console.txt").read_text() == before


def test_a_job_that_cannot_begin_says_why(project, tmp_path):
    job, words = tiny_job(project, "trainer.max_steps=-1")
    outcome = run_job_process(job, tmp_path / "run", config_arguments=words)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "trainer.max_steps: found -1" in outcome.error


def test_a_job_that_is_asked_to_stop_writes_a_checkpoint_and_goes_on_as_if_it_had_not(project, tmp_path):
    job, words = tiny_job(project, "trainer.max_steps=60", "trainer.log_every_steps=1")
    whole = run_job_process(job, tmp_path / "whole", config_arguments=words)
    metrics = tmp_path / "run" / "metrics.jsonl"
    stopped = run_job_process(
        job, tmp_path / "run", config_arguments=words, should_stop=lambda: len(read_metrics(metrics)) >= 3,
        poll_seconds=0.01,
    )  # fmt: skip
    assert (stopped.status, stopped.error, stopped.can_be_resumed) == ("interrupted", None, True)
    resumed = run_job_process(job, tmp_path / "run", config_arguments=words)
    assert (resumed.status, resumed.score) == ("finished", whole.score)
    assert "resumed at step" in (tmp_path / "run" / "log.txt").read_text()
    assert without_clock(read_metrics(metrics)) == without_clock(read_metrics(tmp_path / "whole" / "metrics.jsonl"))


def test_what_killed_a_job_is_written_down(project, tmp_path):
    job, words = tiny_job(project, *LONG)
    killer = threading.Thread(target=lambda: os.kill(child_of(tmp_path / "run"), signal.SIGKILL))
    killer.start()
    outcome = run_job_process(job, tmp_path / "run", config_arguments=words)
    killer.join()
    assert (outcome.status, outcome.error) == ("failed", "killed by SIGKILL: out of memory?")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "failed"
    assert outcome.can_be_resumed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system tells of a parent's death on Linux alone")
def test_a_job_stops_with_a_checkpoint_when_whoever_started_it_is_killed(project, tmp_path):
    job, words = tiny_job(project, *LONG)
    code = (
        "import sys, pathlib\nfrom mtl_cli.sweeps import Job, run_job_process\n"
        "folder, *words = sys.argv[1:]\n"
        "run_job_process(Job(name='job', overrides=tuple(words[2:])), pathlib.Path(folder), config_arguments=words[:2])"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run"), *words, *job.overrides]) as parent:
        child_of(tmp_path / "run")
        parent.kill()
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 60
    while folder.is_in_use() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert folder.read_results().status == "interrupted"
    assert any(folder.checkpoints_folder.glob("step-*"))


def test_a_signal_that_somebody_waits_for_is_passed_on_once_the_checkpoint_is_written(project, tmp_path):
    job, words = tiny_job(project, *LONG)
    folder = RunFolder(tmp_path / "run")
    heard = []
    former = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append((number, folder.read_results().status)))
    try:

        def warn():
            child_of(folder.path)
            os.kill(os.getpid(), signal.SIGUSR2)

        warner = threading.Thread(target=warn)
        warner.start()
        outcome = run_job_process(job, folder.path, config_arguments=words)
        warner.join()
    finally:
        signal.signal(signal.SIGUSR2, former)
    assert heard == [(signal.SIGUSR2, "interrupted")]
    assert outcome.status == "interrupted"
    assert any(folder.checkpoints_folder.glob("step-*"))


def test_a_run_that_needs_a_package_of_the_users_own_is_allowed_it_again_when_it_goes_on(tmp_path, monkeypatch):
    commands = []

    def started(arguments, environment, console):
        commands.append(list(arguments))
        raise FileNotFoundError

    monkeypatch.setattr("mtl_cli.sweeps.process._started", started)
    folder = RunFolder.create(tmp_path / "run")
    folder.write_results(Results(status="interrupted"))
    job = Job(name="job", overrides=("seed=1", "allow_targets=[mine]"))
    with pytest.raises(FileNotFoundError):
        run_job_process(job, folder.path)
    assert commands == [[f"resume='{folder.path}'", "allow_targets=[mine]"]]


def test_a_run_is_not_trained_by_two_processes_at_once(project, tmp_path):
    job, words = tiny_job(project, "trainer.max_steps=2")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with folder.in_use():
        outcome = run_job_process(job, folder.path, config_arguments=words)
    assert outcome.status == "failed"
    assert "Another process trains the run" in (outcome.error or "")
