"""The benchmark runs with a tiny encoder; its figures are measured, not tested."""

import importlib
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from mtl_cli.sharing import HardSharing

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def bench(tiny_benchmark):
    return tiny_benchmark("bench_weighting")


ARGUMENTS = ["--tokens", "512", "--rounds", "2", "--device", "cpu", "--force"]


def test_every_method_that_is_asked_for_has_a_row_against_equal(bench, tmp_path, capsys):
    # 512 tokens are 8 rows: of two tasks 4 each, of three too few to be cut in three.
    methods = ["uncertainty", "pcgrad", "pcgrad/per_task", "moco", "excess_mtl", "graddrop", "famo"]
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    asked = ["--methods", *methods, "modo", "trimmed_mean", "--tasks", "2", "3", "--torchjd"]
    bench.main([*ARGUMENTS, *files, *asked])
    figures = json.loads((tmp_path / "a.json").read_text())
    everywhere = {"equal", *methods, "torchjd's engine"}
    assert set(figures["tasks"]["2"]) == {*everywhere, "modo"}
    assert set(figures["tasks"]["3"]) == {*everywhere, "trimmed_mean"}
    for found in figures["tasks"].values():
        equal = found["equal"]
        assert [equal[key] for key in ("ratio", "ratio_low", "ratio_high", "cpu_ratio")] == [1.0] * 4
        assert all(
            row["seconds"] > 0 and row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in found.values()
        )
    assert figures["memory"] == {}

    printed = capsys.readouterr().out
    assert "left out: trimmed_mean with 2 tasks (weighting.num_trimmed: found 1 with 2 tasks" in printed
    assert "left out: modo with 3 tasks (fewer than 3 rows of a task)" in printed
    assert "K = 2, minilm, 512 tokens a step, cpu" in printed
    lines = [line.split(" | ") for line in (tmp_path / "a.md").read_text().splitlines()[2:]]
    assert {line[0].removeprefix("| ") for line in lines} == {*everywhere, "modo", "trimmed_mean"}
    assert ["| equal", "1.00 (1.00)", "1.00 (1.00) |"] in lines


def test_a_step_trains_the_model_and_is_counted_by_the_method(bench, monkeypatch):
    weightings = {}
    make = bench.make_weighting
    monkeypatch.setattr(bench, "make_weighting", lambda name: weightings.setdefault(name, make(name)))
    run = bench.Bench("minilm", HardSharing(), 2, 512, bench.choose_device("cpu"))
    for name, step in bench.make_steps(run, ["equal", "pcgrad", "modo", "famo"]).items():
        before = [parameter.detach().clone() for parameter in run.parameters]
        step()
        step()
        assert any(not torch.equal(a, b) for a, b in zip(run.parameters, before, strict=True))
        assert weightings[name].num_steps == 2


def test_ratios_are_to_equals_step_of_the_same_round_and_the_first_round_does_not_count(bench, monkeypatch):
    # equal, then pcgrad, in each of three rounds; of those that count, ratios 3 / 1 and 10 / 2.
    seconds = iter([(1.0, 1.0), (100.0, 1.0), (1.0, 1.0), (3.0, 1.0), (2.0, 1.0), (10.0, 1.0)])
    monkeypatch.setattr(bench, "timed", lambda step, device: next(seconds))
    found = bench.measure(bench.parse([*ARGUMENTS, "--methods", "pcgrad"]), 2, bench.choose_device("cpu"))
    assert list(found) == ["equal", "pcgrad"]
    assert found["equal"]["ratio"] == 1.0
    assert found["pcgrad"]["ratio"] == 4.0
    assert (found["equal"]["seconds"], found["pcgrad"]["seconds"]) == (1.5, 6.5)


def test_equal_is_measured_first_whatever_is_asked_for(bench):
    assert bench.parse(["--methods", "pcgrad", "equal"]).methods == ["equal", "pcgrad"]
    shipped = {path.stem for path in (SCRIPTS.parent / "conf/weighting").glob("*.yaml")}
    assert set(bench.parse([]).methods) == shipped
    assert bench.parse([]).methods[0] == "equal"
    assert bench.parse([]).memory is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_peak_memory_is_measured_of_the_methods_that_are_named(bench, monkeypatch, tmp_path, capsys):
    measured = []

    def run_here(command, **options):
        """What the process of its own would do."""
        assert command[:2] == [sys.executable, bench.__file__]
        measured.append(command[command.index("--methods") + 1])
        with redirect_stdout(io.StringIO()) as printed:
            bench.main(command[2:])
        return subprocess.CompletedProcess(command, 0, printed.getvalue())

    monkeypatch.setattr(bench.subprocess, "run", run_here)
    asked = ["--methods", "pcgrad", "--tasks", "2", "--memory", "pcgrad", "moco", "--json", str(tmp_path / "a.json")]
    bench.main([*ARGUMENTS, *asked])
    assert measured == ["equal", "pcgrad", "moco"]
    found = json.loads((tmp_path / "a.json").read_text())["memory"]["2"]
    assert list(found) == ["equal_bytes", "pcgrad", "moco"]
    assert found["equal_bytes"] > 2**20
    assert found["pcgrad"] >= 1.0  # the peak of one process, which only grows
    assert "peak memory at K = 2: equal" in capsys.readouterr().out


def test_rows_are_cut_into_parts_that_together_are_the_step(bench):
    step = importlib.import_module("bench_steps").make_step(["a", "b"], 1024, torch.device("cpu"))
    parts = [bench.cut_rows(step, place, 3) for place in range(3)]
    assert sum(part["a"].num_tokens for part in parts) == step["a"].num_tokens
    assert sorted(row for part in parts for row in part["b"].rows_B) == list(range(step["b"].num_rows))


def test_the_table_has_a_row_a_method_and_a_column_a_number_of_tasks(bench):
    row = {"ratio": 1.0, "cpu_ratio": 1.0}
    figures = {"tasks": {"2": {"equal": row}, "16": {"equal": row, "pcgrad": {"ratio": 1.5, "cpu_ratio": 1.4}}}}
    assert bench.to_markdown(figures).splitlines() == [
        "| weighting | K = 2 | K = 16 |",
        "|---|---|---|",
        "| equal | 1.00 (1.00) | 1.00 (1.00) |",
        "| pcgrad | - | 1.50 (1.40) |",
    ]


def test_an_engine_can_be_chosen_behind_a_methods_name(bench):
    assert bench.make_weighting("pcgrad/per_task").engine == "per_task"
    assert bench.make_weighting("pcgrad").engine == "auto"
