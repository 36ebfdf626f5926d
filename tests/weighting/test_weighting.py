"""The base of all weightings, and the two whose weights are settled before the run."""

import pytest
import torch

from mtl_cli.types import UserError
from mtl_cli.weighting import Equal, GradDrop, GramianWeighting, Static, TrimmedMean, check_fit


def weigh(weighting, tasks=("a", "b"), run_tasks=("a", "b")):
    weighting.start(list(run_tasks))
    weights = weighting.weights(weighting.step_info(tasks, torch.ones(len(tasks))))
    return dict(zip(tasks, weights.tolist(), strict=False))


def test_equal_gives_weight_one():
    assert weigh(Equal()) == {"a": 1.0, "b": 1.0}


def test_an_unnamed_task_has_static_weight_one():
    assert weigh(Static(task_weights={"b": 0.5})) == {"a": 1.0, "b": 0.5}


def test_normalized_static_weights_sum_to_the_number_of_tasks():
    # 2 tasks / (3 + 1) = 0.5 of each.
    assert weigh(Static(task_weights={"a": 3.0, "b": 1.0}, normalize=True)) == {"a": 1.5, "b": 0.5}


def test_a_step_that_lacks_a_task_gives_weights_to_the_others_alone():
    assert weigh(Static(task_weights={"a": 2.0}), tasks=("b",)) == {"b": 1.0}


def test_weights_for_a_task_that_is_not_in_the_run_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"weighting.task_weights.sst: no such task.*did you mean 'sst2'"):
        Static(task_weights={"sst": 1.0}).start(["sst2", "rte"])


def test_only_zero_weights_are_refused():
    with pytest.raises(UserError, match="found only zeros"):
        Static(task_weights={"a": 0.0})


def test_warm_up_ends_after_its_steps_and_the_method_counts_from_there():
    weighting = Equal(warmup_steps=2)
    weighting.start(["a"])
    seen = []
    for _ in range(4):
        seen.append((weighting.warming_up, weighting.step_info(["a"], torch.ones(1)).step))
        weighting.finish_step()
    assert seen == [(True, -2), (True, -1), (False, 0), (False, 1)]


def test_memory_is_kept_for_all_tasks_and_restored_with_the_random_numbers():
    def draw(weighting, tasks):
        info = weighting.step_info(tasks, torch.ones(len(tasks)))
        info.recall("total", 5.0)[info.index_K] += torch.rand(len(tasks), generator=info.generator)
        weighting.finish_step()
        return weighting.memory["total"].clone()

    first, second = Equal(), Equal()
    for weighting in (first, second):
        weighting.start(["a", "b", "c"], seed=3)
    before = draw(first, ["a", "c"])
    assert before[1] == 5.0
    assert (before[[0, 2]] != 5.0).all()
    second.load_state_dict(first.state_dict() | {"memory": {"total": before.clone()}})
    assert torch.equal(draw(first, ["b"]), draw(second, ["b"]))
    assert second.num_steps == 2


class Several(GramianWeighting):
    def weights(self, gramian_KK, step):
        return torch.ones(len(step.tasks))


class All(Several):
    needs_tasks = "all"


SAMPLERS = {"all_tasks": "all", "proportional": "some", "round_robin": "one"}


@pytest.mark.parametrize(
    ("weighting", "holds", "message"),
    [
        (
            Several(),
            "one",
            r"Several needs several tasks in a step, but the steps of RoundRobin hold one task; "
            r"samplers that fit: all_tasks, proportional$",
        ),
        (All(), "some", r"All needs every task in a step, .* hold some of the tasks; samplers that fit: all_tasks$"),
    ],
)
def test_a_sampler_whose_steps_do_not_hold_enough_is_refused_with_those_that_fit(weighting, holds, message):
    weighting.start(["a", "b"])
    with pytest.raises(UserError, match=message):
        check_fit(weighting, holds, "RoundRobin" if holds == "one" else "Proportional", SAMPLERS)


def test_with_one_task_any_sampler_fits():
    weighting = All()
    weighting.start(["a"])
    check_fit(weighting, "one", "RoundRobin", SAMPLERS)


@pytest.mark.parametrize("holds", ["all", "some", "one"])
def test_a_weighting_of_losses_takes_any_sampler(holds):
    weighting = Equal()
    weighting.start(["a", "b"])
    check_fit(weighting, holds, "Any", SAMPLERS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": 2, "grouping": "block"}, "weighting.grouping: found 'block' with weighting.scope=2"),
        ({"scope": "representation", "grouping": "block"}, "weighting.grouping"),
        (
            {"scope": "representation", "engine": "per_task"},
            "weighting.engine: found 'per_task' with weighting.scope=representation, .*allowed with it: auto",
        ),
        ({"scope": "representation", "engine": "segmented"}, "weighting.engine: found 'segmented'"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Several(**settings).start(["a", "b"])


@pytest.mark.parametrize("weighting", [GradDrop(grouping="block"), TrimmedMean(grouping="block")])
def test_a_method_that_combines_each_number_by_itself_has_no_groups_to_balance(weighting):
    name = type(weighting).__name__
    with pytest.raises(UserError, match=f"weighting.grouping: found 'block', but {name} combines each number by itse"):
        weighting.start(["a", "b", "c"])
