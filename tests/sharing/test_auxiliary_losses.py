"""What a strategy adds to the objective for a step's rows: its weight, its place in the logs."""

import pytest
import torch
from gradients.steps import CPU, gradients_of, step_of
from sharing.test_matrix import TASKS, model_of, without_dropout

from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.sharing.auxiliary import add_auxiliary_loss, collect_auxiliary_losses
from mtl_cli.weighting import Equal, MoDo, Static

LOADED = {"settings": {"num_experts": 4, "expert_width": 8, "load_balance": 1.0}}


def step_under(weighting, parts=None):
    model = without_dropout(model_of("moe", LOADED, "bert"))  # the steps that are compared draw differently
    weighting.start(list(TASKS), seed=1)
    torch.manual_seed(3)
    result = GradientEngine(model, weighting, Losses(model, "fp32", CPU)).step(parts or [[step_of(TASKS)]])
    return result, gradients_of(model)


def test_looking_at_conflicts_does_not_change_the_update():
    weights = {"mood": 5.0, "nli": 0.1, "tags": 0.1}
    plain, wanted = step_under(Static(task_weights=weights))
    tracked, found = step_under(Static(task_weights=weights, track_conflict_every=1))
    assert plain.conflict is None
    assert tracked.conflict is not None
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    assert float(tracked.penalties["load_balance"]) == pytest.approx(float(plain.penalties["load_balance"]), rel=1e-6)


def test_the_weight_of_a_task_does_not_count_for_what_its_rows_cost_besides():
    _, of_one = step_under(Static(task_weights={"mood": 1.0, "nli": 1.0, "tags": 1.0}))
    _, of_none = step_under(Static(task_weights={"mood": 1e-30, "nli": 1e-30, "tags": 1e-30}))
    routers = [name for name in of_one if "logits.linear.weight" in name]
    assert routers
    assert all(of_none[name].abs().sum() > 0 for name in routers)


def test_several_batches_of_a_step_are_shown_as_their_mean():
    whole, _ = step_under(Equal())
    several, _ = step_under(MoDo(), [[step_of(TASKS)]] * 3)
    assert float(several.penalties["load_balance"]) == pytest.approx(float(whole.penalties["load_balance"]), rel=1e-5)


def test_outside_of_training_nothing_is_collected():
    add_auxiliary_loss("name", "task", torch.ones(()))
    with collect_auxiliary_losses() as collected:
        add_auxiliary_loss("name", "a", torch.tensor(2.0))
        add_auxiliary_loss("name", "a", torch.tensor(3.0))
        add_auxiliary_loss("name", "b", torch.tensor(1.0))
    assert {task: float(value) for task, value in collected["name"].items()} == {"a": 5.0, "b": 1.0}
