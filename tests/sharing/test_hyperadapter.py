"""Adapters that a shared network writes."""

import pytest
import torch
from sharing import small_modules_tools
from sharing.small_modules_tools import (
    EVERY_KIND,
    LENGTHS,
    TASKS,
    WAYS,
    assert_rows_stay_apart,
    assert_starts_as_the_plain_encoder,
    checkpointed_gradients,
    hidden_of,
    model_with,
    numbers,
    perturb,
    reached_by,
)
from torch.nn.functional import gelu, normalize

from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.hyperadapter import GeneratedLayer, HyperAdapter
from mtl_cli.types import UserError

SMALL = {"bottleneck": 3, "task_embedding_size": 8, "projector_size": 10}
"""Sizes of the tests."""


def attached(make_encoder, family, packed=None, **settings):
    return small_modules_tools.attached(make_encoder, HyperAdapter(**{**SMALL, **settings}), family, packed)


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_training_begins_with_the_plain_encoder(make_encoder, family, packed):
    assert_starts_as_the_plain_encoder(make_encoder, HyperAdapter(), family, packed)


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_without_the_conditional_norm_training_begins_with_the_plain_encoder(make_encoder, family, packed):
    assert_starts_as_the_plain_encoder(make_encoder, HyperAdapter(conditional_norm=False), family, packed)


