import pytest
import torch

from mtl_cli.types import UserError
from mtl_cli.weighting import Equal, Static


def losses(shared):
    # d(2 x)/dx = 2, d(x^2)/dx = 2 x = 6 at x = 3.
    return {"a": 2 * shared, "b": shared**2}


def test_equal_gives_the_gradient_of_the_plain_sum():
    shared = torch.tensor(3.0, requires_grad=True)
    weighting = Equal()
    weighting.start(["a", "b"])
    assert weighting.backward(losses(shared)) == {"a": 1.0, "b": 1.0}
    assert shared.grad == 2 + 6


def test_static_weights_scale_each_task_and_an_unnamed_task_has_weight_one():
    shared = torch.tensor(3.0, requires_grad=True)
    weighting = Static({"b": 0.5})
    weighting.start(["a", "b"])
    weighting.backward(losses(shared))
    assert shared.grad == 2 + 0.5 * 6


def test_normalized_static_weights_sum_to_the_number_of_tasks():
    weighting = Static({"a": 3.0, "b": 1.0}, normalize=True)
    weighting.start(["a", "b"])
    # 2 tasks / (3 + 1) = 0.5 of each.
    assert weighting.weights(losses(torch.tensor(1.0))) == {"a": 1.5, "b": 0.5}


def test_a_step_that_lacks_a_task_gives_weights_to_the_others_alone():
    shared = torch.tensor(3.0, requires_grad=True)
    weighting = Static({"a": 2.0})
    weighting.start(["a", "b"])
    assert weighting.backward({"b": shared**2}) == {"b": 1.0}


def test_weights_for_a_task_that_is_not_in_the_run_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"weighting.task_weights.sst: no such task.*did you mean 'sst2'"):
        Static({"sst": 1.0}).start(["sst2", "rte"])


def test_only_zero_weights_are_refused():
    with pytest.raises(UserError, match="found only zeros"):
        Static({"a": 0.0})


def test_state_that_no_one_wrote_is_refused():
    with pytest.raises(UserError, match="Equal keeps no state"):
        Equal().load_state_dict({"x": 1})
