"""Low-rank updates: of which outputs, whose rows, and how large."""

import logging
import math

import pytest
import torch
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS
from gradients.steps import LABELS, tasks
from transformers.pytorch_utils import Conv1D

from mtl_cli.encoders import Encoder
from mtl_cli.encoders.sites import known_sites
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.lora import LoRA
from mtl_cli.sharing.lora_layers import LowRank, LowRankLayer
from mtl_cli.types import UserError

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}


def hidden(encoder, lengths=LENGTHS, training=False):
    encoder.train(training)
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def change(modules):
    """Take low-rank matrices away from zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in modules:
            for name, parameter in module.named_parameters():
                if ".up." in f".{name}":
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("per_task", [True, False])
def test_the_first_step_sees_the_plain_encoder(make_encoder, family, per_task):
    encoder = make_encoder(family)
    before_ND, _ = hidden(encoder)
    LoRA(per_task=per_task, targets=list(known_sites(family))).attach(encoder, ["a", "b", "c"])
    assert any(isinstance(module, LowRankLayer) for module in encoder.modules())
    torch.testing.assert_close(hidden(encoder)[0], before_ND, atol=1e-5, rtol=1e-5)


def merged(encoder, task, scaling):
    """Add a task's matrices to the encoder's own weights, and take the wrappers away."""
    with torch.no_grad():
        for block in encoder.blocks:
            for path, layer in [(p, m) for p, m in block.named_modules() if isinstance(m, LowRankLayer)]:
                weight = layer.wrapped.weight
                for name, update in layer.updates.items():
                    matrix = update.of_task[task]
                    delta_OD = scaling * matrix.up.weight @ matrix.down.weight
                    rows = weight.T if isinstance(layer.wrapped, Conv1D) else weight
                    # Fused projections compute queries, keys and values one after the other.
                    third = {"query": 0, "key": 1, "value": 2}.get(name, 0)
                    rows[third * len(delta_OD) % len(rows) :][: len(delta_OD)] += delta_OD
                parent, _, name = path.rpartition(".")
                setattr(block.get_submodule(parent), name, layer.wrapped)
    return encoder


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("targets", [None, "all"])
def test_each_task_sees_an_encoder_with_its_matrices_added_to_the_weights(make_encoder, family, targets):
    chosen = None if targets is None else list(known_sites(family))

    def adapted():
        torch.manual_seed(1)
        encoder = make_encoder(family)
        LoRA(rank=2, alpha=3.0, targets=chosen).attach(encoder, ["a", "b", "c"])
        change(encoder.blocks)
        return encoder

    together_ND, layout = hidden(adapted())
    for task in LENGTHS:
        plain = merged(adapted(), task, 3.0 / 2)
        assert not any(isinstance(module, LowRankLayer) for module in plain.modules())
        part = layout.token_slices[task]
        torch.testing.assert_close(together_ND[part], hidden(plain)[0][part], atol=1e-4, rtol=1e-3)
    assert (together_ND - hidden(make_encoder(family))[0]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2", "t5"])
def test_a_task_s_matrices_act_on_its_rows_alone(make_encoder, family):
    encoder = make_encoder(family)
    LoRA().attach(encoder, ["a", "b", "c"])
    before_ND, layout = hidden(encoder)
    change([m.of_task["b"] for m in encoder.modules() if hasattr(type(m), "matrix_of")])
    after_ND, _ = hidden(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 1e-3 if task == "b" else difference < 1e-6, task


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2", "t5"])
@pytest.mark.parametrize("per_task", [True, False])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, per_task):
    encoder = make_encoder(family)
    LoRA(per_task=per_task).attach(encoder, ["a", "b", "c"])
    change(encoder.blocks)
    together_ND, layout = hidden(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    for task, lengths in LENGTHS.items():
        part = tiny_encoders.rows({task: lengths}, packed=encoder.packed)[1]
        alone_ND = encoder(input_ids_N[layout.token_slices[task]], None, part)
        torch.testing.assert_close(together_ND[layout.token_slices[task]], alone_ND, atol=1e-5, rtol=1e-5)


def test_shared_matrices_equal_three_tasks_with_the_same_ones(make_encoder):
    shared, own = make_encoder("bert"), make_encoder("bert")
    LoRA(per_task=False).attach(shared, ["a", "b", "c"])
    LoRA(per_task=True).attach(own, ["a", "b", "c"])
    change(shared.blocks)
    for path, layer in shared.named_modules():
        if isinstance(layer, LowRankLayer):
            for name, update in layer.updates.items():
                for task in "abc":
                    theirs = own.get_submodule(path).updates[name].of_task[task]
                    theirs.load_state_dict(update.matrix.state_dict())
    torch.testing.assert_close(hidden(own)[0], hidden(shared)[0], atol=1e-5, rtol=1e-5)


def test_a_task_s_loss_trains_its_own_matrices_alone(make_encoder):
    encoder = make_encoder("bert")
    LoRA(dropout=0.0).attach(encoder, ["a", "b", "c"])
    change(encoder.blocks)
    hidden_ND, layout = hidden(encoder, training=True)
    hidden_ND[layout.token_slices["b"]].pow(2).sum().backward()
    partition = parameter_partition(encoder)
    assert set(partition.values()) == {"a", "b", "c"}
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (name in partition)
        has_gradient = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert has_gradient == (partition.get(name) == "b"), name


@pytest.mark.parametrize(
    ("per_task", "train_encoder", "parts", "num_shared"),
    [
        (True, False, {"a", "b"}, 0),
        (False, False, {"shared"}, 3),
        (True, True, {"shared", "a", "b"}, 3),
        (False, True, {"shared"}, 3),
    ],
)
def test_what_tasks_share_follows_from_two_settings(make_encoder, per_task, train_encoder, parts, num_shared):
    encoder, strategy = make_encoder("bert"), LoRA(per_task=per_task, train_encoder=train_encoder)
    strategy.attach(encoder, ["a", "b"])
    partition = parameter_partition(encoder)
    assert set(partition.values()) == parts
    assert strategy.num_shared_blocks(3) == num_shared
    assert strategy.shares_parameters() == ("shared" in parts)
    assert (strategy.why_no_representation(3) is not None) == per_task
    if train_encoder:
        assert "model.embeddings.word_embeddings.weight" in partition
    else:
        assert all(".updates." in name for name in partition)


def test_the_weights_begin_as_in_the_official_code():
    torch.manual_seed(0)
    matrix = LowRank(100, 50, 8)
    assert not matrix.up.weight.any()
    # A uniform distribution up to sqrt(6 / ((1 + 5) * 100)) = 0.1, whose standard deviation is 0.1 / sqrt(3).
    assert matrix.down.weight.abs().max() < 0.1
    assert matrix.down.weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(("rank_scaling", "scaling"), [("standard", 16 / 4), ("sqrt", 16 / 2)])
def test_a_layer_adds_its_scaled_update_to_one_part_of_its_outputs(make_encoder, rank_scaling, scaling):
    encoder = make_encoder("gpt2")
    LoRA(rank=4, rank_scaling=rank_scaling, targets=["value"], per_task=False).attach(encoder, ["a"])
    change(encoder.blocks)
    layer = encoder.blocks[0].attn.c_attn
    seen = {}
    handle = layer.register_forward_hook(lambda _, inputs, outputs: seen.update(x=inputs[0], y=outputs))
    hidden(encoder, {"a": [4, 3]})
    handle.remove()
    plain = seen["x"][0] @ layer.wrapped.weight + layer.wrapped.bias
    matrix = layer.updates["value"].matrix
    expected = plain.clone()
    for token in range(7):
        expected[token, 64:] += scaling * (matrix.up.weight @ (matrix.down.weight @ seen["x"][0, token]))
    torch.testing.assert_close(seen["y"][0], expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 0.1


def test_dropout_acts_on_the_update_in_training_alone(make_encoder):
    encoder = make_encoder("distilbert")  # with its own dropout switched off
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    LoRA(dropout=0.5).attach(encoder, ["a", "b", "c"])
    change(encoder.blocks)
    evaluated_ND, _ = hidden(encoder)
    torch.testing.assert_close(hidden(encoder)[0], evaluated_ND)
    assert (hidden(encoder, training=True)[0] - evaluated_ND).abs().max() > 1e-2
    for module in encoder.modules():
        if isinstance(module, LowRankLayer):
            module.dropout.p = 0.0
    torch.testing.assert_close(hidden(encoder, training=True)[0], evaluated_ND, atol=1e-5, rtol=1e-5)


def test_queries_that_serve_relative_positions_are_left_out_and_the_log_says_so(make_encoder, caplog):
    encoder = make_encoder("deberta-v2")
    with caplog.at_level(logging.INFO, logger="mtl_cli"):
        LoRA().attach(encoder, ["a", "b"])
    assert "value instead of query and value, because in a 'deberta-v2' model" in caplog.text
    paths = {name for name, module in encoder.blocks[0].named_modules() if isinstance(module, LowRankLayer)}
    assert paths == {"attention.self.value_proj"}


def test_errors_name_the_setting(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.targets: found 'queries'; allowed: some of query, key, value"):
        LoRA(targets=["queries"])
    with pytest.raises(UserError, match=r"sharing\.targets: found \[\]; allowed"):
        LoRA(targets=[])
    with pytest.raises(UserError, match=r"sharing\.targets: found \['query', 'query'\]; allowed"):
        LoRA(targets=["query", "query"])
    with pytest.raises(UserError, match=r"sharing\.targets: found 'query', but in a 'deberta-v2' model"):
        LoRA(targets=["query"]).attach(make_encoder("deberta-v2"), ["a"])


def test_norms_of_the_updates_by_task_and_block():
    torch.manual_seed(0)
    encoder = Encoder(tiny_encoders.reference_model("bert"), tiny_encoders.tokenizer(), pooling="mean", packed=True)
    names = ("mood", "nli")
    of_tasks = {task: found for task, found in tasks().items() if task in names}
    model = MultiTaskModel(encoder, LoRA(rank=2, alpha=4.0), of_tasks, {task: LABELS[task] for task in names})
    assert set(model.sharing.learnt(model)["update_norms"].values) == {(0.0, 0.0, 0.0)}
    change(encoder.blocks)
    found = model.sharing.learnt(model)["update_norms"]
    assert (found.rows, found.columns) == (names, ("block_0", "block_1", "block_2"))
    layer = encoder.blocks[1].attention.self
    expected = [
        torch.linalg.matrix_norm(2.0 * m.up.weight @ m.down.weight)
        for m in (part.updates[name].of_task["nli"] for name, part in (("query", layer.query), ("value", layer.value)))
    ]
    assert found.values[1][1] == pytest.approx(torch.stack(expected).norm().item(), rel=1e-4)
