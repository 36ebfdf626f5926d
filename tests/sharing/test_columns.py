"""Columns: which rows go through whose copies, in every family."""

import pytest
import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED
from torch import nn
from transformers import AlbertConfig, AlbertModel, MPNetConfig, MPNetModel

from mtl_cli.encoders import Encoder
from mtl_cli.sharing import TaskModules, parameter_partition
from mtl_cli.sharing.columns import ColumnBlock, ColumnLayer, Columns, column_parameters, make_columns
from mtl_cli.types import UserError

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]
FINAL_NORMS = {"gpt2": "ln_f", "modernbert": "final_norm", "t5": "encoder.final_layer_norm"}


def hidden(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def change(module, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def columns_of(encoder):
    return {path: module for path, module in encoder.model.named_modules() if isinstance(module, Columns)}


def weights_of(encoder, name):
    """The weights of one column, named as in an encoder that was not split."""
    columns = columns_of(encoder)
    found = {}
    for key, value in encoder.model.state_dict().items():
        path = next((path for path in columns if key.startswith(path + ".")), None)
        if path is None:
            found[key] = value
            continue
        _, owner, rest = key.removeprefix(path + ".").split(".", 2)
        if owner == name:
            found[f"{path}.{rest}"] = value
    return found


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 1])
@pytest.mark.parametrize("task_specific", [True, False])
def test_copies_begin_where_the_encoder_was(make_encoder, family, packed, num_shared_layers, task_specific):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden(encoder)
    make_columns(encoder, "abc", num_shared_layers=num_shared_layers, task_specific=task_specific, setting="sharing.x")
    assert [isinstance(block, ColumnBlock) for block in encoder.blocks] == [i >= num_shared_layers for i in range(3)]
    after_ND, _ = hidden(encoder)
    torch.testing.assert_close(after_ND, before_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 2])
