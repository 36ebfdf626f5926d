"""AdamW of which rows of an embedding wait until they are read, against torch.optim.AdamW."""

import copy
import math

import pytest
import torch
from torch import nn

from mtl_cli.training.lazy_adamw import LazyAdamW

NUM_ROWS, WIDTH = 40, 6


def pair(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, dtype=torch.float32):
    """The same embedding and layer twice, with torch's optimizer and with ours."""
    torch.manual_seed(0)
    ours = nn.ModuleDict({"words": nn.Embedding(NUM_ROWS, WIDTH), "layer": nn.Linear(WIDTH, 3)}).to(dtype)
    theirs = copy.deepcopy(ours)
    reference = torch.optim.AdamW(theirs.parameters(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    groups = [{"params": list(ours.parameters()), "lr": lr, "weight_decay": weight_decay}]
    return ours, LazyAdamW(groups, betas, eps, [ours["words"]]), theirs, reference


def ids_of_steps(num_steps, seed=0):
    """A few ids a step, most of them rare; row 39 never."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(5, generator=generator) ** 4 * (NUM_ROWS - 1)).long() for _ in range(num_steps)]


def train(model, optimizer, ids_of_steps, lr=None, start=0, scale=1.0):
    for number, ids in enumerate(ids_of_steps, start):
        if isinstance(optimizer, LazyAdamW):
            optimizer.catch_up(ids)
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr(number)
        loss = scale * model["layer"](model["words"](ids)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_equal(ours, theirs, tolerance=2e-6):
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.0},
        {"betas": (0.0, 0.999)},
        {"betas": (0.9, 0.9)},
        {"betas": (0.8, 0.7)},
        {"betas": (0.98, 0.98), "eps": 1e-3},
        {"eps": 1e-4},
    ],
    ids=str,
)
def test_weights_are_those_of_torch_under_a_schedule(settings):
    # In float64: where the second moment is forgotten as fast as the first, training magnifies float32's rounding.
    ours, lazy, theirs, reference = pair(dtype=torch.float64, **settings)
    steps = ids_of_steps(200)

    def lr(number):
        return 0.01 * min((number + 1) / 40, 1.0) * (1 + math.cos(math.pi * number / 200)) / 2

    train(ours, lazy, steps, lr)
    train(theirs, reference, steps, lr)
    assert not torch.equal(ours["words"].weight, theirs["words"].weight)  # rows wait
    lazy.catch_up()
    assert_equal(ours, theirs, 1e-8)
    state, wanted = lazy.state[ours["words"].weight], reference.state[theirs["words"].weight]
    assert state["step"] == wanted["step"] == 200
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[key], wanted[key], atol=1e-9, rtol=1e-6)


def test_in_float32_weights_are_those_of_torch_to_rounding():
    ours, lazy, theirs, reference = pair(lr=1e-3)
    steps = ids_of_steps(200)
    train(ours, lazy, steps)
    train(theirs, reference, steps)
    lazy.catch_up()
    assert_equal(ours, theirs, 2e-5)  # torch rounds 1 - lr weight_decay to float32 in each step


def test_rows_that_wait_for_thousands_of_steps_are_exact_in_float64():
    # The sum is cut off at 1e-8 of itself and the polynomial is off by 7e-8: both of moves of some learning rates.
    ours, lazy, theirs, reference = pair(lr=1e-3, dtype=torch.float64)
    rare, common = torch.arange(NUM_ROWS), torch.tensor([0])
    steps = [rare, *[common] * 300, rare, *[common] * 900]
    for model, optimizer in ((ours, lazy), (theirs, reference)):
        train(model, optimizer, steps)
    lazy.catch_up()
    torch.testing.assert_close(ours["words"].weight, theirs["words"].weight, atol=2e-9, rtol=0)


def test_when_rows_catch_up_makes_no_difference():
    ours, lazy, *_ = pair()
    others, other_lazy, *_ = pair()
    for number, ids in enumerate(ids_of_steps(60)):
        train(ours, lazy, [ids])
        train(others, other_lazy, [ids])
        if number % 7 == 0:
            other_lazy.catch_up()
    for optimizer in (lazy, other_lazy):
        optimizer.catch_up()
    assert_equal(ours, others)


def test_a_gradient_may_be_dense():
    ours, lazy, theirs, reference = pair()
    ours["words"].sparse = False
    steps = ids_of_steps(50)
    train(ours, lazy, steps)
    train(theirs, reference, steps)
    lazy.catch_up()
    assert_equal(ours, theirs)


def test_gradients_are_divided_by_the_scale():
    ours, lazy, theirs, reference = pair()
    lazy.grad_scale = torch.tensor(8.0)
    steps = ids_of_steps(20)
    train(ours, lazy, steps, scale=8.0)
    train(theirs, reference, steps)
    lazy.catch_up()
    assert_equal(ours, theirs)


def test_resumed_equals_uninterrupted_bit_for_bit():
    def lr(number):
        return 0.01 / (1 + number)

    ours, lazy, *_ = pair()
    steps = ids_of_steps(60)
    train(ours, lazy, steps, lr)
    resumed, half, *_ = pair()
    train(resumed, half, steps[:30], lr)
    weights, state = copy.deepcopy(resumed.state_dict()), copy.deepcopy(half.state_dict())
    resumed, half, *_ = pair()
    resumed.load_state_dict(weights)
    half.load_state_dict(state)
    train(resumed, half, steps[30:], lr, start=30)
    assert torch.equal(ours["words"].weight, resumed["words"].weight)
    for optimizer in (lazy, half):
        optimizer.catch_up()
    assert torch.equal(ours["words"].weight, resumed["words"].weight)
    assert torch.equal(ours["layer"].weight, resumed["layer"].weight)


def test_a_run_goes_on_without_waiting_rows():
    ours, lazy, theirs, reference = pair(dtype=torch.float64)
    steps = ids_of_steps(60)
    train(ours, lazy, steps[:30])
    train(theirs, reference, steps)
    resumed = copy.deepcopy(ours)
    resumed["words"].sparse = False
    group = {"params": list(resumed.parameters()), "lr": 0.01, "weight_decay": 0.1}
    eager = LazyAdamW([group], (0.9, 0.999), 1e-8)
    eager.load_state_dict(lazy.state_dict())
    assert not eager.is_lazy
    train(resumed, eager, steps[30:])
    assert_equal(resumed, theirs, 1e-8)
    # And back: rows that did not wait may begin to.
    other, waiting, *_ = pair(dtype=torch.float64)
    other.load_state_dict(resumed.state_dict())
    waiting.load_state_dict(eager.state_dict())
    more = ids_of_steps(10, seed=1)
    train(other, waiting, more)
    train(theirs, reference, more)
    waiting.catch_up()
    assert_equal(other, theirs, 1e-8)
