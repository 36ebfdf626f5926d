"""What the penalties of soft sharing add to gradients is what autograd makes of their definition."""

import pytest
import torch
from gradients.steps import LABELS, gradients_of, model_of, tasks

from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import SoftL2, SoftTraceNorm
from mtl_cli.sharing.columns import column_parameters

NAMES = ("mood", "nli", "tags")


def moved_model(sharing, size):
    model = MultiTaskModel(model_of().encoder, sharing, {name: tasks()[name] for name in NAMES}, LABELS)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def flattenings(tensor, form):
    """The matrices whose trace norms a form takes the mean of, by their definition."""
    axes = range(tensor.ndim)
    if form == "tensor_train":
        return [tensor.reshape(tensor.shape[: axis + 1].numel(), -1) for axis in axes[:-1]]
    return [tensor.movedim(axis, 0).flatten(1) for axis in (axes[-1:] if form == "last_axis" else axes)]


def trace_norm_of_definition(model, strength, form):
    """The penalty by singular values in float64, and what is differentiated: smooth below 1e-4 of the largest."""
    values, smooth = [], []
    for found in column_parameters(model.encoder):
        matrices = flattenings(torch.stack([column.double() for column in found.of_columns], dim=-1), form)
        for matrix in matrices:
            singular = torch.linalg.svdvals(matrix)
            values.append(singular.detach().sum() / len(matrices))
            smooth.append((singular**2 + (1e-4 * singular.detach().max()) ** 2).sqrt().sum() / len(matrices))
    return {"trace_norm": strength * sum(values).float()}, strength * sum(smooth)


def expected(model):
    """The penalty's values and what is differentiated."""
    sharing = model.sharing
    if isinstance(sharing, SoftTraceNorm):
        return trace_norm_of_definition(model, sharing.strength, sharing.form)
    values = sharing.penalties(model)
    return values, torch.stack(list(values.values())).sum()


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize(
    "sharing",
    [
        SoftL2(strength=0.3),
        SoftL2(strength=0.3, form="pairwise", num_shared_layers=1),
        SoftTraceNorm(strength=0.1),
        SoftTraceNorm(strength=0.1, form="tucker", num_shared_layers=2),
        SoftTraceNorm(strength=0.1, form="tensor_train", num_shared_layers=2),
    ],
    ids=["l2", "l2_pairwise", "trace_norm", "tucker", "tensor_train"],
)
def test_gradients_are_those_of_autograd_whatever_was_there_before(sharing, size, monkeypatch):
    monkeypatch.setattr("mtl_cli.sharing.column_chunks.CHUNK", 999)
    model = moved_model(sharing, size)
    wanted_values, objective = expected(model)
    objective.backward()
    wanted = gradients_of(model)
    model.zero_grad(set_to_none=True)
    # Some columns have a gradient already, some not contiguous (of which autograd, for the other forms, warns).
    before = {}
    for number, (name, parameter) in enumerate(model.encoder.named_parameters()):
        if number % 3 and parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
            if number % 3 == 2 and parameter.ndim == 2 and sharing.form not in ("tucker", "tensor_train"):
                parameter.grad = parameter.grad.T.contiguous().T
            before[f"encoder.{name}"] = parameter.grad.clone()
    values = sharing.add_penalty_gradients(model)
    assert values.keys() == wanted_values.keys()
    for name, value in values.items():
        torch.testing.assert_close(value, wanted_values[name].detach(), atol=1e-6, rtol=1e-5)
    found = gradients_of(model)
    assert wanted
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name] - before.get(name, 0.0), gradient, atol=2e-6, rtol=1e-4)
    assert all(torch.equal(found[name], before[name]) for name in before.keys() - wanted.keys())


def test_equal_columns_are_not_pulled_at_all():
    model = moved_model(SoftL2(strength=0.3), size=0.0)
    assert model.sharing.add_penalty_gradients(model)["soft_l2"] == 0.0
    assert not any(gradient.any() for gradient in gradients_of(model).values())
