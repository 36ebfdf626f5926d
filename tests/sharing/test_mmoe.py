"""Multi-gate mixture of experts: shared experts in the upper blocks, a gate a task."""

from copy import deepcopy

import expert_tools
import pytest
import torch
from expert_tools import FAMILIES, LENGTHS, hidden, model_with, move
from gradients.steps import CPU, batch, step_of

from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.sharing import HardSharing, parameter_partition
from mtl_cli.sharing.mmoe import MixedBlocks, MMoE, WithExperts
from mtl_cli.sharing.wrappers import marks_of
from mtl_cli.types import UserError
from mtl_cli.weighting import Equal

SMALL = {"expert_width": 8}
BLOCKS = {"experts": "block", "num_experts": 3, "expert_noise": 0.0}


def attached(encoder, **settings):
    return expert_tools.attached(encoder, MMoE(**settings))


def model_of(settings, **others):
    return model_with(MMoE(**settings), **others)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**BLOCKS, "blocks": None},
        {**BLOCKS, "num_experts": 1, "gate_level": "row"},
        {**BLOCKS, "gate": "dselect_k", "gate_level": "task"},
        {**SMALL, "gate": "dselect_k", "blocks": None},
    ],
    ids=["defaults", "block", "one", "dselect_k", "feed_forward"],
)
def test_the_start_is_the_plain_encoder(make_encoder, family, settings):
    expert_tools.assert_starts_as_the_plain_encoder(make_encoder, MMoE(**settings), family)


@pytest.mark.parametrize("gate_level", ["token", "row", "task"])
def test_one_expert_is_hard_sharing_wherever_training_leads(make_encoder, gate_level):
    encoder = make_encoder("bert")
    attached(encoder, experts="block", num_experts=1, blocks=[1, 2], gate_level=gate_level)
    plain = make_encoder("bert")
    HardSharing().attach(plain, list(LENGTHS))
    move(plain)
    for mixed, block in zip(encoder.blocks[1:], plain.blocks[1:], strict=True):
        mixed.wrapped.load_state_dict(block.state_dict())
        move(mixed.gates)
    encoder.blocks[0].load_state_dict(plain.blocks[0].state_dict())
    encoder.model.embeddings.load_state_dict(plain.model.embeddings.state_dict())
    torch.testing.assert_close(hidden(encoder)[0], hidden(plain.eval())[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_blocks_are_mixed_token_by_token_by_the_row_s_own_gate(make_encoder, family):
    encoder = attached(make_encoder(family), experts="block", num_experts=3, blocks=[-1])
    mixed = encoder.blocks[-1]
    move(mixed)
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = (inputs[0], output[0] if isinstance(output, tuple) else output)

        return hook

    for name, module in {"all": mixed, "0": mixed.wrapped, "1": mixed.others[0], "2": mixed.others[1]}.items():
        module.register_forward_hook(keep(name))
    _, layout = hidden(encoder)
    inputs, output = seen["all"]
    for task, rows in layout.row_slices.items():
        linear = mixed.gates.of_task[task].logits.linear
        for row in range(rows.start, rows.stop):
            for place in range(layout.lengths[row]):
                at = (0, layout.starts[row] + place) if layout.packed else (row, place)
                logits = linear.weight @ inputs[at] + linear.bias
                shares = (logits - logits.max()).exp()
                shares = shares / shares.sum()
                expected = sum(share * seen[str(number)][1][at] for number, share in enumerate(shares))
                torch.testing.assert_close(output[at], expected, atol=1e-4, rtol=1e-4)


def test_bottlenecks_add_their_mixture_to_the_layer_s_output(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, num_experts=2, blocks=[-1])
    layer = encoder.blocks[-1].output.dense
    assert isinstance(layer, WithExperts)
    move(layer, 0.3)
    seen = {}
    layer.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0], output=output))
    _, layout = hidden(encoder)
    y_1ND = layer.wrapped(seen["inputs"])
    for task, tokens in layout.token_slices.items():
        gate = layer.gates.of_task[task].logits.linear
        for token in range(tokens.start, tokens.stop):
            y = y_1ND[0, token]
            shares = (gate.weight @ y + gate.bias).softmax(0)
            expected = y.clone()
            for share, expert in zip(shares, layer.experts, strict=True):
                inner = torch.nn.functional.gelu(expert.down.weight @ y + expert.down.bias)
                expected += share * (expert.up.weight @ inner + expert.up.bias)
            torch.testing.assert_close(seen["output"][0, token], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
@pytest.mark.parametrize("settings", [SMALL, {**BLOCKS, "blocks": None, "gate_level": "row"}])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, settings):
    expert_tools.assert_rows_stay_apart(make_encoder, MMoE(**settings), family)


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("settings", [SMALL, BLOCKS])
def test_a_task_s_loss_trains_all_experts_and_its_own_gates(make_encoder, family, settings):
    encoder = attached(make_encoder(family), **settings)
    move(encoder)
    hidden_ND, layout = hidden(encoder)
    hidden_ND[layout.token_slices["b"]].pow(2).sum().backward()
    for name, part in parameter_partition(encoder).items():
        gradient = encoder.get_parameter(name).grad
        if part == "shared":
            assert any(word in name for word in ("pos", "relative")) or gradient.abs().sum() > 0, name
        elif part == "b":
            assert gradient.abs().sum() > 0, name
        else:
            assert gradient is None or not gradient.any(), name


