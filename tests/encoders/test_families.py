"""Each family, packed and padded, against transformers' own model with an attention mask."""

import pytest
import torch
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED

from mtl_cli.encoders import HuggingFaceEncoder

LENGTHS = {"a": [5, 17, 1, 9], "b": [3, 17, 30]}
ALL_LENGTHS = [5, 17, 1, 9, 3, 17, 30]
WAYS = [(family, packing) for family in CONFIGS for packing in ([True, False] if family in PACKED else [False])]


def reference_hidden(family, input_ids_N, token_types_N=None):
    """Hidden states of all real tokens from transformers' own forward pass."""
    config = CONFIGS[family]
    padding = config.pad_token_id or 0
    input_ids_BT, mask_BT = tiny_encoders.padded(input_ids_N, ALL_LENGTHS, padding)
    arguments = {}
    if token_types_N is not None:
        arguments["token_type_ids"] = tiny_encoders.padded(token_types_N, ALL_LENGTHS, 0)[0]
    with torch.no_grad():
        hidden_BTD = tiny_encoders.reference_model(family)(
            input_ids=input_ids_BT, attention_mask=mask_BT, **arguments
        ).last_hidden_state
    return hidden_BTD[mask_BT.bool()]


@pytest.mark.parametrize(("family", "packing"), WAYS)
def test_hidden_states_equal_those_of_transformers(model_folder, family, packing):
    encoder = HuggingFaceEncoder(path=str(model_folder(family)), packing=packing).build().eval()
    assert encoder.packed is packing
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=packing)
    with torch.no_grad():
        hidden_ND = encoder(input_ids_N, None, layout)
    assert hidden_ND.shape == (82, 32)
    torch.testing.assert_close(hidden_ND, reference_hidden(family, input_ids_N), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packing"), [("bert", True), ("bert", False), ("electra", True)])
def test_segments_reach_the_embeddings(model_folder, family, packing):
    encoder = HuggingFaceEncoder(path=str(model_folder(family)), packing=packing).build().eval()
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=packing)
    token_types_N = (torch.arange(len(input_ids_N)) % 3 == 0).long()
    with torch.no_grad():
        hidden_ND = encoder(input_ids_N, token_types_N, layout)
        without_ND = encoder(input_ids_N, None, layout)
    expected_ND = reference_hidden(family, input_ids_N, token_types_N)
    torch.testing.assert_close(hidden_ND, expected_ND, atol=1e-5, rtol=1e-5)
    assert (hidden_ND - without_ND).abs().max() > 0.01


@pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2", "t5"])
def test_families_without_segments_ignore_them(model_folder, family):
    encoder = HuggingFaceEncoder(path=str(model_folder(family))).build().eval()
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    with torch.no_grad():
        with_types_ND = encoder(input_ids_N, torch.ones_like(input_ids_N), layout)
        assert torch.equal(with_types_ND, encoder(input_ids_N, None, layout))


@pytest.mark.parametrize("family", PACKED)
def test_packed_and_padded_rows_give_the_same_gradients(model_folder, family):
    gradients = {}
    for packing in (True, False):
        encoder = HuggingFaceEncoder(path=str(model_folder(family)), packing=packing, dropout=0.0).build().train()
        input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=packing)
        hidden_ND = encoder(input_ids_N, None, layout)
        weights_ND = torch.randn(hidden_ND.shape, generator=torch.Generator().manual_seed(1))
        (hidden_ND * weights_ND).sum().backward()
        gradients[packing] = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    for name, packed in gradients[True].items():
        padded = gradients[False][name]
        if padded is None:  # a token type that no row uses
            assert packed is None
            continue
        assert (packed - padded).abs().max() < 1e-4 * max(1.0, padded.abs().max()), name


@pytest.mark.parametrize("family", ["deberta-v2", "t5", "bert"])
def test_padded_rows_in_passes_by_length_give_the_same(monkeypatch, model_folder, family):
    found = []
    for cost in (10_000, 0):  # one pass for all rows, one for each length
        monkeypatch.setattr("mtl_cli.encoders.grouping._PASS_COST", cost)
        encoder = HuggingFaceEncoder(path=str(model_folder(family)), packing=False, dropout=0.0).build().train()
        passes = []
        encoder.model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=False)
        hidden_ND = encoder(input_ids_N, None, layout)
        assert len(passes) == (1 if cost else len(set(layout.lengths.tolist())))
        (hidden_ND * torch.linspace(0, 1, hidden_ND.numel()).view_as(hidden_ND)).sum().backward()
        found.append((hidden_ND, {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_a_row_does_not_see_the_rows_beside_it(model_folder, family):
    encoder = HuggingFaceEncoder(path=str(model_folder(family))).build().eval()
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=True)
    others_N = input_ids_N.clone()
    others_N[:5] = 7
    others_N[22:] = 9
    with torch.no_grad():
        row = encoder(input_ids_N, None, layout)[5:22]
        torch.testing.assert_close(encoder(others_N, None, layout)[5:22], row, atol=1e-6, rtol=1e-6)
        assert (encoder(others_N, None, layout)[:5] - encoder(input_ids_N, None, layout)[:5]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(model_folder, family, reentrant):
    gradients = []
    for checkpointing in (False, True):
        encoder = HuggingFaceEncoder(path=str(model_folder(family)), dropout=0.0).build().train()
        if checkpointing:
            model = encoder.model  # its method has had two names in transformers 5
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=True)
        layer = next(m for m in encoder.blocks[1].modules() if getattr(m, "weight", torch.empty(0)).ndim == 2)
        passes = []
        layer.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        encoder(input_ids_N, None, layout).pow(2).sum().backward()
        assert len(passes) == (2 if checkpointing else 1)
        gradients.append(layer.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "t5", "deberta-v2"])
def test_bfloat16_autocast_stays_near_float32(model_folder, family):
    encoder = HuggingFaceEncoder(path=str(model_folder(family)), dropout=0.1).build()
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    encoder.eval()
    with torch.no_grad():
        exact_ND = encoder(input_ids_N, None, layout)
    encoder.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(input_ids_N, None, layout).float().pow(2).sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
    encoder.eval()
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded_ND = encoder(input_ids_N, None, layout).float()
    assert 0 < (rounded_ND - exact_ND).abs().mean() < 0.05 * exact_ND.abs().mean()


def test_blocks_are_found_in_every_family(model_folder):
    for family in CONFIGS:
        blocks = HuggingFaceEncoder(path=str(model_folder(family))).build().blocks
        assert len(blocks) == 3, family
        assert "Layer" in type(blocks[0]).__name__ or "Block" in type(blocks[0]).__name__, family
