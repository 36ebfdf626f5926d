"""How many tokens go through the model at once, and that a step's update does not depend on it."""

import json

import pytest
import tiny_project
import torch
from safetensors.torch import load_file

from mtl_cli.cli import _main
from mtl_cli.training.batch_tokens import fit_batch_tokens
from mtl_cli.training.live_memory import LiveMemory
from mtl_cli.types import UserError


class Machine:
    """Takes 10 bytes a token, 1,000 of them besides, and no more than it has."""

    def __init__(self, size):
        self.size = size
        self.tried = []

    def __call__(self, tokens):
        self.tried.append(tokens)
        needed = 1_000 + 10 * tokens
        if needed > self.size:
            raise torch.OutOfMemoryError
        return needed


def test_what_fits_follows_from_one_try():
    # 1,000 tokens took 11,000 bytes, 11 a token: 110,000 bytes hold 10,000.
    machine = Machine(10**9)
    assert fit_batch_tokens(machine, free=110_000, first_try=1_000, verify=False) == 10_000
    assert machine.tried == [1_000]


def test_a_try_that_fails_is_halved_and_what_was_found_is_checked():
    # 2,000 and 1,000 tokens do not fit; 500 take 6,000, 12 a token; 12,000 bytes would hold 1,000, of which 640 do.
    machine = Machine(7_500)
    assert fit_batch_tokens(machine, free=12_000, first_try=2_000, verify=True) == 640
    assert machine.tried == [2_000, 1_000, 500, 1_000, 800, 640]


def test_a_machine_that_holds_no_row_is_said_to():
    with pytest.raises(UserError, match=r"trainer.batch_tokens: auto, but not even one row fits"):
        fit_batch_tokens(Machine(5), free=10, first_try=64, verify=False)


def test_live_memory_counts_what_is_alive_at_once():
    weight = torch.ones(1000, requires_grad=True)  # made outside: not counted
    with LiveMemory() as memory:
        doubled = weight * 2  # 4,000 bytes
        view = doubled.view(10, 100)  # the same ones
        assert memory.now == 4_000
        view.add_(1)
        assert memory.now == 4_000
        squared = view.square()  # 8,000
        del doubled, view
        assert memory.now == 8_000  # the square's backward pass needs what is squared
        squared.sum().backward()
        del squared
    assert memory.now == 4_000  # the gradient
    assert 12_000 <= memory.peak <= 20_100


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch_tokens")
    conf = tiny_project.write(folder)
    common = [*tiny_project.TINY, "task=[reviews,names]", "encoder.dropout=0", "trainer.max_steps=3"]
    common += [f"tasks.{task}.head._target_=mtl_cli.tasks.LinearHead" for task in ("reviews", "names")]
    common += [f"tasks.{task}.head.dropout=0" for task in ("reviews", "names")]
    found = {}
    for name, extra in {
        "whole": [],
        "cut": ["trainer.batch_tokens=40"],
        "auto": ["trainer.batch_tokens=auto"],
        "checkpointed": ["trainer.activation_checkpointing=true"],
    }.items():
        found[name] = folder / name
        assert _main(["train", "--config-dir", str(conf), *common, *extra, f"hydra.run.dir={folder / name}"]) == 0
    return found


@pytest.mark.parametrize("name", ["cut", "auto", "checkpointed"])
def test_the_update_is_that_of_the_whole_step(runs, name):
    for key, expected in weights(runs["whole"]).items():
        torch.testing.assert_close(weights(runs[name])[key], expected, atol=2e-4, rtol=0)


def test_what_was_found_is_kept_in_the_run_folder(runs):
    found = json.loads((runs["auto"] / "measured.json").read_text())["batch_tokens"]
    assert found > 1_000
    assert not (runs["cut"] / "measured.json").exists()