@pytest.mark.parametrize("conditional_norm", [True, False])
def test_at_the_start_something_has_a_gradient(make_encoder, conditional_norm):
    encoder = attached(make_encoder, "bert", conditional_norm=conditional_norm)
    reached = reached_by(encoder, "a")
    generators = {name.split(".")[-2] for name in reached if "generators" in name}
    assert generators == ({"gain", "shift"} if conditional_norm else {"up_weight", "up_bias"})


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, packed):
    assert_rows_stay_apart(make_encoder, HyperAdapter(**SMALL), family, packed)


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_embedding_acts_on_its_rows_alone(make_encoder, family, packed):
    encoder = attached(make_encoder, family, packed)
    perturb(encoder)
    before_ND, layout = hidden_of(encoder)
    perturb(encoder.extras["hyperadapter"].of_task["b"], size=1.0)
    after_ND, _ = hidden_of(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 0.01 if task == "b" else difference < 1e-6, task


@pytest.mark.parametrize("conditional_norm", [True, False])
def test_outputs_get_the_sum_of_the_formula(make_encoder, conditional_norm):
    encoder = attached(make_encoder, "bert", conditional_norm=conditional_norm)
    perturb(encoder)
    seen = {}
    layer = encoder.blocks[1].output.dense
    layer.wrapped.register_forward_hook(lambda module, args, output: seen.update(y=output[0]))
    layer.register_forward_hook(lambda module, args, output: seen.update(out=output[0]))
    _, layout = hidden_of(encoder)
    network = encoder.extras["hyperadapter"]
    first, _, second, norm = network.projector
    for task, tokens in layout.token_slices.items():
        z_S3 = torch.cat([network.of_task[task].values, network.block.weight[1], network.place.weight[1]])
        i_S = norm(second.weight @ (first.weight @ z_S3 + first.bias).relu() + second.bias)
        written = {name: generator.weight @ i_S for name, generator in network.generators.items()}
        down_ED, up_DE = written["down_weight"].view(3, 32), written["up_weight"].view(32, 3)
        for n in range(tokens.start, tokens.stop):
            y_D = seen["y"][n]
            added_D = up_DE @ gelu(down_ED @ y_D + written["down_bias"]) + written["up_bias"]
            if conditional_norm:
                deviation = (added_D.var(correction=0) + 1e-6).sqrt()
                added_D = written["gain"] * (added_D - added_D.mean()) / deviation + written["shift"]
            torch.testing.assert_close(seen["out"][n], y_D + added_D, atol=1e-4, rtol=1e-4)


def test_weights_are_written_once_a_forward_pass_for_the_tasks_of_the_step(make_encoder):
    encoder = attached(make_encoder, "bert")
    calls = []
    encoder.extras["hyperadapter"].register_forward_pre_hook(lambda module, args: calls.append(args))
    hidden_of(encoder, {"c": LENGTHS["c"], "a": LENGTHS["a"]})
    assert sorted(calls) == [(("c", "a"), block, place) for block in range(3) for place in range(2)]


def test_written_weights_begin_with_bert_s_deviation(make_encoder):
    torch.manual_seed(0)
    encoder = make_encoder("bert")
    HyperAdapter().attach(encoder, list(TASKS))
    with torch.no_grad():
        found = encoder.extras["hyperadapter"](TASKS, 0, 1)
    for weights in found.values():
        assert weights.down_ED.shape == (24, 32)
        assert weights.down_ED.std().item() == pytest.approx(0.02, rel=0.1)
        assert weights.up_DE.std().item() == pytest.approx(0.02, rel=0.1)
        assert not weights.gain_D.any()
        assert not weights.shift_D.any()
        assert not weights.down_E.any()
    different = [found[a].down_ED - found[b].down_ED for a, b in ("ab", "ac", "bc")]
    assert all(difference.abs().max() > 1e-3 for difference in different)


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
@pytest.mark.parametrize("conditional_norm", [True, False])
def test_a_task_s_loss_reaches_its_embedding_and_the_network(make_encoder, family, packed, conditional_norm):
    encoder = attached(make_encoder, family, packed, conditional_norm=conditional_norm)
    perturb(encoder)
    partition = parameter_partition(encoder)
    own = {name: part for name, part in partition.items() if part != "shared"}
    assert own == {f"extras.hyperadapter.of_task.{task}.values": task for task in TASKS}
    reached = reached_by(encoder, "b")
    assert {name for name in reached if name in own} == {"extras.hyperadapter.of_task.b.values"}
    network = {name for name in partition if name.startswith("extras.") and name not in own}
    assert network <= reached
    assert len(network) == 2 + 6 + (6 if conditional_norm else 4)


def test_places_and_blocks_can_be_chosen(make_encoder):
    encoder = attached(make_encoder, "t5", placement="pfeiffer", blocks=[2])
    layers = [(layer.block, layer.place) for layer in encoder.modules() if isinstance(layer, GeneratedLayer)]
    assert layers == [(2, 0)]
    assert encoder.extras["hyperadapter"].place.weight.shape == (1, 8)
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[4\]"):
        HyperAdapter(blocks=[4]).attach(make_encoder("bert"), ["a"])


def test_a_frozen_encoder_trains_the_network_and_the_embeddings(make_encoder):
    encoder = attached(make_encoder, "bert", train_encoder=False, train_norms=False)
    assert all(name.startswith("extras.hyperadapter.") for name in parameter_partition(encoder))
    assert HyperAdapter(train_encoder=False, train_norms=False).shares_parameters()


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    without, with_it = checkpointed_gradients(make_encoder, HyperAdapter(**SMALL), family)
    assert without.keys() == with_it.keys()
    assert any("generators" in name for name in without)
    for name in without:
        torch.testing.assert_close(without[name], with_it[name], atol=1e-4, rtol=1e-4)


def test_under_autocast_weights_are_written_in_float32(make_encoder):
    encoder = attached(make_encoder, "bert")
    perturb(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.extras["hyperadapter"](TASKS, 0, 0)
        hidden_ND, _ = hidden_of(encoder)
    assert {weight.dtype for weight in found["a"]} == {torch.float32}
    assert hidden_ND.isfinite().all()


@pytest.mark.parametrize("conditional_norm", [True, False])
def test_what_is_learnt_is_how_alike_tasks_are_and_how_much_adapters_do(conditional_norm):
    model = model_with(HyperAdapter(**SMALL, conditional_norm=conditional_norm))
    assert numbers(model.sharing.learnt(model)["adapter_norms"]).tolist() == [[0.0] * 3] * 3
    perturb(model)
    learnt = model.sharing.learnt(model)
    assert set(learnt) == {"task_cosines", "adapter_norms"}
    network = model.encoder.extras["hyperadapter"]
    first, second = network.of_task["mood"].values, network.of_task["tags"].values
    cosine = (normalize(first, dim=0) @ normalize(second, dim=0)).item()
    assert learnt["task_cosines"].scale == "signed"
    assert learnt["task_cosines"].values[0][2] == pytest.approx(cosine, abs=1e-6)
    assert learnt["task_cosines"].values[1][1] == pytest.approx(1.0)
    with torch.no_grad():
        products = []
        for place in (0, 1):
            weights = network(["nli"], 2, place)["nli"]
            gain = weights.gain_D.diag() if conditional_norm else torch.eye(32)
            products.append(gain @ weights.up_DE @ weights.down_ED)
        expected = torch.linalg.matrix_norm(torch.block_diag(*products)).item()
    assert learnt["adapter_norms"].columns == ("block_0", "block_1", "block_2")
    assert learnt["adapter_norms"].values[1][2] == pytest.approx(expected, rel=1e-5)


def test_gradients_of_the_tasks_take_a_pass_each():
    assert "not tokens" in HyperAdapter().why_not_segmented
    assert HyperAdapter().why_no_representation(3) is not None