def test_a_column_is_an_encoder_of_its_own(make_encoder, family, packed, num_shared_layers):
    encoder, plain = make_encoder(family, packed).eval(), make_encoder(family, packed).eval()
    start_ND, _ = hidden(encoder)
    make_columns(encoder, "abc", num_shared_layers=num_shared_layers, setting="sharing.x")
    change(encoder)
    together_ND, layout = hidden(encoder)
    for name in "abc":
        missing, unexpected = plain.model.load_state_dict(weights_of(encoder, name), strict=False)
        assert not unexpected
        assert all("position_ids" in key for key in missing)
        alone_ND, _ = hidden(plain)
        tokens = layout.token_slices[name]
        torch.testing.assert_close(together_ND[tokens], alone_ND[tokens], atol=2e-5, rtol=1e-5)
        assert (alone_ND - start_ND)[tokens].abs().max() > 0.1


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_only_its_own_rows_change_with_a_column_and_only_they_train_it(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    make_columns(encoder, "abc", setting="sharing.x")
    before_ND, layout = hidden(encoder)
    for columns in columns_of(encoder).values():
        change(columns.column("b"))
    after_ND, _ = hidden(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 0.1 if task == "b" else difference < 1e-6, task
    after_ND[layout.token_slices["b"]].pow(2).sum().backward()
    for columns in columns_of(encoder).values():
        assert all(p.grad is not None for p in columns.column("b").parameters())
        for other in "ac":
            assert all(p.grad is None or not p.grad.any() for p in columns.column(other).parameters())


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_a_task_s_rows_are_the_same_without_other_tasks_and_in_another_order(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    make_columns(encoder, "abc", setting="sharing.x")
    change(encoder)
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=packed)
    together_ND = encoder(input_ids_N, None, layout)
    for order in ("a", "b", "c", "ca", "cba"):
        ids_N = torch.cat([input_ids_N[layout.token_slices[task]] for task in order])
        part = tiny_encoders.rows({task: LENGTHS[task] for task in order}, packed=packed)[1]
        wanted_ND = torch.cat([together_ND[layout.token_slices[task]] for task in order])
        torch.testing.assert_close(encoder(ids_N, None, part), wanted_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_with_no_shared_layers_nothing_is_shared(make_encoder, family):
    encoder = make_encoder(family)
    num_parameters = len(list(encoder.parameters()))
    make_columns(encoder, "ab", setting="sharing.x")
    parts = list(parameter_partition(encoder).values())
    assert parts.count("a") == parts.count("b") == num_parameters
    assert len(parts) == 2 * num_parameters
    found = list(column_parameters(encoder))
    assert len(found) == num_parameters
    final = FINAL_NORMS.get(family)
    assert {p.part for p in found} == {"embeddings", *(f"block_{i}" for i in range(3)), *(["final_norm"] * bool(final))}
    assert all(p.name.startswith(final) for p in found if p.part == "final_norm")


@pytest.mark.parametrize("family", CONFIGS)
def test_what_lies_below_shared_blocks_is_shared(make_encoder, family):
    encoder = make_encoder(family)
    make_columns(encoder, "ab", num_shared_layers=2, setting="sharing.x")
    outside = {path for path, module in columns_of(encoder).items() if isinstance(module, ColumnLayer)}
    assert outside == {FINAL_NORMS[family]} if family in FINAL_NORMS else not outside
    assert "shared" in parameter_partition(encoder).values()
    assert {found.part for found in column_parameters(encoder)} <= {"block_2", "final_norm"}


def test_columns_that_others_train_are_shared_but_for_the_highest(make_encoder):
    encoder = make_encoder("gpt2")
    make_columns(encoder, "ab", task_specific=False, own_from=2, setting="sharing.x")
    own = {name for name, part in parameter_partition(encoder).items() if part != "shared"}
    assert {".".join(name.split(".")[1:3]) for name in own} == {"h.2", "ln_f.of_task"}
    assert isinstance(encoder.blocks[1].of_several, nn.ModuleDict)
    assert not isinstance(encoder.blocks[1].of_several, TaskModules)


def test_frozen_parameters_stay_frozen_and_are_not_compared(make_encoder):
    encoder = make_encoder("bert")
    encoder.freeze(embeddings=True, num_blocks=1)
    make_columns(encoder, "ab", setting="sharing.x")
    assert {found.part for found in column_parameters(encoder)} == {"block_1", "block_2"}


def test_tied_weights_stay_tied_within_a_column(make_encoder):
    encoder = make_encoder("t5")
    table = encoder.model.shared.weight
    assert encoder.model.encoder.embed_tokens.weight is table
    make_columns(encoder, "ab", setting="sharing.x")
    for name in "ab":
        assert encoder.model.shared.column(name).weight is encoder.model.encoder.embed_tokens.column(name).weight


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    gradients = []
    for checkpointing in (False, True):
        encoder = make_encoder(family)
        make_columns(encoder, "abc", setting="sharing.x")
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        hidden(encoder)[0].pow(2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def test_a_family_without_a_list_of_blocks_is_refused():
    model = AlbertModel(AlbertConfig(**SMALL, embedding_size=16), add_pooling_layer=False)
    encoder = Encoder(model, tiny_encoders.tokenizer(), pooling="first", packed=False)
    with pytest.raises(UserError, match=r"sharing\.x needs an encoder with a list of 2 blocks"):
        make_columns(encoder, "ab", setting="sharing.x")


def test_biases_of_positions_that_all_rows_have_in_common_are_refused():
    model = MPNetModel(MPNetConfig(**SMALL), add_pooling_layer=False)
    encoder = Encoder(model, tiny_encoders.tokenizer(), pooling="first", packed=False)
    with pytest.raises(UserError, match=r"sharing\.x: a 'mpnet' .*relative_attention_bias.*num_shared_layers to 1"):
        make_columns(encoder, "ab", setting="sharing.x")
    make_columns(encoder, "ab", num_shared_layers=1, setting="sharing.x")


def test_all_blocks_shared_is_refused(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.num_shared_layers: found 3, .* allowed: 0 to 2"):
        make_columns(make_encoder("bert"), "ab", num_shared_layers=3, setting="sharing.x")
