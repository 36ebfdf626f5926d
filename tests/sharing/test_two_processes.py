"""Every strategy on two processes, each with half of a step's rows: both end with the gradients of the whole step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist
from gradients.steps import CPU, gradients_of, halves, step_of
from gradients.test_distributed import run_alone
from sharing.test_matrix import TASKS, cases, distance, model_of, strategy_of

from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.weighting import Equal, PCGrad

CASES = [case for case in cases() if case.values[2] == "bert" and "bert" not in case.values[1].get("refused", {})]


def check(name, variant, weighting, whole_step, part):
    """In evaluation mode: auxiliary losses depend on how a step is cut."""
    wanted = run_alone(model_of(name, variant, "bert").eval(), weighting(), [[whole_step]])[2]
    model, started = model_of(name, variant, "bert").eval(), weighting()
    started.start(list(TASKS))
    GradientEngine(model, started, Losses(model, "fp32", CPU)).step([[part]])
    found = gradients_of(model)
    off = distance(found, wanted)
    assert off < 1e-4, f"{name}: off by {off}"


def check_all():
    step = step_of(TASKS)
    part = halves(step)[dist.get_rank()]
    for case in CASES:
        name, variant, family = case.values
        for weighting in (Equal, PCGrad):
            if weighting is PCGrad and not strategy_of(name, variant, family).shares_parameters():
                continue
            check(name, variant, weighting, step, part)
        print("passed", case.id, flush=True)


def test_two_processes_give_the_gradients_of_one():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                 "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
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
