"""The benchmark runs with a tiny encoder; its figures are measured, not tested."""

import json
from pathlib import Path

import pytest

from mtl_cli.sharing import HardSharing

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def bench(tiny_benchmark):
    return tiny_benchmark("bench_sharing")


ARGUMENTS = ["--tasks", "2", "3", "--tokens", "512", "--rounds", "2", "--device", "cpu", "--force", "--no-memory"]


def test_it_prints_a_row_a_strategy_and_writes_the_figures(bench, tmp_path, capsys):
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    bench.main([*ARGUMENTS, *files, "--strategies", "hard", "hard:num_shared_layers=1"])
    printed = capsys.readouterr().out
    for text in ("K = 2, minilm, 512 tokens a step, 2 rounds, cpu", "K = 3,", "x floor", "task-specific"):
        assert text in printed
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["left_out"] == {"2": {}, "3": {}}
    for num_tasks in ("2", "3"):
        hard, partly = (figures["tasks"][num_tasks][name] for name in ("hard", "hard:num_shared_layers=1"))
        assert hard["floor"] == 1.0
        # A block of one's own for each task: more parameters and, but for how rows are grouped for attention, the same
        # products.
        assert partly["floor"] == pytest.approx(1.0, abs=0.02)
        assert partly["ratio_to_floor"] == pytest.approx(partly["ratio"] / partly["floor"])
        block = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
        more = (int(num_tasks) - 1) * block
        assert partly["parameters"]["total"] - hard["parameters"]["total"] == more
        assert hard["parameters"]["shared"] - partly["parameters"]["shared"] == block
        assert partly["parameters"]["trained"] == partly["parameters"]["total"]
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| hard")].count("hard") == 2
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_strategy_that_does_not_build_is_left_out_with_its_reason(bench, tmp_path, capsys):
    arguments = ["--strategies", "hard:num_shared_layers=9", "nothing", "hard", "--json", str(tmp_path / "a.json")]
    bench.main([*ARGUMENTS[:1], "2", *ARGUMENTS[3:], *arguments])
    printed = capsys.readouterr().out
    assert "left out: hard:num_shared_layers=9 with 2 tasks (UserError: sharing.num_shared_layers" in printed
    assert "left out: nothing with 2 tasks (FileNotFoundError" in printed
    figures = json.loads((tmp_path / "a.json").read_text())
    assert list(figures["tasks"]["2"]) == ["hard"]
    assert list(figures["left_out"]["2"]) == ["hard:num_shared_layers=9", "nothing"]


def test_the_floor_counts_operations_against_hard_sharing(bench, monkeypatch):
    counted = iter([300, 200])
    monkeypatch.setattr(bench, "operations_of", lambda model, step: next(counted))
    args = bench.parse([*ARGUMENTS, "--strategies", "hard"])
    device = bench.choose_device("cpu")
    found = bench.measure(args, "hard", bench.Bench("minilm", HardSharing(), 2, 512, device), device)
    assert found["floor"] == 1.5
    assert found["ratio_to_floor"] == pytest.approx(found["ratio"] / 1.5)


def test_the_two_take_turns_in_beginning_a_round_and_the_first_round_does_not_count(bench, monkeypatch):
    order, sides = [], {}

    def timed(step, device):
        name = sides.setdefault(id(step), "hard" if not sides else "strategy")
        order.append(name)
        return {"hard": (1.0, 1.0), "strategy": (100.0 if len(order) <= 2 else 3.0, 1.0)}[name]

    monkeypatch.setattr(bench, "timed", timed)
    args = bench.parse([*ARGUMENTS, "--strategies", "hard"])
    device = bench.choose_device("cpu")
    found = bench.measure(args, "hard", bench.Bench("minilm", HardSharing(), 2, 512, device), device)
    assert order == ["hard", "strategy", "strategy", "hard", "hard", "strategy"]
    assert (found["ratio_low"], found["ratio"], found["ratio_high"]) == (3.0, 3.0, 3.0)


def test_strategies_that_name_tasks_are_told_them(bench):
    names = [f"task{i}" for i in range(5)]
    halves = [["task0", "task1", "task2"], ["task3", "task4"]]
    assert bench.make_sharing("hierarchical", names).order == halves
    assert bench.make_sharing("grouped:num_shared_layers=1", names).groups == halves
    assert bench.make_sharing("grouped", names[:1]).groups == [["task0"]]


def test_the_steps_are_those_of_a_run_whose_warm_ups_are_over(bench):
    strategy = bench.make_sharing("adashare", ["task0", "task1"])
    made = bench.Bench("minilm", strategy, 2, 512, bench.choose_device("cpu"))
    bench.make_step(made)()
    assert set(strategy.penalties(made.model)) == {"sparsity", "sharing"}  # none before policies are learnt


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_peak_memory_is_that_of_a_few_steps(bench):
    args = bench.parse([*ARGUMENTS[:1], "2", *ARGUMENTS[3:], "--strategies", "hard"])
    assert bench.peak_bytes_of_steps(args, bench.choose_device("cpu")) > 2**20


def test_memory_is_given_against_hard_sharings(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "peak_memory", lambda args, name, num_tasks: {"hard": 200, "lora": 300}.get(name))
    figures = {"hard": {}, "lora": {}, "broken": {}}
    bench.add_memory(None, figures, 2)
    assert [row["memory_ratio"] for row in figures.values()] == [1.0, 1.5, None]


def test_all_strategies_are_measured_unless_some_are_named(bench):
    shipped = {path.stem for path in (SCRIPTS.parent / "conf/sharing").glob("*.yaml")}
    assert set(bench.parse([]).strategies) == shipped
    assert bench.parse([]).rounds == 7
    assert bench.parse([]).tasks == [2, 4, 8]
