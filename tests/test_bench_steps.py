"""The arithmetic of the benchmarks and their step of rows; figures are measured, not tested."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from mtl_cli.errors import UserError

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def bench(script):
    return script("bench_steps")


@pytest.mark.parametrize("num_tasks", [1, 2, 4, 8, 16])
def test_a_step_holds_the_same_tokens_whatever_the_number_of_tasks(bench, num_tasks):
    step = bench.make_step([f"task{i}" for i in range(num_tasks)], 2048, torch.device("cpu"))
    assert len(step) == num_tasks
    assert sum(rows.num_tokens for rows in step.values()) == 2048
    assert all(rows.num_rows == 32 // num_tasks for rows in step.values())


def test_a_step_of_fewer_rows_than_tasks_is_refused(bench):
    with pytest.raises(UserError, match=r"512 tokens a step are 8 rows, .* 9 tasks; allowed: at least 576"):
        bench.make_step([f"task{i}" for i in range(9)], 512, torch.device("cpu"))


def test_ratios_are_taken_round_by_round(bench):
    # 2 / 1, 3 / 2, 8 / 2: the median is 2, while the ratio of the medians is 3 / 2.
    figures = bench.summary([(2.0, 1.0), (3.0, 1.0), (8.0, 1.0)], [(1.0, 1.0), (2.0, 2.0), (2.0, 4.0)])
    assert figures["ratio"] == 2.0
    assert figures["cpu_ratio"] == 0.5
    assert figures["seconds"] == 3.0


def test_a_busy_machine_is_refused(bench, monkeypatch):
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.0, 0.0, 0.0))  # work that has only just begun
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [90.0])
    with pytest.raises(SystemExit, match="the machine is busy"):
        bench.watch_load(force=False)
    assert bench.watch_load(force=True).load == 0.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_the_peak_is_that_of_the_process_and_not_of_the_one_that_started_it():
    program = (
        "import torch; from mtl_cli.training import peak_memory_bytes\nprint(peak_memory_bytes(torch.device('cpu')))"
    )
    before = torch.ones(2**28)  # a gigabyte, resident
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=SCRIPTS)
    assert 2**20 < int(done.stdout) < before.nbytes
