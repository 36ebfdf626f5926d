"""Two processes, each with half of a step's rows: both end with the gradients of the whole step."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from gradients.steps import (
    AverageProbe,
    LargestProbe,
    LossProbe,
    Probe,
    ThreeBatchProbe,
    gramian_weights,
    halves,
    model_of,
    offset_gramian,
    reference,
    relative_error,
    run,
    step_of,
)

STEP = step_of()


def part_of_rank(step):
    return halves(step)[dist.get_rank()]


def check_probe(**settings):
    model = model_of()
    expected = reference(model, STEP)
    _, result, found = run(model, Probe(**settings), [[part_of_rank(STEP)]])
    weights = gramian_weights(expected.gramian())
    assert torch.stack(list(result.weights.values())) == pytest.approx(weights, rel=1e-3)
    assert relative_error(found, {**expected.combined(weights), **expected.own}) < 1e-5
    for task, loss in zip(STEP, expected.losses, strict=False):
        assert float(result.losses[task]) == pytest.approx(float(loss), rel=1e-4)


def segmented():
    check_probe(engine="segmented")


def per_task():
    check_probe(engine="per_task")


def representation():
    model, whole = model_of(), model_of()
    _, expected, wanted = run_alone(whole, Probe(scope="representation"), [[STEP]])
    _, result, found = run(model, Probe(scope="representation"), [[part_of_rank(STEP)]])
    assert list(map(float, result.weights.values())) == pytest.approx(list(map(float, expected.weights.values())), 1e-3)
    assert relative_error(found, {name: g.double() for name, g in wanted.items()}) < 1e-5


def representation_in_warm_up():
    model = model_of()
    expected = reference(model, STEP)
    gramian = offset_gramian(model, STEP, lambda m: m.encoder)
    # The last step has rows in one process alone.
    for mine in (part_of_rank(STEP), {} if dist.get_rank() else STEP):
        _, result, found = run(model_of(), Probe(scope="representation", warmup_steps=1), [[mine]])
        assert result.conflict.norms_K == pytest.approx(gramian.diagonal().sqrt(), rel=1e-4)
        ones = torch.ones(4, dtype=torch.float64)
        assert relative_error(found, {**expected.combined(ones), **expected.own}) < 1e-5


def run_alone(model, weighting, parts):
    """As one process would: sums over processes left out."""
    alone = {
        "is_distributed": lambda: False,
        "sum_over_ranks": lambda tensor: tensor,
        "sum_gradients_over_ranks": lambda parameters: None,
    }
    modules = [module for name, module in sys.modules.items() if name.startswith("mtl_cli.gradients.")]
    kept = {(m, name): getattr(m, name) for m in modules for name in alone if hasattr(m, name)}
    for module, name in kept:
        setattr(module, name, alone[name])
    try:
        return run(model, weighting, parts)
    finally:
        for (module, name), value in kept.items():
            setattr(module, name, value)


def compare_with_one_process(weighting, seeds=(0,)):
    steps = [step_of(seed=seed) for seed in seeds]
    _, expected, wanted = run_alone(model_of(), weighting, [[step] for step in steps])
    _, result, found = run(model_of(), weighting, [[part_of_rank(step)] for step in steps])
    assert relative_error(found, {name: g.double() for name, g in wanted.items()}) < 1e-5
    for task in STEP:
        assert float(result.losses[task]) == pytest.approx(float(expected.losses[task]), rel=1e-4)


def weighting_of_losses():
    compare_with_one_process(LossProbe())


def tracked_weighting_of_losses():
    compare_with_one_process(LossProbe(track_conflict_every=1))


def moving_average():
    compare_with_one_process(AverageProbe())


def coordinates():
    compare_with_one_process(LargestProbe())


def three_batches():
    compare_with_one_process(ThreeBatchProbe(), seeds=(0, 10, 20))


def grouped():
    compare_with_one_process(Probe(grouping="block"))


def a_task_that_one_process_lacks():
    model = model_of()
    expected = reference(model, STEP)
    first, second = halves(STEP)
    whole = {**first, "tags": STEP["tags"]}, {task: rows for task, rows in second.items() if task != "tags"}
    of_shared, of_offset = expected.gramian(), offset_gramian(model, STEP, lambda m: m.encoder)
    for settings, gramian in (
        ({}, of_shared),
        ({"engine": "per_task"}, of_shared),
        ({"scope": "representation"}, of_offset),
    ):
        _, result, found = run(model_of(), Probe(**settings), [[whole[dist.get_rank()]]])
        weights = gramian_weights(gramian)
        assert torch.stack(list(result.weights.values())) == pytest.approx(weights, rel=1e-3)
        assert relative_error(found, {**expected.combined(weights), **expected.own}) < 1e-5
        assert float(result.losses["tags"]) == pytest.approx(float(expected.losses[2]), rel=1e-4)
    _, result, _ = run(model_of(), LossProbe(), [[whole[dist.get_rank()]]])
    assert float(result.weights["tags"]) == pytest.approx(1 / (0.5 + float(expected.losses[2])), rel=1e-4)


def a_head_that_one_process_does_not_use():
    model = model_of(share_head=True)
    step = step_of(("mood", "nli", "mood2"))
    expected = reference(model, step)
    mine = {"nli": step["nli"]} if dist.get_rank() else {"mood": step["mood"], "mood2": step["mood2"]}
    _, _, found = run(model, Probe(), [[mine]])
    weights = gramian_weights(expected.gramian())
    assert relative_error(found, {**expected.combined(weights), **expected.own}) < 1e-5


CASES = [
    a_task_that_one_process_lacks,
    a_head_that_one_process_does_not_use,
    segmented,
    per_task,
    representation,
    representation_in_warm_up,
    weighting_of_losses,
    tracked_weighting_of_losses,
    moving_average,
    coordinates,
    three_batches,
    grouped,
]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_two_processes_give_the_gradients_of_one():
    port = str(free_port())
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
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=False):
        assert process.returncode == 0, output[-4000:]
        assert [line for line in output.splitlines() if line.startswith("passed ")] == [
            f"passed {case.__name__}" for case in CASES
        ]


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for case in CASES:
        case()
        print("passed", case.__name__, flush=True)
    dist.destroy_process_group()
