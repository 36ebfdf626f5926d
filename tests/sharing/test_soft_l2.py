"""Soft sharing by the squared distance between the tasks' parameters."""

from itertools import combinations

import pytest
import torch
from gradients.steps import CPU, gradients_of, model_of, run, step_of, tasks

from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import HardSharing, parameter_partition
from mtl_cli.sharing.columns import column_parameters
from mtl_cli.sharing.soft_l2 import SoftL2, _spread
from mtl_cli.types import UserError
from mtl_cli.weighting import Equal

NAMES = ("mood", "nli", "tags")


def soft_model(family="bert", names=NAMES, sharing=None):
    """Heads have the same weights whatever the strategy and the other tasks."""
    plain = model_of(family)
    model = MultiTaskModel(
        plain.encoder,
        sharing or SoftL2(),
        {name: task for name, task in tasks().items() if name in names},
        {name: plain.labels[name] for name in names},
    )
    for name in names:
        model.heads[name].load_state_dict(plain.heads[name].state_dict())
    return model.eval()


def move(model, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def train(model, num_steps, optimizer, tasks_of_step=NAMES):
    """The losses of each task, step by step."""
    weighting = Equal()
    weighting.start(list(model.tasks))
    engine = GradientEngine(model, weighting, Losses(model, "fp32", CPU))
    losses = {task: [] for task in tasks_of_step}
    for number in range(num_steps):
        step = {task: rows for task, rows in step_of(NAMES, seed=number % 2).items() if task in tasks_of_step}
        result = engine.step([[step]])
        for task, loss in result.losses.items():
            losses[task].append(float(loss))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        engine.after_update()
    return losses


def distance(model):
    """The largest distance of a task's parameters from another's, relative to their norm; by plain loops."""
    found = [[column.detach() for column in p.of_columns] for p in column_parameters(model.encoder)]
    norm = sum(float(p[0].double().square().sum()) for p in found) ** 0.5
    pairs = combinations(range(len(found[0])), 2)
    return max(sum(float((p[j] - p[k]).double().square().sum()) for p in found) ** 0.5 for j, k in pairs) / norm


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_strength_0_is_as_many_single_task_models(family):
    model = soft_model(family, sharing=SoftL2(strength=0.0))
    assert model.sharing.penalties(model) == {}
    together = train(model, 5, torch.optim.AdamW(model.parameters(), lr=2e-3))
    for task in NAMES:
        single = soft_model(family, names=[task], sharing=HardSharing())
        alone = train(single, 5, torch.optim.AdamW(single.parameters(), lr=2e-3), [task])
        assert alone[task][0] != alone[task][-1]
        torch.testing.assert_close(torch.tensor(together[task]), torch.tensor(alone[task]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_under_sgd_a_very_large_strength_keeps_the_columns_near_each_other_while_losses_fall(family):
    free, tied = (soft_model(family, sharing=SoftL2(strength=strength)) for strength in (0.0, 50.0))
    lr = 0.01  # lr * strength = 0.5: the distance is gone after each step but for what the step itself adds
    for model in (free, tied):
        losses = train(model, 30, torch.optim.SGD(model.parameters(), lr=lr))
        total = [sum(values) for values in zip(*losses.values(), strict=True)]
        assert sum(total[-2:]) < 0.95 * sum(total[:2])
    assert distance(tied) < 0.15 * distance(free)
    assert distance(tied) < 5e-3


def test_under_adamw_a_very_large_strength_keeps_the_columns_within_a_few_learning_rates():
    model = soft_model(sharing=SoftL2(strength=1e6))
    losses = train(model, 30, torch.optim.AdamW(model.parameters(), lr=1e-3))
    assert all(sum(values[-2:]) < sum(values[:2]) for values in losses.values())
    for parameter in column_parameters(model.encoder):
        columns = torch.stack(parameter.of_columns).detach()
        assert float((columns - columns.mean(0)).abs().max()) < 5e-3


@pytest.mark.parametrize("form", ["mean", "pairwise"])
def test_the_penalty_is_the_sum_of_squared_distances(form):
    model = soft_model(sharing=SoftL2(strength=0.3, form=form))
    assert model.sharing.penalties(model)["soft_l2"].item() == 0.0
    move(model)
    wanted = 0.0
    for found in column_parameters(model.encoder):
        columns = [column.detach().double() for column in found.of_columns]
        if form == "mean":
            mean = sum(columns) / 3
            wanted += 0.3 * sum(float((column - mean).square().sum()) for column in columns)
        else:
            wanted += 0.3 / 2 * sum(float((x - y).square().sum()) for x, y in combinations(columns, 2))
    penalty = model.sharing.penalties(model)
    assert list(penalty) == ["soft_l2"]
    assert penalty["soft_l2"].item() == pytest.approx(wanted, rel=1e-5)


def test_two_numbers_by_hand():
    # w = (1, 3), (5, 3): mean (3, 3), deviations -2 and 2: sum 8; half of the pair's squared distance, 16.
    first, second = (torch.nn.Parameter(torch.tensor(values)) for values in ([1.0, 3.0], [5.0, 3.0]))
    spread = _spread(first, second)
    assert spread.item() == 8.0
    (3 * spread).backward()
    assert first.grad.tolist() == [-12.0, 0.0]  # 3 * 2 * (1 - 3)
    assert second.grad.tolist() == [12.0, 0.0]


def test_the_gradient_is_that_of_autograd():
    columns = [torch.randn(4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(_spread, columns)


def test_the_penalty_reaches_columns_of_tasks_that_are_not_in_the_step():
    model = soft_model(sharing=SoftL2(strength=0.3, num_shared_layers=1))
    move(model)
    step = {task: rows for task, rows in step_of(NAMES).items() if task != "nli"}
    _, result, found = run(model, Equal(), [[step]])
    assert list(result.penalties) == ["soft_l2"]
    before = {name: gradient.clone() for name, gradient in found.items()}
    partition = parameter_partition(model.encoder)
    own = [name for name, part in partition.items() if part == "nli"]
    assert own
    parameters = dict(model.encoder.named_parameters())
    for name in own:
        mean = sum(parameters[name.replace(".nli.", f".{task}.")] for task in NAMES) / 3
        wanted = 2 * 0.3 * (parameters[name] - mean)
        torch.testing.assert_close(before[f"encoder.{name}"], wanted, atol=1e-6, rtol=1e-4)
    # What all tasks share has the gradient of the losses alone.
    model.sharing.strength = 0.0
    _, _, without = run(model, Equal(), [[step]])
    for name, part in partition.items():
        if part == "shared":
            torch.testing.assert_close(before[f"encoder.{name}"], without[f"encoder.{name}"])


def test_learnt_distances():
    model = soft_model("modernbert", sharing=SoftL2(num_shared_layers=1))
    move(model)
    found = model.sharing.learnt(model)
    by_pair, by_block = found["column_distance"], found["column_distance_by_block"]
    assert by_pair.rows == by_pair.columns == tuple(model.tasks)
    assert by_block.columns == ("block_1", "block_2", "final_norm")
    parameters = list(column_parameters(model.encoder))
    flat = torch.stack([torch.cat([p.of_columns[k].detach().flatten() for p in parameters]) for k in range(3)]).double()
    norm = flat.mean(0).norm()
    for j in range(3):
        for k in range(3):
            assert by_pair.values[j][k] == pytest.approx(float((flat[j] - flat[k]).norm() / norm), rel=1e-4, abs=1e-6)
    block = torch.stack(
        [torch.cat([p.of_columns[k].detach().flatten() for p in parameters if p.part == "block_2"]) for k in range(3)]
    ).double()
    mean = block.mean(0)
    for k in range(3):
        assert by_block.values[k][1] == pytest.approx(float((block[k] - mean).norm() / mean.norm()), rel=1e-4)


def test_one_task_has_nothing_to_be_near_to():
    model = soft_model(names=["mood"])
    assert model.sharing.penalties(model) == {}
    assert model.sharing.learnt(model) == {}


def test_frozen_blocks_cost_nothing():
    encoder = model_of().encoder
    encoder.freeze(embeddings=True, num_blocks=3)
    of_tasks = {name: task for name, task in tasks().items() if name in NAMES}
    model = MultiTaskModel(encoder, SoftL2(), of_tasks, {name: model_of().labels[name] for name in NAMES})
    assert model.sharing.penalties(model) == {}
    assert model.sharing.learnt(model) == {}
    assert gradients_of(model) == {}


def test_what_is_shared():
    assert not SoftL2().shares_parameters()
    assert SoftL2(num_shared_layers=2).shares_parameters()
    assert SoftL2(num_shared_layers=2).num_shared_blocks(3) == 2
    with pytest.raises(UserError, match=r"sharing\.num_shared_layers: found 4, .*allowed: 0 to 2"):
        SoftL2(num_shared_layers=4).check_num_blocks(3)
