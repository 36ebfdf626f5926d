"""Every strategy on two processes that share a step's rows: both end with the gradients of the whole step.

Each has half of every task's rows, or one lacks the first task and the other the last.
"""

import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist
from gradients.steps import halves, run, step_of
from gradients.test_distributed import run_alone
from sharing.test_matrix import (
    NOT_MEANS,
    TASKS,
    cases,
    distance,
    draws_without_noise,
    even_step,
    kinds_apart,
    model_of,
    strategy_of,
    without_dropout,
)

from mtl_cli.weighting import Equal, PCGrad

# Under a weighting of gradients only these are tried with a process that lacks a task.
LOPSIDED_UNDER_PCGRAD = ("adapters", "cross_stitch", "grouped", "hierarchical", "moe", "ple")
CASES = [case for case in cases() if case.values[2] == "bert" and "bert" not in case.values[1].get("refused", {})]


def lopsided(step):
    """The first process lacks the last task, the second the first one."""
    first, second = halves(step)
    lowest, *_, highest = step
    return (
        {lowest: step[lowest], **{task: rows for task, rows in first.items() if task not in (lowest, highest)}},
        {**{task: rows for task, rows in second.items() if task not in (lowest, highest)}, highest: step[highest]},
    )


def check(name, variant, weighting, step, cut, in_training):
    part = cut(step)[dist.get_rank()]

    def one_step(run, rows):
        model = model_of(name, variant, "bert")
        model = without_dropout(model) if in_training else model.eval()
        with draws_without_noise():
            _, result, gradients = run(model, weighting(), [[rows]])
        return gradients, {name: float(value) for name, value in result.penalties.items()}

    (wanted, costs), (found, costs_of_parts) = one_step(run_alone, step), one_step(run, part)
    off = distance(found, wanted)
    how = f"{name}, {weighting.__name__}, {cut.__name__}"
    assert off < 1e-4, f"{how}: off by {off}"
    assert kinds_apart(found, wanted) == {}, how
    assert costs_of_parts == pytest.approx(costs, rel=1e-4), f"{how}: {costs_of_parts} instead of {costs}"


def check_all():
    for case in CASES:
        name, variant, family = case.values
        for weighting in (Equal, PCGrad):
            if weighting is PCGrad and not strategy_of(name, variant, family).shares_parameters():
                continue
            cuts = [halves, lopsided] if weighting is Equal or name in LOPSIDED_UNDER_PCGRAD else [halves]
            for cut in cuts:
                check(name, variant, weighting, step_of(TASKS), cut, in_training=False)
                if "costs_in_training" in variant:
                    check(name, variant, weighting, even_step(alike=name in NOT_MEANS), cut, in_training=True)
        print("passed", case.id, flush=True)


def test_two_processes_give_the_gradients_of_one():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                 "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
        assert [line for line in output.splitlines() if line.startswith("passed ")] == [
            f"passed {case.id}" for case in CASES
        ]


if __name__ == "__main__":
    dist.init_process_group("gloo")
    check_all()
    dist.destroy_process_group()
