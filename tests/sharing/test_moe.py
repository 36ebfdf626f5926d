"""Sparse mixture of experts: routing, balance, and whose router it is."""

from types import SimpleNamespace

import expert_tools
import pytest
import torch
from encoders import tiny_encoders
from expert_tools import FAMILIES, LENGTHS, hidden, model_with, move
from gradients.steps import CPU, batch, step_of
from torch.nn.functional import gelu

from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.auxiliary import collect_auxiliary_losses
from mtl_cli.sharing.moe import MoE, Places
from mtl_cli.types import UserError
from mtl_cli.weighting import Equal, PCGrad

SMALL = {"num_experts": 4, "expert_width": 8}


def attached(encoder, names=tuple(LENGTHS), **settings):
    return expert_tools.attached(encoder, MoE(**settings), names)


def model_of(**settings):
    return model_with(MoE(**settings))


def layers_of(encoder):
    return [module for module in encoder.modules() if type(module).__name__ == "WithRoutedExperts"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {**SMALL, "top_k": 1, "blocks": [1], "task_conditioned": False}])
def test_the_start_is_the_plain_encoder(make_encoder, family, settings):
    expert_tools.assert_starts_as_the_plain_encoder(make_encoder, MoE(**settings), family)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_each_token_gets_the_weighted_outputs_of_its_best_experts(make_encoder, family, top_k):
    encoder = attached(make_encoder(family), **SMALL, top_k=top_k, blocks=[1])
    (layer,) = layers_of(encoder)
    move(layer, 0.3)
    seen = {}
    layer.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0], output=output))
    _, layout = hidden(encoder)
    y_all = layer.wrapped(seen["inputs"])
    linear = layer.router.logits.linear
    for task, rows in layout.row_slices.items():
        for row in range(rows.start, rows.stop):
            for place in range(layout.lengths[row]):
                at = (0, layout.starts[row] + place) if layout.packed else (row, place)
                y = y_all[at]
                logits = linear.weight @ y + linear.bias + layer.router.of_task[task].offset
                p = logits.exp() / logits.exp().sum()
                best = sorted(range(4), key=p.detach().tolist().__getitem__, reverse=True)[:top_k]
                whole = sum(p[e] for e in best) if top_k > 1 else 1.0
                expected = y.clone()
                for e in best:
                    expert = layer.experts[e]
                    inner = gelu(expert.down.weight @ y + expert.down.bias)
                    expected += p[e] / whole * (expert.up.weight @ inner + expert.up.bias)
                torch.testing.assert_close(seen["output"][at], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["deberta-v2", "t5"])
def test_padding_is_routed_nowhere(make_encoder, family, monkeypatch):
    encoder = attached(make_encoder(family), **SMALL, blocks=[1])
    (layer,) = layers_of(encoder)
    move(layer, 0.3)
    found = []
    of = Places.of
    monkeypatch.setattr(Places, "of", lambda *args: found.append(of(*args)) or found[-1])
    seen = {}
    layer.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0], output=output))
    _, layout = hidden(encoder)
    (places,) = found
    assert layout.num_tokens == 66
    assert len(places.of_choice.unique()) == 2 * 66
    assert torch.equal(places.token_of[places.of_choice], torch.arange(66)[:, None].expand(66, 2))
    is_padding_BT = ~layout.padding(CPU).is_real_BT
    assert torch.equal(seen["output"][is_padding_BT], layer.wrapped(seen["inputs"])[is_padding_BT])


def test_places_stand_expert_after_expert_in_multiples_of_64():
    # Three tokens with two experts each: 2 and 0, 0 and 3, 2 and 3; none takes expert 1.
    places = Places.of(torch.tensor([[2, 0], [0, 3], [2, 3]]), 4)
    assert places.sizes == [64, 0, 64, 64]
    assert places.of_choice.tolist() == [[64, 0], [1, 128], [65, 129]]
    assert {place: places.token_of[place].item() for place in (0, 1, 64, 65, 128, 129)} == {
        0: 0, 1: 1, 64: 0, 65: 2, 128: 1, 129: 2
    }  # fmt: skip
    assert len(places.token_of) == 192
    # 65 choices of one expert take two times 64 places.
    assert Places.of(torch.zeros(65, 1, dtype=torch.int64), 2).sizes == [128, 0]


