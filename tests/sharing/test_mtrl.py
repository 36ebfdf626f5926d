"""Task relationship learning: the penalty, the covariance in closed form, and whose parameters they are about."""

import numpy as np
import pytest
import scipy.linalg
import torch
from gradients.steps import step_of
from sharing.small_modules_tools import (
    EVERY_KIND,
    TASKS,
    WAYS,
    assert_rows_stay_apart,
    assert_starts_as_the_plain_encoder,
    model_with,
    numbers,
    perturb,
)

from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import TrainingMoment
from mtl_cli.sharing.adapter_layers import adapted_layers
from mtl_cli.sharing.adapters import Adapters
from mtl_cli.sharing.mtrl import MTRL, gramian_of, task_covariance
from mtl_cli.tasks import MLPHead, SingleTextClassification, TextPairClassification
from mtl_cli.types import UserError


def random_columns(num_parameters=20, num_tasks=4, seed=0):
    return torch.randn(num_parameters, num_tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def penalty(columns_PK, covariance_KK):
    return torch.trace(columns_PK @ torch.linalg.inv(covariance_KK) @ columns_PK.T).item()


def own_columns(model):
    """W of a model with adapters, by plain loops."""
    return torch.stack(
        [
            torch.cat(
                [p.detach().flatten() for layer in adapted_layers(model) for p in layer.of_task[task].parameters()]
            )
            for task in model.tasks
        ],
        dim=1,
    )


# The covariance.


@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_the_update_is_scipy_s_square_root(num_tasks):
    columns_PK = random_columns(num_tasks=num_tasks)
    root_KK = scipy.linalg.sqrtm((columns_PK.T @ columns_PK).numpy()).real
    found_KK = task_covariance(columns_PK.T @ columns_PK, 0.0)
    np.testing.assert_allclose(found_KK.numpy(), root_KK / np.trace(root_KK), atol=1e-10)


def test_the_update_minimises_the_penalty_under_the_trace_constraint():
    columns_PK = random_columns()
    best_KK = task_covariance(columns_PK.T @ columns_PK, 0.0)
    best = penalty(columns_PK, best_KK)
    # At the minimum it is the squared trace norm of W.
    assert best == pytest.approx(torch.linalg.svdvals(columns_PK).sum().item() ** 2)
    generator = torch.Generator().manual_seed(1)
    for size in (0.01, 0.1, 1.0):
        for _ in range(50):
            root_KK = torch.linalg.cholesky(best_KK) + size * torch.randn(
                4, 4, generator=generator, dtype=best_KK.dtype
            )
            other_KK = root_KK @ root_KK.T
            assert penalty(columns_PK, other_KK / other_KK.trace()) > best


def test_an_optimizer_finds_the_same_covariance():
    columns_PK = random_columns(num_tasks=3)
    root_KK = torch.eye(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([root_KK], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def covariance():
        free_KK = root_KK @ root_KK.T
        return free_KK / free_KK.trace()

    def closure():
        optimizer.zero_grad()
        value = torch.trace(columns_PK @ torch.linalg.inv(covariance()) @ columns_PK.T)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(
        covariance().detach(), task_covariance(columns_PK.T @ columns_PK, 0.0), atol=1e-5, rtol=1e-5
    )


def test_alike_and_zero_columns_leave_it_invertible_with_trace_1():
    alike_KK = task_covariance(torch.ones(3, 3), 0.01)
    # (1/3 everywhere + 0.01 I) / 1.03
    torch.testing.assert_close(alike_KK, (torch.full((3, 3), 1 / 3) + 0.01 * torch.eye(3)).double() / 1.03)
    torch.testing.assert_close(task_covariance(torch.zeros(3, 3), 0.01), torch.eye(3).double() / 3)
    for covariance_KK in (alike_KK, task_covariance(1e12 * torch.ones(3, 3), 1e-3)):
        assert covariance_KK.trace().item() == pytest.approx(1.0)
        assert torch.linalg.eigvalsh(covariance_KK).min() > 5e-4


def test_the_gramian_is_that_of_all_parameters_flattened():
    generator = torch.Generator().manual_seed(0)
    tasks = [[torch.randn(shape, generator=generator) for shape in ((4, 3), (4,), (2, 2, 2))] for _ in range(3)]
    columns_PK = torch.stack([torch.cat([p.flatten() for p in of_task]) for of_task in tasks], dim=1)
    torch.testing.assert_close(gramian_of(list(zip(*tasks, strict=True))), columns_PK.T @ columns_PK)


# The penalty.


def set_heads(model, first, second):
    for task, value in (("first", first), ("second", second)):
        with torch.no_grad():
            for parameter in model.heads[task].parameters():
                parameter.zero_()
            model.heads[task][1].bias.copy_(torch.tensor(value))


def two_tasks(head=None, other=None):
    more = {} if head is None else {"head": head}
    return {
        "first": SingleTextClassification(source=UnavailableSource(), **more),
        "second": SingleTextClassification(source=UnavailableSource(), **({"head": other} if other else more)),
    }


def test_the_penalty_is_that_of_a_hand_worked_example():
    model = model_with(MTRL(prior_on="heads", strength=0.5, ridge=0.25), of_tasks=two_tasks())
    set_heads(model, [3.0, 0.0], [0.0, 4.0])
    # Omega = I / 2, so tr(W 2I Wᵀ) = 2 (9 + 16) = 50, times 0.5; |W|² = 25, times 0.25.
    found = model.sharing.penalties(model)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"task_relationship": 25.0, "ridge": 6.25}
    )
    # (Wᵀ W)^(1/2) = diag(3, 4); over 7, mixed with 0.001 I: diag(3/7 + 0.001, 4/7 + 0.001) / 1.002.
    model.sharing.start_step(model, TrainingMoment(100, 200, 10))
    covariance = torch.diag(torch.tensor([3 / 7 + 0.001, 4 / 7 + 0.001])) / 1.002
    torch.testing.assert_close(model.encoder.extras["mtrl"].covariance_KK, covariance)
    # 1.002 (9 / 0.429571... + 16 / 0.572428...) / 2
    expected = 0.5 * 1.002 * (9 / (3 / 7 + 0.001) + 16 / (4 / 7 + 0.001))
    assert model.sharing.penalties(model)["task_relationship"].item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_pulls_related_tasks_together():
    model = model_with(MTRL(prior_on="heads", strength=1.0), of_tasks=two_tasks())
    set_heads(model, [1.0, 0.1], [1.0, -0.1])
    model.sharing.start_step(model, TrainingMoment(100, 200, 10))
    model.sharing.penalties(model)["task_relationship"].backward()
    gradients = [model.heads[task][1].bias.grad for task in ("first", "second")]
    # Where they agree the pull towards zero is weak beside that on where they differ.
    assert gradients[0][1] > 5 * 0.1 * gradients[0][0] > 0
    torch.testing.assert_close(gradients[0][1], -gradients[1][1])


def test_the_penalty_on_adapters_is_the_formula_and_reaches_all_of_them():
    model = model_with(MTRL(bottleneck=4, strength=0.1))
    perturb(model)
    model.sharing.start_step(model, TrainingMoment(100, 200, 10))
    columns_PK = own_columns(model)
    covariance_KK = model.encoder.extras["mtrl"].covariance_KK
    torch.testing.assert_close(
        covariance_KK, task_covariance(columns_PK.T @ columns_PK, 1e-3).float(), atol=1e-6, rtol=1e-5
    )
    found = model.sharing.penalties(model)
    assert set(found) == {"task_relationship"}
    assert found["task_relationship"].item() == pytest.approx(0.1 * penalty(columns_PK, covariance_KK), rel=1e-3)
    found["task_relationship"].backward()
    partition = model.parameter_partition()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any().item()) is ("of_task" in name), name
        assert (partition[name] != "shared") or "of_task" not in name


