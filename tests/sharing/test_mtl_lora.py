"""Low-rank updates that tasks share and mix: values by plain loops, whose parameters are whose, one call for all."""

import math

import pytest
import torch
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS
from gradients.steps import CPU, LABELS, gradients_of, model_of, step_of, tasks
from transformers import T5Config, T5EncoderModel

from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.lora_layers import LowRankLayer, MixedUpProjections, TaskTransform
from mtl_cli.sharing.mtl_lora import MTLLoRA
from mtl_cli.training import AdamW
from mtl_cli.types import UserError
from mtl_cli.weighting import PCGrad

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}


def hidden(encoder, lengths=LENGTHS, training=False):
    encoder.train(training)
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def updates(root):
    return [module for module in root.modules() if isinstance(module, MixedUpProjections)]


def change(root):
    """Take up-projections away from zero and transformations from the identity."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for update in updates(root):
            update.up.weight.copy_(0.2 * torch.randn(update.up.weight.shape, generator=generator))
            for own in update.of_task.values():
                own.matrix.add_(0.5 * torch.randn(own.matrix.shape, generator=generator))


def model(**settings):
    torch.manual_seed(0)
    encoder = Encoder(tiny_encoders.reference_model("bert"), tiny_encoders.tokenizer(), pooling="mean", packed=True)
    names = ("mood", "nli", "tags")
    of_tasks = {task: found for task, found in tasks().items() if task in names}
    return MultiTaskModel(encoder, MTLLoRA(**settings), of_tasks, {task: LABELS[task] for task in names})


@pytest.mark.parametrize("family", CONFIGS)
def test_the_first_step_sees_the_plain_encoder(make_encoder, family):
    encoder = make_encoder(family)
    before_ND, _ = hidden(encoder)
    MTLLoRA().attach(encoder, ["a", "b", "c"])
    assert len(updates(encoder)) == 3 * (1 if family == "deberta-v2" else 2)
    torch.testing.assert_close(hidden(encoder)[0], before_ND, atol=1e-5, rtol=1e-5)


def by_loops(layer, name, update, x_ND, task, *, scaling, temperature):
    """W x + scaling * sum_i softmax(w / tau)_i B_i Lambda A x, token by token, with B_i cut out of the one layer."""
    own = update.of_task[task]
    exponentials = [math.exp(logit / temperature) for logit in own.mixing_logits.tolist()]
    rank = own.matrix.shape[0]
    outputs = []
    for x_D in x_ND:
        z_R = own.matrix @ (update.down.weight @ x_D)
        delta = torch.zeros(update.up.weight.shape[0])
        for i, exponential in enumerate(exponentials):
            delta += exponential / sum(exponentials) * (update.up.weight[:, i * rank : (i + 1) * rank] @ z_R)
        y_O = torch.nn.functional.linear(x_D, layer.wrapped.weight, layer.wrapped.bias)
        outputs.append(y_O + scaling * delta)
    return torch.stack(outputs)


@pytest.mark.parametrize("num_up_projections", [1, 3])
def test_a_layer_computes_the_paper_s_formula(make_encoder, num_up_projections):
    encoder = make_encoder("bert")
    MTLLoRA(rank=4, alpha=6.0, num_up_projections=num_up_projections, temperature=0.3).attach(encoder, ["a", "b", "c"])
    change(encoder)
    layer = encoder.blocks[1].attention.self.value
    seen = {}
    handle = layer.register_forward_hook(lambda _, inputs, outputs: seen.update(x=inputs[0], y=outputs))
    _, layout = hidden(encoder)
    handle.remove()
    for task, part in layout.token_slices.items():
        expected = by_loops(
            layer, "value", layer.updates["value"], seen["x"][0, part], task, scaling=6.0 / 4, temperature=0.3
        )
        torch.testing.assert_close(seen["y"][0, part], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "deberta-v2", "t5"])
def test_a_task_s_own_parameters_act_on_its_rows_alone(make_encoder, family):
    encoder = make_encoder(family)
    MTLLoRA().attach(encoder, ["a", "b", "c"])
    change(encoder)
    before_ND, layout = hidden(encoder)
    with torch.no_grad():
        for update in updates(encoder):
            update.of_task["b"].matrix.mul_(-1.0)
            update.of_task["b"].mixing_logits.copy_(torch.tensor([2.0, -1.0, 0.0]))
    after_ND, _ = hidden(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 1e-3 if task == "b" else difference < 1e-6, task


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2", "t5"])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family):
    encoder = make_encoder(family)
    MTLLoRA().attach(encoder, ["a", "b", "c"])
    change(encoder)
    together_ND, layout = hidden(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    for task, lengths in LENGTHS.items():
        part = tiny_encoders.rows({task: lengths}, packed=encoder.packed)[1]
        alone_ND = encoder(input_ids_N[layout.token_slices[task]], None, part)
        torch.testing.assert_close(together_ND[layout.token_slices[task]], alone_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("train_encoder", [False, True])
def test_projections_are_shared_and_transformations_and_mixtures_are_the_tasks_own(make_encoder, train_encoder):
    encoder = make_encoder("bert")
    MTLLoRA(train_encoder=train_encoder).attach(encoder, ["a", "b", "c"])
    change(encoder)
    hidden_ND, layout = hidden(encoder)
    hidden_ND[layout.token_slices["b"]].pow(2).sum().backward()
    partition = parameter_partition(encoder)
    for name, part in partition.items():
        owner = name.rpartition(".")[0].rpartition(".")[2]
        assert part == (owner if owner in LENGTHS else "shared")
        assert train_encoder or ".updates." in name
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (name in partition)
        if ".updates." in name:
            has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert has_gradient == (partition[name] in ("shared", "b")), name


def test_up_projections_do_not_stay_alike(make_encoder):
    # Were the mixing weights equal at first, all B_i would get the same gradient for ever.
    encoder = make_encoder("bert")
    MTLLoRA().attach(encoder, ["a", "b", "c"])
    hidden_ND, _ = hidden(encoder)
    hidden_ND.pow(2).sum().backward()
    of_each = updates(encoder)[0].up.weight.grad.view(32, 3, 8).transpose(0, 1)
    assert not torch.allclose(of_each[0], of_each[1], rtol=1e-2)
    assert not torch.allclose(of_each[1], of_each[2], rtol=1e-2)


def test_parameters_begin_as_in_the_official_code():
    torch.manual_seed(0)
    update = MixedUpProjections(100, 50, 8, ["a", "b"], 3, 0.5)
    assert not update.up.weight.any()
    assert update.up.weight.shape == (50, 24)
    assert update.down.weight.abs().max() < 0.1  # sqrt(6 / ((1 + 5) * 100))
    own = update.of_task["a"]
    assert torch.equal(own.matrix, torch.eye(8))
    logits = torch.stack([TaskTransform(2, 3).mixing_logits for _ in range(200)])
    assert 0.5 < logits.abs().max() < 1 / math.sqrt(3)
    # softmax([1, 0, 0] / 0.5) = [e^2, 1, 1] / (e^2 + 2)
    with torch.no_grad():
        own.mixing_logits.copy_(torch.tensor([1.0, 0.0, 0.0]))
    expected = torch.tensor([math.exp(2), 1.0, 1.0]) / (math.exp(2) + 2)
    torch.testing.assert_close(update.mixing("a"), expected)


def test_transformations_have_no_weight_decay():
    whole = model()
    decays = {id(p): group["weight_decay"] for group in AdamW().build(whole).param_groups for p in group["params"]}
    for update in updates(whole):
        assert all(decays[id(p)] == 0.0 for own in update.of_task.values() for p in own.parameters())
        assert decays[id(update.down.weight)] == decays[id(update.up.weight)] == 0.01


def count_calls(whole):
    """Tokens in each call of the up-projections, from now on."""
    calls = []
    for update in updates(whole):
        update.up.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
    return calls


def test_shared_projections_see_all_tokens_once_and_balance_as_with_a_pass_a_task():
    found = []
    for engine in ("segmented", "per_task"):
        whole = model().eval()
        change(whole)
        calls = count_calls(whole)
        weighting = PCGrad(engine=engine)
        weighting.start(list(whole.tasks), seed=1)
        step = step_of(("mood", "nli", "tags"))
        GradientEngine(whole, weighting, Losses(whole, "fp32", CPU)).step([[step]])
        if engine == "segmented":
            assert calls == [sum(batch.num_tokens for batch in step.values())] * 6
        found.append(gradients_of(whole))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, atol=1e-5, rtol=1e-4)


def test_mixing_weights_by_task_and_block():
    whole = model(num_up_projections=2)
    with torch.no_grad():
        whole.encoder.blocks[2].attention.self.value.updates["value"].of_task["nli"].mixing_logits.copy_(
            torch.tensor([0.5 * math.log(3.0), 0.0])  # / 0.5: softmax([log 3, 0]) = [3/4, 1/4]
        )
    found = whole.sharing.learnt(whole)
    assert list(found) == ["mixing_block_0", "mixing_block_1", "mixing_block_2"]
    last = found["mixing_block_2"]
    assert (last.rows, last.scale) == (("mood", "nli", "tags"), "share")
    assert last.columns == ("query_0", "query_1", "value_0", "value_1")
    assert last.values[1][2:] == pytest.approx((0.75, 0.25))
    assert all(sum(row) == pytest.approx(2.0) for row in last.values)


def test_gated_feed_forward_parts_have_two_updates_with_names_of_their_own():
    config = T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    whole = model_of("t5", model=T5EncoderModel(config).eval())
    strategy = MTLLoRA(targets=["feed_forward_input"])
    strategy.attach(whole.encoder, list(whole.tasks))
    columns = strategy.learnt(whole)["mixing_block_0"].columns
    assert columns[::3] == ("feed_forward_input_wi_0_0", "feed_forward_input_wi_1_0")
    assert sum(isinstance(module, LowRankLayer) for module in whole.modules()) == 6


def test_errors_name_the_setting(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.targets: found 'dense'; allowed: some of query"):
        MTLLoRA(targets=["dense"])
    with pytest.raises(UserError, match=r"sharing\.targets: found 'key', but in a 'deberta-v2' model"):
        MTLLoRA(targets=["value", "key"]).attach(make_encoder("deberta-v2"), ["a"])
