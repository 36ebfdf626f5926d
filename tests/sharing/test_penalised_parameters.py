"""What penalties read, and that rows of the word embedding wait to be updated where that is something else."""

from dataclasses import dataclass

import pytest
import torch
from expert_tools import model_with
from gradients.steps import CPU, step_of

from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.sharing import MTRL, AdaShare, HardSharing, Hierarchical, SoftL2, SoftTraceNorm, TrainingMoment
from mtl_cli.training import AdamW
from mtl_cli.weighting import Equal

NAMES = ("mood", "nli", "tags")
LEVELS = {"mood": 1, "nli": 2, "tags": 3}


@dataclass(kw_only=True)
class Decay(HardSharing):
    """A strategy of a user, with a penalty of which it says nothing."""

    def penalties(self, model):
        return {"decay": sum(parameter.square().sum() for parameter in model.encoder.parameters())}


@dataclass(kw_only=True)
class Closed(HardSharing):
    """A strategy of a user, with an update in closed form of which it says nothing."""

    def start_step(self, model, moment):
        with torch.no_grad():
            model.encoder.model.get_input_embeddings().weight.mul_(0.9)


READ_OTHERS = [
    HardSharing(),
    AdaShare(warmup_epochs=0.0, sparsity=0.5),
    MTRL(update_every_steps=2, strength=0.1),
    Hierarchical(levels=LEVELS),
    SoftL2(strength=0.5, num_shared_layers=1),
    SoftTraceNorm(strength=0.5, num_shared_layers=2),
    SoftTraceNorm(strength=0.5, num_shared_layers=2, form="tucker"),
]
READ_THE_EMBEDDING = [Hierarchical(levels=LEVELS, successive_regularisation=0.1), Decay(), Closed()]
# The embeddings of columns are no single table to look things up in.
WHOLE_COLUMNS = [SoftL2(strength=0.5), SoftTraceNorm(strength=0.5)]


def moved_model(strategy):
    model = model_with(strategy)
    model.sharing.start_step(model, TrainingMoment(0, 9, 3))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + 0.01 * number)
    return model


@pytest.mark.parametrize("strategy", [*READ_OTHERS, *READ_THE_EMBEDDING, *WHOLE_COLUMNS], ids=str)
def test_penalties_have_gradients_in_no_other_parameters(strategy):
    model = moved_model(strategy)
    penalties = strategy.penalties(model)
    said = {id(parameter) for parameter in strategy.penalised_parameters(model)}
    if not penalties:
        assert not said or type(strategy) is Closed
        return
    sum(penalties.values()).backward()
    read = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
    assert read <= said
    assert read


def trained(strategy, lazy):
    """A model after some steps, in which rows of the embedding waited or did not."""
    model = model_with(strategy).train()
    # Gradients of which nothing but rounding is left (attention's key biases) would grow to whole updates.
    optimizer = AdamW(lr=1e-3, weight_decay=0.1, eps=1e-6).build(model, lazy=lazy)
    weighting = Equal()
    weighting.start(NAMES)
    engine = GradientEngine(model, weighting, Losses(model, "fp32", CPU))
    torch.manual_seed(3)
    for number in range(6):
        strategy.start_step(model, TrainingMoment(number, 6, 2))
        step = step_of(NAMES, seed=number)
        if optimizer.is_lazy:
            optimizer.catch_up(model.encoder.ids_read([step]))
        engine.step([[step]])
        optimizer.step()
        optimizer.zero_grad()
        engine.after_update()
        before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.catch_up()
    waited = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return model, optimizer, waited


@pytest.mark.parametrize("strategy", READ_OTHERS, ids=str)
def test_rows_wait_where_penalties_read_other_parameters_and_the_result_is_that_of_adamw(strategy):
    eager, optimizer, waited = trained(strategy, lazy=False)
    assert not optimizer.is_lazy
    assert not waited
    lazy, optimizer, waited = trained(strategy, lazy=True)
    assert optimizer.is_lazy
    assert waited
    for (name, ours), theirs in zip(lazy.named_parameters(), eager.parameters(), strict=True):
        if name.endswith("key.bias"):  # its gradient is rounding alone, which AdamW makes as large as any other
            continue
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("strategy", [*READ_THE_EMBEDDING, *WHOLE_COLUMNS], ids=str)
def test_no_row_waits_where_a_penalty_reads_the_embedding(strategy):
    assert not AdamW(lr=1e-3).build(model_with(strategy), lazy=True).is_lazy
