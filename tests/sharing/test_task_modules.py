"""Names of tasks, and the partition of parameters."""

import pytest
from torch import nn

from mtl_cli.sharing import TaskModules, check_task_names, parameter_partition
from mtl_cli.types import UserError


@pytest.mark.parametrize("name", ["", "a.b", "shared", "keys", "forward", "training", "parameters"])
def test_names_that_cannot_be_part_of_a_parameter_s_name(name):
    with pytest.raises(UserError, match=f"cannot be called '{name}'"):
        check_task_names(["sst2", name])


def test_usual_names_are_fine():
    check_task_names(["sst2", "my-task", "ud_de", "2000", "Über"])


def test_each_parameter_has_one_part():
    model = nn.ModuleDict(
        {
            "body": nn.Linear(2, 2),
            "deep": nn.Sequential(TaskModules({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1, False)})),
        }
    )
    model["body"].bias.requires_grad_(False)
    assert parameter_partition(model) == {
        "body.weight": "shared",
        "deep.0.a.weight": "a",
        "deep.0.a.bias": "a",
        "deep.0.b.weight": "b",
    }


def test_a_name_that_begins_with_another_s_is_told_apart():
    modules = TaskModules({"ner": nn.Linear(1, 1, False), "ner2": nn.Linear(1, 1, False)})
    assert parameter_partition(modules) == {"ner.weight": "ner", "ner2.weight": "ner2"}


def test_a_tensor_in_two_tasks_is_an_error():
    layer = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match=r"several parts.*a\.weight.*b\.weight"):
        parameter_partition(TaskModules({"a": layer, "b": layer}))


def test_a_tensor_tied_between_shared_and_task_specific_is_an_error():
    layer = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="several parts"):
        parameter_partition(nn.ModuleDict({"shared_layer": layer, "own": TaskModules({"a": layer})}))


def test_modules_of_two_tasks_inside_each_other_are_an_error():
    with pytest.raises(RuntimeError, match="several tasks"):
        parameter_partition(TaskModules({"a": TaskModules({"b": nn.Linear(1, 1)})}))


def test_tied_weights_inside_one_part_count_once():
    layer = nn.Linear(1, 1, bias=False)
    assert parameter_partition(nn.ModuleDict({"x": layer, "y": layer})) == {"x.weight": "shared"}
