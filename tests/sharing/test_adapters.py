"""Adapters: where they stand, what they compute, whose they are."""

import pytest
import torch
from encoders import tiny_encoders
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
from torch import nn
from torch.nn.functional import gelu, relu, silu

from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.adapter_layers import AdaptedLayer, Adapter, adapted_layers
from mtl_cli.sharing.adapters import Adapters
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.types import UserError


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_training_begins_with_the_plain_encoder(make_encoder, family, packed, placement):
    assert_starts_as_the_plain_encoder(make_encoder, Adapters(placement=placement, bottleneck=4), family, packed)


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, packed):
    assert_rows_stay_apart(make_encoder, Adapters(bottleneck=4, activation="tanh"), family, packed)


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_adapters_change_its_rows_alone(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    Adapters(bottleneck=4).attach(encoder, list(TASKS))
    before_ND, layout = hidden_of(encoder.eval())
    for layer in adapted_layers(encoder):
        perturb(layer.of_task["b"])
    after_ND, _ = hidden_of(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 0.1 if task == "b" else difference < 1e-6, task


@pytest.mark.parametrize("activation", [("gelu", gelu), ("relu", relu), ("silu", silu), ("tanh", torch.tanh)])
def test_a_layer_s_outputs_get_the_sum_of_the_formula(activation):
    name, function = activation
    torch.manual_seed(0)
    layer = nn.Linear(5, 6)
    of_task = TaskModules({task: Adapter(6, 3, activation=name, dropout=0.0, up_std=0.5) for task in TASKS})
    perturb(of_task)
    adapted = AdaptedLayer(layer, of_task)
    _, layout = tiny_encoders.rows(LENGTHS, packed=True)
    inputs_1ND = torch.randn(1, layout.num_tokens, 5)
    adapted._last_layout = layout
    output_1ND = adapted(inputs_1ND)
    for task, tokens in layout.token_slices.items():
        down, up = of_task[task].down, of_task[task].up
        for n in range(tokens.start, tokens.stop):
            y_D = layer.weight @ inputs_1ND[0, n] + layer.bias
            inner_E = function(down.weight @ y_D + down.bias)
            torch.testing.assert_close(output_1ND[0, n], y_D + up.weight @ inner_E + up.bias)


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_adapters_stand_behind_both_parts_or_behind_the_feed_forward_part(make_encoder, family):
    for placement, count in (("houlsby", 6), ("pfeiffer", 3)):
        encoder = make_encoder(family)
        Adapters(placement=placement).attach(encoder, ["a", "b"])
        layers = adapted_layers(encoder)
        assert len(layers) == count
        assert all(layer.of_task["a"].down.weight.shape == (64, 32) for layer in layers)
        paths = [path for path, module in encoder.blocks[0].named_modules() if isinstance(module, AdaptedLayer)]
        expected = {
            "bert": ["attention.output.dense", "output.dense"],
            "t5": ["layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"],
            "gpt2": ["attn.c_proj", "mlp.c_proj"],
        }[family]
        assert paths == (expected if placement == "houlsby" else expected[1:])


def test_chosen_blocks_alone_have_adapters(make_encoder):
    encoder = make_encoder("bert")
    Adapters(blocks=[0, 2]).attach(encoder, ["a", "b"])
    assert [len(adapted_layers(block)) for block in encoder.blocks] == [2, 0, 2]


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_loss_reaches_its_adapters_and_the_shared_encoder(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    Adapters(bottleneck=4).attach(encoder, list(TASKS))
    perturb(encoder)
    partition = parameter_partition(encoder)
    reached = reached_by(encoder, "b")
    own = {name for name, part in partition.items() if part == "b"}
    assert len(own) == 3 * 2 * 4
    assert own <= reached
    assert not any(partition[name] in ("a", "c") for name in reached)
    assert all(name in reached for name in encoder_weights_of_blocks(encoder))


def encoder_weights_of_blocks(encoder):
    named = dict(encoder.named_parameters())
    return [name for name in named if ".wrapped." in name and "of_task" not in name and named[name].ndim > 1]


def test_at_the_start_the_upper_layer_has_a_gradient(make_encoder):
    encoder = make_encoder("bert").eval()
    Adapters(bottleneck=4).attach(encoder, list(TASKS))
    assert {"model.encoder.layer.1.output.dense.of_task.a.up.weight"} <= reached_by(encoder.eval(), "a")


@pytest.mark.parametrize("family", ["bert", "t5", "distilbert"])
def test_a_frozen_encoder_trains_adapters_and_if_asked_its_norms(make_encoder, family):
    for norms in (True, False):
        encoder = make_encoder(family)
        norm_names = {name for name, _ in encoder.named_parameters() if "norm" in name.lower()}
        strategy = Adapters(train_encoder=False, train_norms=norms)
        strategy.attach(encoder, ["a", "b"])
        partition = parameter_partition(encoder)
        shared = {name for name, part in partition.items() if part == "shared"}
        assert shared == (norm_names if norms else set())
        assert len(norm_names) >= 6
        assert strategy.shares_parameters() is norms
        assert strategy.num_shared_blocks(3) == (3 if norms else 0)


def test_what_was_frozen_before_stays_frozen(make_encoder):
    encoder = make_encoder("bert")
    encoder.freeze(embeddings=True, num_blocks=3)
    Adapters(train_encoder=False).attach(encoder, ["a", "b"])
    assert set(parameter_partition(encoder).values()) == {"a", "b"}


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    adapter = Adapter(8, 4, activation="gelu", dropout=0.5, up_std=0.5)
    inputs = torch.randn(20, 8)
    assert not torch.equal(adapter(inputs), adapter(inputs))
    assert torch.equal(adapter.eval()(inputs), adapter(inputs))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    without, with_it = checkpointed_gradients(make_encoder, Adapters(bottleneck=4, dropout=0.2), family)
    assert without.keys() == with_it.keys()
    for name in without:
        torch.testing.assert_close(without[name], with_it[name])


def test_norms_of_a_task_s_adapters_are_those_of_their_products():
    model = model_with(Adapters(bottleneck=4, blocks=[0, 2]))
    assert numbers(model.sharing.learnt(model)["adapter_norms"]).tolist() == [[0.0] * 2] * 3
    perturb(model)
    learnt = model.sharing.learnt(model)["adapter_norms"]
    assert learnt.rows == ("mood", "nli", "tags")
    assert learnt.columns == ("block_0", "block_2")
    for row, task in enumerate(learnt.rows):
        for column, index in enumerate((0, 2)):
            block = model.encoder.blocks[index]
            products = [
                layer.of_task[task].up.weight @ layer.of_task[task].down.weight
                for layer in (block.attention.output.dense, block.output.dense)
            ]
            expected = torch.linalg.matrix_norm(torch.block_diag(*products))
            assert learnt.values[row][column] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([1, 3], r"sharing\.blocks: found \[1, 3\], but the encoder has 3 blocks; allowed: .* from 0 .* to 2"),
        ([-4], r"sharing\.blocks: found \[-4\], .* from -1 \(the highest\) down to -3"),
        ([], r"sharing\.blocks: found \[\], .* one or more"),
        ([2, -1], r"sharing\.blocks: found \[2, -1\], .* different numbers"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(make_encoder, blocks, message):
    with pytest.raises(UserError, match=message):
        Adapters(blocks=blocks).check_num_blocks(3)
    with pytest.raises(UserError, match=message):
        Adapters(blocks=blocks).attach(make_encoder("bert"), ["a"])


def test_the_representation_is_not_to_be_had():
    assert "between the layers that tasks share" in Adapters().why_no_representation(3)
    assert Adapters().why_not_segmented is None
