"""Two processes against one: the same parameters, metrics of each row once, stops, ends and resuming."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_project
import torch
from distributed.rank_checks import MIXTURES, SAME
from safetensors.torch import load_file

from mtl_cli.tracking import read_metrics, without_clock

# Longer than the runs' own limits, which say what hung.
pytestmark = pytest.mark.timeout(650)

RUN = ["task=[reviews,pairs,names]", "trainer.max_steps=36", "trainer.evaluate_every=18"]
RUN += ["trainer.checkpoint_every_steps=7", "trainer.log_every_steps=2"]

IN_PARTS = [("fsdp", "uncertainty"), ("fsdp_famo", "famo"), ("fsdp_padded", "uncertainty")]
"""Runs of an encoder in parts, and the checks of a whole one that they are to equal."""


class Runs:
    """What came of the runs of `fork_ranks.py`."""

    def __init__(self, folder, results):
        self.folder = folder
        self.results = results

    def codes(self, name):
        return self.results[name]["codes"]

    def said(self, name, rank=0):
        return Path(f"{self.folder}/{name}.out.{rank}").read_text()

    def finished(self, name):
        """The folder of a run that went well."""
        assert set(self.codes(name)) == {0}, "\n".join(self.said(name, rank) for rank in range(len(self.codes(name))))
        return self.folder / name

    def found(self, check):
        """What one process and two processes left of a check: weights, and the rest."""
        return [
            (load_file(folder / f"{check}.safetensors"), json.loads((folder / f"{check}.json").read_text()))
            for folder in (self.finished("one"), self.finished("two"))
        ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    conf = tiny_project.write(folder, num_train=26)
    plan = []

    def add(name, ranks, *overrides, resume=None, **signals):
        run = folder / (resume or name)
        arguments = ["train", "--config-dir", str(conf), *tiny_project.TINY, *RUN, *overrides, f"hydra.run.dir={run}"]
        arguments = ["train", f"resume={run}"] if resume else arguments
        signals |= {"file": str(run / "metrics.jsonl")} if signals else {}
        plan.append({"name": name, "ranks": ranks, "arguments": arguments, "files": f"{folder}/{name}.out", **signals})

    for name, ranks in (("one", 1), ("two", 2)):
        plan.append({"name": name, "ranks": ranks, "checks": str(folder / name), "files": f"{folder}/{name}.out"})
    mixtures = {"name": "mixtures", "ranks": 2, "mixtures": str(folder / "mixtures")}
    plan.append({**mixtures, "files": f"{folder}/mixtures.out"})
    plan.append({"name": "fails", "ranks": 2, "fails": True, "files": f"{folder}/fails.out"})
    add("stopped", 2, signal="SIGTERM", to=1, after=4)
    add("stopped-resumed", 2, resume="stopped")
    add("killed", 2, signal="SIGKILL", to=1, after=4)
    add("killed-resumed", 1, resume="killed")
    add("main-killed", 3, signal="SIGKILL", to=0, after=4)
    add("main-killed-resumed", 2, resume="main-killed")
    add("wrong", 2, "optimizer.lr=fast")
    (folder / "plan.json").write_text(json.dumps(plan))
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", f"{here}/fork_ranks.py", str(folder / "plan.json"), str(folder / "done.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "done.json").read_text())
    results = {run["name"]: result for run, result in zip(plan, found, strict=True)}
    # As a user types it.
    command = [
        *("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "mtl_cli", "train", "--config-dir", str(conf)),
        *(*tiny_project.TINY, *RUN, f"hydra.run.dir={folder}/whole"),
    ]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    typed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    (folder / "whole.out.0").write_text(typed.stdout + typed.stderr)
    return Runs(folder, {**results, "whole": {"codes": [typed.returncode], "seconds": 0.0}})


def status(run):
    return json.loads((run / "results.json").read_text())


@pytest.mark.parametrize("name", list(SAME))
def test_parameters_after_20_steps_are_those_of_one_process(runs, name):
    (expected, one), (found, two) = runs.found(name)
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
    assert (two["tokens"], two["passes"]) == (one["tokens"], one["passes"])
    for task, metrics in one["metrics"].items():
        assert two["metrics"][task] == pytest.approx(metrics, abs=1e-4)


@pytest.mark.parametrize("name", list(SAME))
def test_losses_weights_and_norms_are_logged_as_by_one_process(runs, name):
    one, two = (read_metrics(runs.finished(who) / name / "metrics.jsonl") for who in ("one", "two"))
    for expected, found in zip(without_clock(one), without_clock(two), strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-4, nan_ok=True)


def test_gates_are_counted_over_the_rows_of_all_processes(runs):
    (_, one), (_, two) = runs.found("mmoe")
    assert list(one["learnt"]) == ["gates_block_0", "gates_block_1", "gate_entropy"]
    assert two["learnt"].keys() == one["learnt"].keys()
    for key, expected in one["learnt"].items():
        found = two["learnt"][key]
        assert (found["rows"], found["columns"]) == (expected["rows"], expected["columns"])
        for values, wanted in zip(found["values"], expected["values"], strict=True):
            assert values == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize(("name", "whole"), IN_PARTS)
def test_an_encoder_in_parts_learns_what_a_whole_one_does(runs, name, whole):
    (expected, _), _ = runs.found(whole)
    found = load_file(runs.finished("two") / f"{name}.safetensors")
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "whole"), IN_PARTS)
def test_an_encoder_in_parts_has_the_losses_and_gradients_of_a_whole_one(runs, name, whole):
    folder = runs.finished("two") / ("fsdp_whole" if name == "fsdp" else name)
    one, two = (read_metrics(run / "metrics.jsonl") for run in (runs.folder / "one" / whole, folder))
    assert any("train/grad_norm" in record for record in one)
    for expected, found in zip(without_clock(one), without_clock(two), strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_a_run_of_one_process_goes_on_with_two_as_with_one(runs, parallelism):
    (expected, one), _ = runs.found("uncertainty")
    run = runs.finished("two") / f"more_{parallelism}"
    assert "the checkpoint was written by 1 process, and 2 go on with it" in runs.said("two")
    found, rest = load_file(f"{run}.safetensors"), json.loads(Path(f"{run}.json").read_text())
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
    assert (rest["tokens"], rest["passes"]) == (one["tokens"], one["passes"])
    alone, together = (read_metrics(folder / "metrics.jsonl") for folder in (runs.folder / "one/uncertainty", run))
    assert [record["step"] for record in together] == [record["step"] for record in alone]


def test_200_random_mixtures_with_uneven_ends_finish(runs):
    found = json.loads((runs.finished("mixtures") / "mixtures.json").read_text())
    assert [run["seed"] for run in found] == list(range(200))
    for run in found:
        assert run["steps"] >= run["steps_per_epoch"], run
        assert len(run["digests"]) == 2, run
        assert len(set(run["digests"])) == 1, run
    # The draws reach what they are for: rows that two ranks cannot share, several passes, each sampler, micro-batches.
    assert sum(1 in run["rows"].values() for run in found) > 50
    assert sum(sum(run["rows"].values()) == 1 for run in found) > 1
    assert sum(max(run["passes"].values()) > 2 for run in found) > 50
    assert len({run["sampler"]["sampler"] for run in found}) == 6
    assert {run["settings"]["num_micro_batches"] for run in found} == {1, 2, 3}
    assert {len(run["rows"]) for run in found} == {1, 2, 3, 4}
    assert len({json.dumps([run["rows"], run["sampler"], run["settings"]]) for run in found}) > 180


@pytest.mark.parametrize("name", list(MIXTURES))
def test_long_mixtures_with_uneven_ends_finish(runs, name):
    found = json.loads((runs.finished("two") / f"{name}.json").read_text())
    assert min(found["passes"].values()) > 1


def test_only_rank_0_speaks_and_writes(runs):
    run = runs.finished("whole")
    assert runs.said("whole").count("validation at step 18") == 1
    assert runs.said("stopped", 1) == ""
    assert not list(run.glob("log.rank-*"))
    assert json.loads((run / "environment.json").read_text())["num_processes"] == 2
    for task in ("reviews", "pairs", "names"):
        lines = (run / f"predictions/{task}.validation.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(16))


def test_a_signal_to_one_rank_stops_all_at_the_same_step(runs):
    assert runs.codes("stopped") == [128 + signal.SIGTERM] * 2, runs.said("stopped")
    assert "interrupted; go on with" in runs.said("stopped")


def test_a_stopped_run_goes_on_bit_for_bit_with_as_many_processes(runs):
    whole, stopped = runs.finished("whole"), runs.folder / "stopped"
    assert runs.codes("stopped-resumed") == [0, 0], runs.said("stopped-resumed")
    weights = [(run / "model/model.safetensors").read_bytes() for run in (whole, stopped)]
    assert weights[0] == weights[1]
    records = [without_clock(read_metrics(run / "metrics.jsonl")) for run in (whole, stopped)]
    assert records[0] == records[1]


def test_a_cluster_s_sigterms_under_torchrun_stop_once_and_lose_nothing(runs):
    """A job's processes get one each, workers another one from torchrun, and here a third."""
    run = runs.folder / "twice"
    command = [
        *(str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2", "-m", "mtl_cli"),
        *("train", "--config-dir", str(runs.folder / "conf"), *tiny_project.TINY, *RUN, "trainer.max_steps=20000"),
        *("trainer.checkpoint_every_steps=10000", "trainer.evaluate_every=10000", f"hydra.run.dir={run}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
    with (runs.folder / "twice.out.0").open("w") as output:
        launcher = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_bytes().splitlines()) < 3:
            assert launcher.poll() is None, runs.said("twice")
            assert time.monotonic() < until, runs.said("twice")
            time.sleep(0.02)
        workers = psutil.Process(launcher.pid).children()
        os.killpg(launcher.pid, signal.SIGTERM)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGTERM)
        launcher.wait(timeout=60)
        assert psutil.wait_procs(workers, timeout=10)[1] == []
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    said = runs.said("twice")
    assert "interrupted; go on with" in said, said
    assert status(run)["status"] == "interrupted"
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    state = json.loads((checkpoint / "state.json").read_text())
    assert (checkpoint / "manifest.json").exists()
    assert "generators_of_others" in json.dumps(state)  # rank 1 was there to give its own
    assert "Traceback" not in said.partition("interrupted; go on with")[0], said


def test_accelerate_launch_starts_a_run(runs):
    pytest.importorskip("accelerate")
    run = runs.folder / "accelerated"
    command = [
        *(str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0", "-m", "mtl_cli", "train", "--config-dir", str(runs.folder / "conf")),
        *(*tiny_project.TINY, "task=[reviews,names]", "trainer.max_steps=2", f"hydra.run.dir={run}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
    environment["HF_HOME"] = str(runs.folder / "no-accelerate-configuration")
    typed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert (typed.stdout + typed.stderr).count("2 steps, 4 an epoch, on 2 processes, cpu in fp32") == 1
    assert status(run)["status"] == "finished"


def test_a_killed_rank_ends_the_other_and_says_so(runs):
    assert runs.codes("killed") == [2, -signal.SIGKILL]
    assert runs.results["killed"]["seconds"] < 60
    assert "error: rank 1 of 2: it has ended without a word" in runs.said("killed")


def test_where_rank_0_is_killed_the_lowest_rank_left_says_so(runs):
    assert runs.codes("main-killed") == [-signal.SIGKILL, 2, 2]
    assert runs.results["main-killed"]["seconds"] < 60
    said = runs.said("main-killed", 1)
    assert said == "rank 1: error: rank 0 of 3: it has ended without a word: was it killed, by lack of memory say?\n"
    assert runs.said("main-killed", 2) == ""


def test_a_run_whose_rank_0_was_killed_goes_on(runs):
    assert runs.codes("main-killed-resumed") == [0, 0], runs.said("main-killed-resumed")
    assert "the checkpoint was written by 3 processes, and 2 go on with it" in runs.said("main-killed-resumed")
    assert status(runs.folder / "main-killed")["status"] == "finished"


def test_an_error_on_one_rank_ends_the_other_with_its_reason(runs):
    assert runs.codes("fails") == [0, 0], runs.said("fails") + runs.said("fails", 1)


def test_a_run_goes_on_with_another_number_of_processes(runs):
    assert runs.codes("killed-resumed") == [0], runs.said("killed-resumed")
    said = runs.said("killed-resumed")
    assert "the checkpoint was written by 2 processes, and 1 process goes on with it" in said
    assert "resumed at step" in said
    assert status(runs.folder / "killed")["status"] == "finished"


def test_a_mistake_is_shown_once(runs):
    assert runs.codes("wrong") == [2, 2]
    assert "optimizer.lr" in runs.said("wrong")
    assert runs.said("wrong", 1) == ""
    assert not (runs.folder / "wrong").exists()