def test_no_tokens_are_sent_nowhere_and_experts_have_gradients_of_zero(make_encoder):
    (layer,) = layers_of(attached(make_encoder("bert"), **SMALL, blocks=[1], task_conditioned=False))
    tokens_ND = torch.zeros(0, layer.experts[0].down.in_features, requires_grad=True)
    layer._change(tokens_ND, SimpleNamespace(token_slices={})).sum().backward()
    assert tokens_ND.grad.shape == tokens_ND.shape
    assert not any(parameter.grad.any() for parameter in layer.experts.parameters())


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_gradients_are_those_of_all_experts_computed_for_all_tokens(make_encoder, top_k):
    """Against autograd on the dense sum, in which a gate of 0 takes out what a token did not choose; in float64."""
    encoder = attached(make_encoder("bert"), **SMALL, top_k=top_k, blocks=[1]).double()
    (layer,) = layers_of(encoder)
    move(layer, 0.3)
    seen = {}
    layer.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0].detach(), output=output))
    hidden(encoder)
    weights = torch.randn(seen["output"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer.zero_grad()
    (seen["output"] * weights).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    y = layer.wrapped(seen["inputs"])
    _, layout = tiny_encoders.rows(LENGTHS, packed=True)
    linear = layer.router.logits.linear
    offsets = [layer.router.of_task[task].offset.expand(len(range(*part.indices(66))), -1)
               for task, part in layout.token_slices.items()]  # fmt: skip
    p = (y[0] @ linear.weight.T + linear.bias + torch.cat(offsets)).softmax(-1)
    gates = p * torch.zeros_like(p).scatter(1, p.topk(top_k).indices, 1.0)
    gates = gates / gates.sum(-1, keepdim=True) if top_k > 1 else gates
    dense = y + sum(gate[:, None] * expert(y[0]) for gate, expert in zip(gates.T, layer.experts, strict=True))
    (dense * weights).sum().backward()
    assert len(found) > 20
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, top_k):
    expert_tools.assert_rows_stay_apart(make_encoder, MoE(**SMALL, top_k=top_k), family)


@pytest.mark.parametrize("packed", [True, False])
def test_the_losses_of_the_router_by_hand(make_encoder, packed):
    encoder = attached(make_encoder("bert", packed), **SMALL, blocks=[1], load_balance=0.5, router_z=0.25)
    (layer,) = layers_of(encoder)
    move(layer.router, 0.5)
    seen = {}
    layer.wrapped.register_forward_hook(lambda module, inputs, output: seen.update(y=output))
    for module in encoder.modules():  # in training, but without dropout
        module.training = type(module).__name__ == "Router"
    with collect_auxiliary_losses() as collected:
        _, layout = hidden(encoder)
    linear = layer.router.logits.linear
    for task, rows in layout.row_slices.items():
        chosen, p_sum, z_sum, count = [0] * 4, [0.0] * 4, 0.0, 0
        for row in range(rows.start, rows.stop):
            for place in range(layout.lengths[row]):
                y = seen["y"][(0, layout.starts[row] + place) if packed else (row, place)]
                logits = (linear.weight @ y + linear.bias + layer.router.of_task[task].offset).tolist()
                exps = torch.tensor(logits).exp().tolist()
                for e in sorted(range(4), key=lambda e: -logits[e])[:2]:
                    chosen[e] += 1
                p_sum = [p + x / sum(exps) for p, x in zip(p_sum, exps, strict=True)]
                z_sum += torch.tensor(sum(exps)).log().item() ** 2
                count += 1
        balance = 4 * sum(c / (2 * count) * p / count for c, p in zip(chosen, p_sum, strict=True))
        assert collected["load_balance"][task].item() == pytest.approx(0.5 * balance, rel=1e-4)
        assert collected["router_z"][task].item() == pytest.approx(0.25 * z_sum / count, rel=1e-4)


def test_experts_that_are_used_alike_have_a_balance_of_one():
    # Uniform probabilities: E sum_e f_e / E = 1, whatever f.
    model = model_of(**SMALL, blocks=[0]).train()
    (layer,) = layers_of(model.encoder)
    torch.nn.init.zeros_(layer.router.logits.linear.weight)
    weighting = Equal()
    weighting.start(list(model.tasks))
    result = GradientEngine(model, weighting, Losses(model, "fp32", CPU)).step([[step_of(tuple(model.tasks))]])
    assert float(result.penalties["load_balance"]) == pytest.approx(0.01 * 3)
    assert "router_z" not in result.penalties


def test_the_balance_loss_spreads_tokens_over_the_experts(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, top_k=1, blocks=[1], load_balance=1.0)
    (layer,) = layers_of(encoder)
    with torch.no_grad():
        layer.router.logits.linear.bias[2] = 1.0
    layer.router.train()
    optimizer = torch.optim.Adam(layer.router.parameters(), lr=0.05)
    counts = []
    layer.router.register_forward_hook(
        lambda module, inputs, output: counts.append(output[0].flatten().bincount(minlength=4).max().item())
    )
    for _ in range(60):
        with collect_auxiliary_losses() as collected:
            hidden(encoder)
        optimizer.zero_grad()
        torch.stack(list(collected["load_balance"].values())).sum().backward()
        optimizer.step()
    assert counts[0] > 55  # of 66 tokens
    assert min(counts[-10:]) < 35


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_task_s_loss_trains_its_own_offsets_and_what_is_shared(make_encoder, family):
    encoder = attached(make_encoder(family), **SMALL, top_k=2)
    move(encoder)
    hidden_ND, layout = hidden(encoder)
    hidden_ND[layout.token_slices["b"]].pow(2).sum().backward()
    partition = parameter_partition(encoder)
    own = {name: part for name, part in partition.items() if part != "shared"}
    assert sorted(own.values()) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    for name, part in own.items():
        gradient = encoder.get_parameter(name).grad
        assert (gradient is not None and gradient.abs().sum() > 0) == (part == "b"), name
    # An expert without tokens has a gradient of zeros, not none.
    assert all(p.grad is not None for layer in layers_of(encoder) for p in layer.experts.parameters())
    assert all(p.grad.abs().sum() > 0 for layer in layers_of(encoder) for p in layer.router.logits.parameters())


def test_a_single_choice_teaches_the_router(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, top_k=1)
    move(encoder)
    hidden(encoder)[0].pow(2).sum().backward()
    assert all(layer.router.logits.linear.weight.grad.abs().sum() > 0 for layer in layers_of(encoder))


def test_a_router_that_does_not_know_the_task_leaves_nothing_to_one(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, task_conditioned=False)
    assert set(parameter_partition(encoder).values()) == {"shared"}


def test_a_frozen_encoder_trains_experts_and_routers_alone(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, train_encoder=False)
    assert all(".experts." in name or ".router." in name for name in parameter_partition(encoder))


def test_noise_is_drawn_in_training_alone_and_can_be_repeated(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, router_noise=5.0)
    move(encoder)
    torch.testing.assert_close(hidden(encoder)[0], hidden(encoder)[0])
    for layer in layers_of(encoder):
        layer.router.train()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(hidden(encoder)[0])
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 0.01


def test_tokens_of_several_tasks_in_one_product_need_a_backward_pass_a_task():
    model = model_of(**SMALL)
    weighting = PCGrad(engine="segmented")
    weighting.start(list(model.tasks), seed=1)
    with pytest.raises(UserError, match="an expert sees the tokens that are routed to it"):
        GradientEngine(model, weighting, Losses(model, "fp32", CPU))


def test_what_the_router_does_in_evaluation_is_learnt_about_the_tasks():
    model = model_of(**SMALL, blocks=[0, 2]).eval()
    assert model.sharing.learnt(model) == {}
    router = layers_of(model.encoder)[1].router
    with torch.no_grad():
        router.of_task["nli"].offset[:2] = 50.0
        torch.nn.init.zeros_(router.logits.linear.weight)
    with torch.inference_mode():
        model({"mood": batch("mood", [4, 7]), "nli": batch("nli", [5])})
    found = model.sharing.learnt(model)
    assert set(found) == {"gates_block_0", "gates_block_2", "gate_entropy"}
    assert found["gates_block_2"].values[1] == pytest.approx((0.5, 0.5, 0.0, 0.0))
    assert sum(found["gates_block_0"].values[0]) == pytest.approx(1.0)
    assert found["gate_entropy"].values[1][1] == pytest.approx(0.5)  # log 2 in units of log 4
    assert found["gate_entropy"].values[2] == (None, None)
    model.sharing.forget_usage(model)
    assert model.sharing.learnt(model) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": [3]}, r"sharing\.blocks: found \[3\], but .* allowed: .* to 2, .* or null"),
        ({"blocks": [1, 1]}, r"sharing\.blocks: found \[1, 1\]"),
        ({"blocks": []}, r"sharing\.blocks: found \[\]"),
    ],
)
def test_blocks_that_do_not_exist_are_refused(make_encoder, settings, message):
    with pytest.raises(UserError, match=message):
        MoE(**settings).check_num_blocks(3)
    with pytest.raises(UserError, match=message):
        attached(make_encoder("bert"), **settings)


def test_more_choices_than_experts_are_refused():
    with pytest.raises(UserError, match=r"sharing\.top_k: found 9, but there are 8 experts; allowed: 1 to 8"):
        MoE(top_k=9)
