import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from mtl_cli.training import Constant, Cosine, Linear


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Linear, get_linear_schedule_with_warmup), (Cosine, get_cosine_schedule_with_warmup)]
)
def test_after_warm_up_a_schedule_equals_that_of_transformers(ours, theirs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = theirs(optimizer, num_warmup_steps=10, num_training_steps=100)
    schedule = ours(warmup_steps=10)
    for step in range(100):
        if step >= 10:
            assert schedule.factor(step, 100) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


def test_warm_up_never_wastes_a_step_on_a_rate_of_zero():
    # 4 warm-up steps: 1/5, 2/5, 3/5, 4/5, then the full rate.
    assert [Linear(warmup_steps=4).factor(step, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_fraction_of_warm_up_is_of_all_steps():
    assert Constant(warmup_fraction=0.5).factor(4, 10) == pytest.approx(5 / 6)
    assert Constant(warmup_fraction=0.5).factor(5, 10) == 1.0


def test_the_final_fraction_is_what_is_left():
    # Half way: 0.2 + 0.8 * 0.5 = 0.6 for both shapes.
    assert Linear(final_fraction=0.2).factor(50, 100) == pytest.approx(0.6)
    assert Cosine(final_fraction=0.2).factor(50, 100) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2)


def test_a_number_of_warm_up_steps_wins_over_a_fraction():
    assert Linear(warmup_fraction=0.5, warmup_steps=1).factor(1, 10) == 1.0
