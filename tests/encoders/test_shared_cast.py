"""One cast for queries, keys and values."""

import pytest
import torch
from encoders import tiny_encoders

from mtl_cli.encoders import HuggingFaceEncoder

LENGTHS = {"a": [5, 17, 1, 9]}
LAYERS = {
    "bert": ("attention.self", "query", "key", "value"),
    "electra": ("attention.self", "query", "key", "value"),
    "distilbert": ("attention", "q_lin", "k_lin", "v_lin"),
    "t5": ("layer.0.SelfAttention", "q", "k", "v"),
}


def encoder_of(model_folder, family):
    return HuggingFaceEncoder(path=str(model_folder(family)), dropout=0.0).build().train()


def inputs_of(encoder, family):
    """What the three layers of the second block get, as it comes."""
    path, *names = LAYERS[family]
    seen = []
    for name in names:
        layer = encoder.blocks[1].get_submodule(f"{path}.{name}")
        layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("family", LAYERS)
def test_under_autocast_the_three_layers_get_one_tensor(model_folder, family):
    encoder = encoder_of(model_folder, family)
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    seen = inputs_of(encoder, family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(input_ids_N, None, layout)
    assert {x.dtype for x in seen} == {torch.bfloat16}
    assert len({x.data_ptr() for x in seen}) == 1


@pytest.mark.parametrize("family", LAYERS)
def test_in_float32_nothing_is_cast(model_folder, family):
    encoder = encoder_of(model_folder, family)
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    seen = inputs_of(encoder, family)
    encoder(input_ids_N, None, layout)
    assert {x.dtype for x in seen} == {torch.float32}


@pytest.mark.parametrize("family", LAYERS)
def test_the_numbers_are_those_of_three_casts(model_folder, family):
    found = []
    for shared in (True, False):
        encoder = encoder_of(model_folder, family)
        if not shared:
            for block in encoder.blocks:
                block.get_submodule(LAYERS[family][0])._forward_pre_hooks.clear()
        input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden_ND = encoder(input_ids_N, None, layout)
        hidden_ND.float().pow(2).sum().backward()
        found.append((hidden_ND, {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}))
    assert torch.equal(found[0][0], found[1][0])
    # The sum of three gradients is rounded to bfloat16; a key's bias has none but rounding.
    shared, apart = (torch.cat([gradient.flatten() for gradient in gradients.values()]) for _, gradients in found)
    assert (shared - apart).norm() < 0.01 * apart.norm()


@pytest.mark.parametrize("family", ["gpt2", "modernbert", "deberta-v2"])
def test_families_with_one_layer_for_all_three_or_with_relative_positions_are_left_alone(model_folder, family):
    encoder = encoder_of(model_folder, family)
    assert not any(module._forward_pre_hooks for module in encoder.blocks.modules())
