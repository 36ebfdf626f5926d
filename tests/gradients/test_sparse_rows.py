"""Gradients of an embedding that hold the touched rows alone are those that hold all."""

import pytest
import torch
from gradients.steps import model_of, run, step_of

from mtl_cli.training import AdamW
from mtl_cli.training.clipping import clip_gradients
from mtl_cli.weighting import Equal, PCGrad, UncertaintyWeighting


@pytest.mark.parametrize("engine", ["segmented", "per_task"])
def test_a_weighting_of_gradients_writes_touched_rows(engine):
    dense, sparse = model_of(), model_of()
    word = sparse.encoder.model.get_input_embeddings()
    word.sparse = True
    parts = [[step_of(), step_of(seed=1)]]
    _, _, expected = run(dense, PCGrad(engine=engine), parts)
    run(sparse, PCGrad(engine=engine), parts)
    assert word.weight.grad.is_sparse
    for name, parameter in sparse.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weighting", [Equal, UncertaintyWeighting, PCGrad])
def test_five_updates_are_those_without_waiting_rows(weighting):
    models = []
    for lazy in (False, True):
        model = model_of()
        optimizer = AdamW(lr=1e-3, weight_decay=0.1).build(model, lazy=lazy)
        assert optimizer.is_lazy == lazy
        for number in range(5):
            step = step_of(seed=number)
            optimizer.catch_up(model.encoder.ids_read([step]))
            run(model, weighting(), [[step]])
            norm = clip_gradients(optimizer, list(model.parameters()), 0.1)
            assert norm > 0.1
            optimizer.step()
            optimizer.zero_grad()
        optimizer.catch_up()
        models.append(model)
    for theirs, ours in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