def test_without_strength_there_is_no_penalty():
    model = model_with(MTRL(bottleneck=4, strength=0.0))
    assert model.sharing.penalties(model) == {}


# When Omega is updated.


def test_omega_is_updated_every_so_many_steps_and_not_before_the_first():
    model = model_with(MTRL(bottleneck=4, update_every_steps=3))
    perturb(model)
    holder = model.encoder.extras["mtrl"]
    for step, changes in ((0, False), (1, False), (2, False), (3, True), (4, False), (6, True)):
        before_KK = holder.covariance_KK.clone()
        perturb(model, seed=step)
        model.sharing.start_step(model, TrainingMoment(step, 10, 5))
        assert (not torch.equal(holder.covariance_KK, before_KK)) is changes, step
        assert holder.covariance_KK.trace().item() == pytest.approx(1.0)


def test_omega_is_kept_with_the_weights():
    model = model_with(MTRL(bottleneck=4))
    assert torch.equal(model.state_dict()["encoder.extras.mtrl.covariance_KK"], torch.eye(3) / 3)
    perturb(model)
    model.sharing.start_step(model, TrainingMoment(100, 200, 10))
    other = model_with(MTRL(bottleneck=4))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.encoder.extras["mtrl"].covariance_KK, model.encoder.extras["mtrl"].covariance_KK)


