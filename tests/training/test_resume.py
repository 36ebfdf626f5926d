"""A run that was stopped and resumed ends with the files of one that was not."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_project
from safetensors.torch import load_file

from mtl_cli.cli import _main
from mtl_cli.tracking import RunFolder, read_metrics, without_clock

OVERRIDES = [
    *tiny_project.TINY,
    "task=[reviews,names,scores]",
    "trainer.epochs=3",
    "trainer.log_every_steps=3",
    "trainer.checkpoint_every_steps=2",
    "schedule.warmup_fraction=0.2",
]


@pytest.fixture
def conf(tmp_path):
    return tiny_project.write(tmp_path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_equal_runs(first: Path, second: Path) -> None:
    """Weights, metrics but for the clock, figures and predictions are the same, bit for bit."""
    assert digest(first / "model/model.safetensors") == digest(second / "model/model.safetensors")
    assert without_clock(read_metrics(first / "metrics.jsonl")) == without_clock(read_metrics(second / "metrics.jsonl"))
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in (first, second))
    assert ours["status"] == theirs["status"] == "finished"
    assert (ours["tasks"], ours["score"]) == (theirs["tasks"], theirs["score"])
    assert ours["training"]["tokens"] == theirs["training"]["tokens"]
    for file in sorted((first / "predictions").iterdir()):
        assert digest(file) == digest(second / "predictions" / file.name)


@pytest.mark.parametrize(("seed", "weighting"), [(1, "equal"), (2, "pcgrad"), (3, "famo")])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_never_been(conf, tmp_path, seed, weighting):
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("kill_and_resume.py")),
            str(conf),
            str(tmp_path),
            str(seed),
            *OVERRIDES,
            f"weighting={weighting}",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "kills: 3" in done.stdout
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_leaves_a_run_that_resumes(conf, tmp_path, number):
    run, whole = tmp_path / "stopped", tmp_path / "whole"
    # No checkpoint but the one that the signal asks for.
    arguments = [*OVERRIDES, "trainer.checkpoint_every_steps=null", "trainer.epochs=40", "trainer.evaluate_every=240"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mtl_cli", "train", "--config-dir", str(conf), *arguments, f"hydra.run.dir={run}"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not read_metrics(run / "metrics.jsonl"):
        time.sleep(0.01)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"mtl train resume={run}" in message
    assert json.loads((run / "results.json").read_text())["status"] == "interrupted"
    assert [path.name.partition("-")[0] for path in (run / "checkpoints").iterdir()] == ["step"]
    assert _main(["train", f"resume={run}"]) == 0
    assert _main(["train", "--config-dir", str(conf), *arguments, f"hydra.run.dir={whole}"]) == 0
    assert_equal_runs(whole, run)


def test_a_checkpoint_holds_the_optimizer_and_the_generators(conf, tmp_path):
    run = tmp_path / "run"
    assert _main(["train", "--config-dir", str(conf), *OVERRIDES, "trainer.max_steps=3", f"hydra.run.dir={run}"]) == 0
    (folder,) = (run / "checkpoints").glob("step-*")
    names = load_file(folder / "training_state.safetensors").keys()
    assert any("exp_avg_sq" in name for name in names)
    assert "state.generators.torch" in names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume={run}"], "is finished; there is nothing to go on with"),
        (["resume={run}", "trainer.epochs=9"], "leave out trainer.epochs=9"),
        (["resume={run}", "-m"], "leave out -m"),
        (["resume={run}/checkpoints"], "is not the folder of a run"),
        (["resume={run}/nowhere"], "does not exist"),
    ],
)
def test_what_cannot_be_resumed_is_said(finished_run, arguments, message, capsys):
    assert _main(["train", *(argument.format(run=finished_run) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_another_process_trains_is_refused_and_left_as_it_is(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "status": "running"}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with RunFolder(run).in_use():
        assert _main(["train", f"resume={run}"]) == 2
    assert f"Another process trains the run in {run}" in " ".join(capsys.readouterr().err.split())
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == {path: content for path, content in before.items() if path.suffix != ".lock"}