@pytest.mark.parametrize("settings", [{**SMALL, "blocks": [-1]}, {**BLOCKS, "blocks": [-1]}])
def test_experts_are_shared_and_gates_are_the_tasks_own(make_encoder, settings):
    encoder = attached(make_encoder("bert"), **settings)
    own = {name: part for name, part in parameter_partition(encoder).items() if part != "shared"}
    assert sorted(own.values()) == ["a", "a", "b", "b", "c", "c"]
    assert all(".gates.of_task." in name for name in own)
    marks = marks_of(deepcopied := deepcopy(encoder))
    assert all(not marks[id(deepcopied.get_parameter(name))].decay for name in own)


def test_all_experts_see_the_rows_of_all_tasks_in_one_call(make_encoder):
    encoder = attached(make_encoder("bert"), **BLOCKS, blocks=[-1])
    calls = []
    mixed = encoder.blocks[-1]
    assert isinstance(mixed, MixedBlocks)
    for block in [mixed.wrapped, *mixed.others]:
        block.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape[1]))
    hidden(encoder)
    assert calls == [66, 66, 66]


def test_the_first_expert_is_the_block_and_copies_differ_by_the_noise(make_encoder):
    encoder = make_encoder("bert")
    before = {name: value.clone() for name, value in encoder.blocks[2].state_dict().items()}
    attached(encoder, experts="block", num_experts=3, expert_noise=0.1, blocks=[-1])
    mixed = encoder.blocks[2]
    assert all(torch.equal(value, before[name]) for name, value in mixed.wrapped.state_dict().items())
    for name, value in mixed.others[0].state_dict().items():
        size = (value - before[name]).std() / before[name].std()
        assert 0.07 < size < 0.13 if value.ndim > 1 else size == 0
    assert not torch.equal(mixed.others[0].output.dense.weight, mixed.others[1].output.dense.weight)


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("settings", [SMALL, BLOCKS])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family, settings):
    strategy = MMoE(**settings, gate="dselect_k")
    expert_tools.assert_activation_checkpointing_changes_nothing(make_encoder, strategy, family)


@pytest.mark.parametrize(
    "settings",
    [{**SMALL, "gate_level": "row"}, BLOCKS, {**SMALL, "gate": "dselect_k", "num_experts": 3}],
    ids=["feed_forward", "block", "dselect_k"],
)
def test_each_task_s_gradient_comes_from_one_backward_pass(settings):
    expert_tools.assert_one_backward_pass_gives_each_task_s_gradient(MMoE(**settings))


def test_penalties_of_dselect_k_reach_the_objective():
    model = model_of({**SMALL, "gate": "dselect_k", "num_experts": 3, "blocks": [-1]}).train()
    weighting = Equal()
    weighting.start(list(model.tasks))
    result = GradientEngine(model, weighting, Losses(model, "fp32", CPU)).step([[step_of(tuple(model.tasks))]])
    # At the start each selector gives about 1/4 to each of four numbers: 3/4 log 4 each, on three experts; surplus
    # 4/3 - 1 each; two selectors, three tasks.
    assert float(result.penalties["selector_entropy"]) == pytest.approx(1e-3 * 3 * 2 * 0.75 * 1.3863, rel=0.05)
    assert float(result.penalties["surplus_codes"]) == pytest.approx(3 * 2 / 3, rel=0.2)


def test_what_the_gates_do_in_evaluation_is_learnt_about_the_tasks():
    model = model_of({**SMALL, "num_experts": 2}).eval()
    strategy = model.sharing
    assert strategy.learnt(model) == {}
    gate = model.encoder.blocks[2].output.dense.gates.of_task["nli"].logits.linear
    with torch.no_grad():
        gate.bias[0] = 50.0
    with torch.inference_mode():
        model({"mood": batch("mood", [4, 7]), "nli": batch("nli", [5])})
    found = strategy.learnt(model)
    assert set(found) == {"gates_block_1", "gates_block_2", "gate_entropy"}
    assert found["gates_block_2"].rows == ("mood", "nli", "tags")
    assert found["gates_block_2"].columns == ("expert_0", "expert_1")
    assert found["gates_block_2"].values == ((0.5, 0.5), pytest.approx((1.0, 0.0)), (None, None))
    assert found["gate_entropy"].columns == ("block_1", "block_2")
    assert found["gate_entropy"].values[1] == pytest.approx((1.0, 0.0))
    strategy.forget_usage(model)
    assert strategy.learnt(model) == {}


def test_settings_that_do_not_fit_are_refused(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[3\], but the encoder has 3 blocks"):
        MMoE(blocks=[3]).check_num_blocks(3)
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[3\], but the encoder has 3 blocks"):
        attached(make_encoder("bert"), blocks=[3])
    with pytest.raises(UserError, match=r"sharing\.num_selected: found 3, but a gate sees 2 experts; allowed: 1 to 2"):
        MMoE(gate="dselect_k", num_experts=2, num_selected=3)
