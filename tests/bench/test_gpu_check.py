"""The GPU check as a whole: what it runs and what it makes of it; its benchmarks are those of `mtl bench`."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from compose import composed

from mtl_cli.check_config import check_config
from mtl_cli.encoders import Layout


@pytest.fixture(scope="module")
def gpu_check(script):
    return script("gpu_check")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_refused(gpu_check, tmp_path, capsys):
    assert gpu_check.main([str(tmp_path / "a.json")]) == 2
    assert "sees no GPU. Run it on a machine with one, or rehearse with --cpu" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_the_rehearsal_runs_every_check(gpu_check, tmp_path, capsys):
    assert gpu_check.main(["--cpu", "--no-benchmarks", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [check["passed"] for check in found["checks"]] == [True] * 11
    assert all(check["error"] <= check["tolerance"] for check in found["checks"])
    assert capsys.readouterr().out.count("passed: ") == 11


def test_the_trainer_is_compared_at_its_own_batch_size(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "write_bert_base", lambda folder: None)
    for cpu in (True, False):
        config = composed(*gpu_check.benchmarks(tmp_path, cpu=cpu)["trainer"], command="bench")
        assert config["sampler"]["_target_"] == "mtl_cli.sampling.Proportional"
        assert config["sampler"]["batch_size"] == 32


def test_a_wrong_kernel_and_one_that_raises_fail_and_the_others_run(gpu_check, script, tmp_path, monkeypatch, capsys):
    checks = script("gpu_correctness")

    def doubled(device):
        return checks.Check("doubled", checks.relative(torch.tensor([2.0]), torch.tensor([1.0])), 0.5)

    def raising(device):
        """Raises."""
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(checks, "CHECKS", (raising, doubled, checks.check_packed))
    assert gpu_check.main(["--cpu", "--no-benchmarks", str(tmp_path / "a.json")]) == 1
    found = json.loads((tmp_path / "a.json").read_text())["checks"]
    assert [check["passed"] for check in found] == [False, False, True]
    assert found[0]["note"].startswith("RuntimeError: no kernel image (test_gpu_check.py:")
    assert found[1]["error"] == 1.0
    assert "failed: Raises, doubled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["step, padded in one pass", "step, compiled", "trainer", "tasks", "loop", "startup", "step"]
)
def test_the_words_of_the_rehearsal_compose(gpu_check, name, tmp_path):
    config = composed(*gpu_check.benchmarks(tmp_path, cpu=True)[name], command="bench")
    check_config({key: value for key, value in config.items() if key not in ("of", "bench")})


def test_the_words_for_a_gpu_compose(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "write_bert_base", lambda folder: None)
    for words in gpu_check.benchmarks(tmp_path, cpu=False).values():
        config = composed(*words, command="bench")
        check_config({key: value for key, value in config.items() if key not in ("of", "bench")})


def test_aims_follow_from_the_figures(gpu_check):
    def step(tokens, share, padding=0.0):
        ours = {"tokens_per_second": {"median": tokens}, "ceiling_share": {"median": share}, "padding_linear": padding}
        return {"figures": {"variants": {"ours": ours}}}

    # Half of the padded slots are padding: unpadded at least 0.9 / 0.5 = 1.8 times as fast.
    found = {"step, BERT-base": step(190.0, 0.31), "step, BERT-base, padded in one pass": step(100.0, 0.2, 0.5)}
    unpadded = "step, BERT-base: at least 0.9 / (1 - padded fraction) times as fast as padded in one pass"
    found["trainer"] = {"aims": {"1.6 x B2": False}}
    aims = gpu_check.aims_of(found)
    assert aims == {
        "step, BERT-base: at least 30% of the matrix-product rate": True,
        "step, MiniLM: at least 15% of the matrix-product rate": None,
        f"{unpadded} (1.90 measured, 1.80 aimed at)": True,
        "trainer: 1.6 x B2": False,
    }
    found["step, BERT-base"] = step(179.0, 0.29)
    assert list(gpu_check.aims_of(found).values())[::2] == [False, False]
    for tokens, fast in ((206.0, True), (205.0, False)):  # 1.15 * 179 = 205.85
        found["step, BERT-base, compiled"] = step(tokens, 0.3)
        (aim,) = (aim for aim in gpu_check.aims_of(found) if "compiled" in aim)
        assert aim.startswith("step, BERT-base: compiled at least 1.15 times as fast (1.15 measured)")
        assert gpu_check.aims_of(found)[aim] is fast
    found["step, BERT-base, compiled"] = {"failed": "exit status 1"}
    assert gpu_check.aims_of(found)["step, BERT-base: compiled at least 1.15 times as fast"] is None


def test_the_padded_side_takes_all_rows_of_a_step_in_one_pass(script):
    rows = Layout.from_lengths({"a": np.array([3, 100] * 50), "b": np.array([7])}, packed=False)
    cpu = torch.device("cpu")
    assert len(rows.groups_for_passes(cpu)) > 1
    with script("bench_one_pass").one_pass():
        (only,) = rows.groups_for_passes(cpu)
    assert only.layout is rows
    assert torch.equal(only.tokens, torch.arange(rows.num_tokens))
    assert len(rows.groups_for_passes(cpu)) > 1


def test_only_benchmarks_of_one_pass_are_run_by_its_script(gpu_check, tmp_path, monkeypatch):
    names = ["step", "step, padded in one pass"]
    monkeypatch.setattr(gpu_check, "benchmarks", lambda folder, cpu: {name: ["x=1"] for name in names})
    programs = []

    def run(command, **settings):
        programs.append(command[1:-3])
        return subprocess.CompletedProcess(command, 1, stdout="")

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    gpu_check.run_benchmarks(tmp_path, True, gpu_check.time.monotonic() + 100, lambda name, report: None)
    assert programs[0] == ["-m", "mtl_cli", "bench"]
    assert [Path(word).name for word in programs[1]] == ["bench_one_pass.py"]
    assert Path(programs[1][0]).exists()


def test_benchmarks_that_fail_or_have_no_time_left_are_said_so(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "benchmarks", lambda folder, cpu: {"wrong": ["--nonsense"], "late": []})
    clock = iter([0.0, 1000.0])
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: next(clock))
    told = {}
    gpu_check.run_benchmarks(tmp_path, True, 100.0, told.__setitem__)
    assert told == {"wrong": {"failed": "exit status 2"}, "late": {"skipped": "no time left"}}
