"""Soft sharing by trace norms of the tasks' stacked parameters."""

import math

import pytest
import torch
from gradients.steps import model_of, run, step_of, tasks

from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing.columns import column_parameters
from mtl_cli.sharing.soft_trace_norm import SoftTraceNorm, tensor_trace_norm
from mtl_cli.weighting import Equal

FORMS = ("last_axis", "tucker", "tensor_train")
NAMES = ("mood", "nli", "tags")


def soft_model(family="bert", names=NAMES, **settings):
    plain = model_of(family)
    of_tasks = {name: task for name, task in tasks().items() if name in names}
    return MultiTaskModel(
        plain.encoder, SoftTraceNorm(**settings), of_tasks, {name: plain.labels[name] for name in names}
    ).eval()


def move(model, scale=0.05):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def by_torch(of_tasks, form):
    """The same from the definition: stacked along a last axis, unfolded, and torch's nuclear norm."""
    stacked = torch.stack(list(of_tasks), dim=-1)
    n = stacked.ndim
    if form == "last_axis":
        matrices = [stacked.movedim(-1, 0).reshape(stacked.shape[-1], -1)]
    elif form == "tucker":
        matrices = [stacked.movedim(axis, 0).reshape(stacked.shape[axis], -1) for axis in range(n)]
    else:
        matrices = [stacked.reshape(math.prod(stacked.shape[: axis + 1]), -1) for axis in range(n - 1)]
    return sum(torch.linalg.matrix_norm(matrix, ord="nuc") for matrix in matrices) / len(matrices)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 8), (30, 2), (3, 4, 5)])
def test_value_and_gradient_are_torch_s(form, shape):
    torch.manual_seed(0)
    ours = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    theirs = [value.detach().double().requires_grad_() for value in ours]
    found, wanted = tensor_trace_norm(ours, form), by_torch(theirs, form)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)
    (2.5 * found).backward()
    (2.5 * wanted).backward()
    for value, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value.grad.double(), reference.grad, atol=1e-5, rtol=1e-4)


def test_two_tasks_by_hand():
    # Rows (3, 0) and (0, 4) are orthogonal: singular values 3 and 4, gradient U Vᵀ = the rows' directions.
    first, second = (torch.tensor(row, requires_grad=True) for row in ([3.0, 0.0], [0.0, 4.0]))
    norm = tensor_trace_norm([first, second], "last_axis")
    norm.backward()
    assert norm.item() == pytest.approx(7.0)
    torch.testing.assert_close(first.grad, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(second.grad, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("form", FORMS)
def test_equal_columns_have_equal_gradients(form):
    torch.manual_seed(0)
    start = torch.randn(6, 300)
    columns = [start.clone().requires_grad_() for _ in range(4)]
    tensor_trace_norm(columns, form).backward()
    assert all(column.grad.isfinite().all() for column in columns)
    if form == "last_axis":
        # K equal rows w: one singular value, sqrt(K) ||w||, whose gradient by each row is w / (sqrt(K) ||w||).
        for column in columns:
            torch.testing.assert_close(column.grad, start / (2 * start.norm()), atol=1e-7, rtol=1e-5)
    for column in columns[1:]:
        torch.testing.assert_close(column.grad, columns[0].grad, atol=1e-7, rtol=1e-5)


def test_columns_that_differ_by_little_are_drawn_together():
    torch.manual_seed(0)
    start, difference = torch.randn(2, 40, 50)
    columns = [(start + sign * 1e-3 * difference).requires_grad_() for sign in (1, -1)]
    tensor_trace_norm(columns, "last_axis").backward()
    apart = columns[0].grad - columns[1].grad
    # The second singular direction is that of the difference, less its part along the mean, and is pulled by 1.
    rest = difference - start * (start * difference).sum() / start.square().sum()
    torch.testing.assert_close(apart / math.sqrt(2), rest / rest.norm(), atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("form", FORMS)
def test_zeros_have_no_gradient(form):
    columns = [torch.zeros(3, 4, requires_grad=True) for _ in range(2)]
    norm = tensor_trace_norm(columns, form)
    norm.backward()
    assert norm.item() == 0.0
    assert all(not column.grad.any() for column in columns)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_penalty_is_the_sum_over_parameters(form, family):
    model = soft_model(family, strength=0.2, form=form, num_shared_layers=1)
    move(model)
    wanted = 0.2 * sum(
        float(by_torch([column.detach().double() for column in found.of_columns], form))
        for found in column_parameters(model.encoder)
    )
    penalty = model.sharing.penalties(model)
    assert list(penalty) == ["trace_norm"]
    assert penalty["trace_norm"].item() == pytest.approx(wanted, rel=1e-5)


def test_chunks_of_a_long_parameter_add_up(monkeypatch):
    torch.manual_seed(0)
    columns = [torch.randn(10, 13) for _ in range(3)]
    whole = tensor_trace_norm(columns, "last_axis")
    monkeypatch.setattr("mtl_cli.sharing.column_chunks.CHUNK", 51)  # 17 numbers of each
    torch.testing.assert_close(tensor_trace_norm(columns, "last_axis"), whole)


def test_strength_0_and_one_task_compute_nothing():
    model = soft_model(strength=0.0)
    assert model.sharing.penalties(model) == {}
    model = soft_model(names=["mood"])
    assert model.sharing.penalties(model) == {}
    assert model.sharing.learnt(model) == {}


def test_training_with_the_penalty_keeps_the_rank_lower():
    ranks, losses = {}, {}
    for strength in (0.0, 0.05):
        model = soft_model(strength=strength)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        totals = []
        for number in range(20):
            _, result, _ = run(model, Equal(), [[step_of(NAMES, seed=number % 2)]])
            totals.append(float(sum(result.losses.values())))
            optimizer.step()
        found = model.sharing.learnt(model)["effective_rank"]
        ranks[strength] = torch.tensor(found.values)[:, 0]
        losses[strength] = totals
    assert (ranks[0.05] < ranks[0.0]).all()
    assert all(sum(totals[-2:]) < sum(totals[:2]) for totals in losses.values())


def test_learnt_spectrum():
    model = soft_model("modernbert", num_shared_layers=1)
    found = model.sharing.learnt(model)
    assert found["singular_values"].rows == found["effective_rank"].rows == ("block_1", "block_2", "final_norm")
    for shares, rank in zip(found["singular_values"].values, found["effective_rank"].values, strict=True):
        assert shares == pytest.approx((1.0, 0.0, 0.0), abs=1e-6)  # all columns are equal
        assert rank[0] == pytest.approx(1.0, abs=1e-4)
    move(model)
    parameters = [p for p in column_parameters(model.encoder) if p.part == "block_2"]
    values = [torch.linalg.svdvals(torch.stack([c.detach().flatten() for c in p.of_columns])) for p in parameters]
    shares = torch.stack([value / value.sum() for value in values]).mean(0)
    found = model.sharing.learnt(model)
    assert found["singular_values"].values[1] == pytest.approx(shares.tolist(), rel=1e-4)
    entropy = -sum(share * math.log(share) for share in shares.tolist())
    assert found["effective_rank"].values[1][0] == pytest.approx(math.exp(entropy), rel=1e-4)