def test_what_is_learnt_are_the_correlations_of_the_moment_and_the_covariance_of_the_last_update():
    model = model_with(MTRL(bottleneck=4))
    perturb(model)
    learnt = model.sharing.learnt(model)
    assert set(learnt) == {"task_correlations", "task_covariance", "adapter_norms"}
    found = learnt["task_correlations"]
    assert found.scale == "signed"
    assert found.rows == found.columns == ("mood", "nli", "tags")
    columns_PK = own_columns(model).double()
    # (Wᵀ W)^(1/2) by singular values, where the code takes eigenvalues of Wᵀ W
    _, singular_K, right_KK = torch.linalg.svd(columns_PK, full_matrices=False)
    root_KK = right_KK.T @ torch.diag(singular_K) @ right_KK
    omega_KK = (root_KK / root_KK.trace() + 1e-3 * torch.eye(3)) / 1.003
    deviation_K = omega_KK.diagonal().sqrt()
    np.testing.assert_allclose(numbers(found), omega_KK / torch.outer(deviation_K, deviation_K), atol=1e-4)
    # The Omega of the penalty is the last update's.
    np.testing.assert_allclose(numbers(learnt["task_covariance"]), np.eye(3) / 3, atol=1e-7)
    model.sharing.start_step(model, TrainingMoment(100, 200, 10))
    np.testing.assert_allclose(numbers(model.sharing.learnt(model)["task_covariance"]), omega_KK, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "moment", "warned"),
    [
        ({}, TrainingMoment(0, 100, 50), True),
        ({}, TrainingMoment(0, 101, 50), False),
        ({}, TrainingMoment(1, 100, 50), False),
        ({"strength": 0.0}, TrainingMoment(0, 100, 50), False),
    ],
)
def test_a_run_in_which_omega_never_changes_is_warned_of(settings, moment, warned, caplog):
    model = model_with(MTRL(bottleneck=4, **settings))
    model.sharing.start_step(model, moment)
    found = [m for m in caplog.messages if m.startswith("sharing.update_every_steps: found 100, but the run has 100")]
    assert len(found) == warned


# Whose parameters.


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_training_begins_with_the_plain_encoder(make_encoder, family, packed):
    assert_starts_as_the_plain_encoder(make_encoder, MTRL(bottleneck=4), family, packed)


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, packed):
    assert_rows_stay_apart(make_encoder, MTRL(bottleneck=4), family, packed)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_without_strength_it_is_adapters(family):
    ours, plain = (
        model_with(MTRL(bottleneck=4, strength=0.0), family=family),
        model_with(Adapters(bottleneck=4), family=family),
    )
    perturb(plain)
    ours.load_state_dict({**plain.state_dict(), "encoder.extras.mtrl.covariance_KK": torch.eye(3) / 3})
    assert ours.parameter_partition() == plain.parameter_partition()
    step = step_of(("mood", "nli", "tags"))
    for task, logits_MC in plain(step).items():
        torch.testing.assert_close(ours(step)[task], logits_MC)


def test_the_tasks_adapters_begin_alike_and_move_apart(make_encoder):
    encoder = make_encoder("bert")
    MTRL(bottleneck=4).attach(encoder, list(TASKS))
    for layer in adapted_layers(encoder):
        first, *others = (layer.of_task[task].state_dict() for task in TASKS)
        assert all(torch.equal(first[name], other[name]) for other in others for name in first)
        assert first["down.weight"].any()
        assert len({layer.of_task[task].down.weight.data_ptr() for task in TASKS}) == 3


def test_heads_of_the_same_shapes_are_wholly_under_the_prior():
    model = model_with(MTRL(prior_on="heads"), of_tasks=two_tasks())
    assert adapted_layers(model) == []
    perturb(model.heads)
    columns_PK = torch.stack(
        [torch.cat([p.detach().flatten() for p in model.heads[task].parameters()]) for task in ("first", "second")],
        dim=1,
    )
    assert len(columns_PK) == 2 * 32 + 2
    found = model.sharing.penalties(model)["task_relationship"].item()
    assert found == pytest.approx(1e-4 * penalty(columns_PK, torch.eye(2) / 2), rel=1e-5)
    assert set(model.sharing.learnt(model)) == {"task_correlations", "task_covariance"}
    assert model.sharing.why_no_representation(3) is None
    assert MTRL().why_no_representation(3) is not None


def test_of_heads_with_other_outputs_the_hidden_layers_are_under_the_prior():
    head = MLPHead(width=6)
    of_tasks = {
        "mood": SingleTextClassification(source=UnavailableSource(), head=head),
        "nli": TextPairClassification(source=UnavailableSource(), head=head),
    }
    model = model_with(MTRL(prior_on="heads", strength=1.0), of_tasks=of_tasks)
    first, second = (model.heads[task][1] for task in ("mood", "nli"))
    assert torch.equal(first.weight, second.weight)
    perturb(model.heads)
    expected = 2 * sum(layer.weight.square().sum() + layer.bias.square().sum() for layer in (first, second))
    found = model.sharing.penalties(model)["task_relationship"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert model.heads["nli"][4].weight.grad is None


def test_heads_with_nothing_in_common_are_refused():
    message = (
        r"sharing\.prior_on: found 'heads', but no parameter has the same name and shape.*mood: 1\.weight \(2, 32\).*"
        r"nli: 1\.weight \(3, 32\).*hidden layer of the same width.*sharing\.prior_on=adapters"
    )
    with pytest.raises(UserError, match=message):
        model_with(MTRL(prior_on="heads"))


def test_a_head_of_several_tasks_is_refused():
    of_tasks = two_tasks()
    of_tasks["second"].share_head_with = "first"
    with pytest.raises(UserError, match=r"sharing\.prior_on: found 'heads', but first, second have one head together"):
        model_with(MTRL(prior_on="heads"), of_tasks=of_tasks)


def test_blocks_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[3\]"):
        MTRL(blocks=[3]).check_num_blocks(3)
