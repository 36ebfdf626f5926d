"""Loading from folders in the hub's format, the settings, and what can go wrong."""

import json
import shutil

import pytest
import torch
from encoders import tiny_encoders
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AutoModel, BertConfig, BertForMaskedLM

from mtl_cli.encoders import HuggingFaceEncoder
from mtl_cli.types import UserError


@pytest.fixture
def copy(model_folder, tmp_path):
    """A copy of BERT's folder, to break."""
    return shutil.copytree(model_folder("bert"), tmp_path / "bert")


def build(folder, **settings):
    return HuggingFaceEncoder(path=str(folder), **settings).build()


def test_the_body_of_a_pretraining_checkpoint_loads_without_a_word(tmp_path, capfd):
    torch.manual_seed(0)
    reference = BertForMaskedLM(tiny_encoders.CONFIGS["bert"])
    reference.save_pretrained(tmp_path)
    tiny_encoders.tokenizer().save_pretrained(tmp_path)
    capfd.readouterr()
    encoder = build(tmp_path)
    assert capfd.readouterr() == ("", "")
    ours, theirs = encoder.model.state_dict(), reference.bert.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any("pooler" in name for name in ours)


def test_weights_become_float32(copy):
    AutoModel.from_pretrained(copy, dtype=torch.bfloat16).save_pretrained(copy)
    assert {parameter.dtype for parameter in build(copy).parameters()} == {torch.float32}


def test_a_tokenizer_without_padding_just_works(model_folder):
    encoder = build(model_folder("gpt2"), pooling="last")
    assert encoder.tokenizer.pad_token == "<|endoftext|>"
    input_ids_N, layout = tiny_encoders.rows({"a": [4, 2]}, packed=True)
    assert encoder(input_ids_N, None, layout).shape == (6, 32)


@pytest.mark.parametrize("family", tiny_encoders.CONFIGS)
def test_dropout_reaches_every_dropout_of_the_family(model_folder, family):
    encoder = build(model_folder(family), dropout=0.37)
    modules = [module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    numbers = [
        value
        for module in encoder.modules()
        for name, value in vars(module).items()
        if "dropout" in name and isinstance(value, float)
    ]
    assert len(modules) >= 4
    assert {*modules, *numbers} == {0.37}
    assert "classifier" not in str([name for name, value in encoder.model.config.to_dict().items() if value == 0.37])


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v2", "modernbert", "gpt2"])
def test_attention_weights_have_a_dropout_of_their_own(model_folder, family):
    encoder = build(model_folder(family), dropout=0.37, attention_dropout=0.0)
    config = encoder.model.config
    rates = {
        name: value for name, value in vars(config).items() if ("dropout" in name or "pdrop" in name) and value == 0.37
    }
    others = {"attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"}
    assert rates
    assert not rates.keys() & others
    assert {getattr(config, name) for name in others if hasattr(config, name)} == {0.0}


def test_a_family_without_one_says_so_before_it_is_loaded(model_folder):
    with pytest.raises(UserError, match=r"encoder\.attention_dropout: 0\.0, but a 't5' config has no field for it"):
        HuggingFaceEncoder(path=str(model_folder("t5")), attention_dropout=0.0).check_settings()


def test_without_a_setting_dropout_is_the_checkpoint_s(model_folder):
    assert build(model_folder("bert")).model.config.hidden_dropout_prob == 0.1


@pytest.mark.parametrize("family", tiny_encoders.CONFIGS)
def test_embeddings_and_lowest_blocks_can_be_frozen(model_folder, family):
    encoder = build(model_folder(family), freeze_embeddings=True, num_frozen_blocks=2)
    trainable = {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    assert not any(id(parameter) in trainable for block in encoder.blocks[:2] for parameter in block.parameters())
    assert all(id(parameter) in trainable for parameter in encoder.blocks[2].parameters())
    assert id(encoder.model.get_input_embeddings().weight) not in trainable
    input_ids_N, layout = tiny_encoders.rows({"a": [4, 2]}, packed=encoder.packed)
    encoder(input_ids_N, None, layout).sum().backward()


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_freezing_the_embeddings_leaves_the_blocks_alone(model_folder, family):
    encoder = build(model_folder(family), freeze_embeddings=True)
    assert all(parameter.requires_grad for parameter in encoder.blocks.parameters())
    assert not encoder.model.get_input_embeddings().weight.requires_grad


def test_more_frozen_blocks_than_there_are(model_folder):
    with pytest.raises(UserError, match=r"encoder\.num_frozen_blocks: found 4, but the encoder has 3 blocks"):
        build(model_folder("bert"), num_frozen_blocks=4)


def test_fields_of_the_config_can_be_replaced(model_folder):
    encoder = build(model_folder("bert"), config_overrides={"hidden_act": "relu"})
    assert encoder.model.config.hidden_act == "relu"
    with pytest.raises(UserError, match=r"encoder\.config_overrides\.hidden_atc: a 'bert' config has no such field"):
        build(model_folder("bert"), config_overrides={"hidden_atc": "relu"})


def test_packing_is_refused_where_the_family_cannot(model_folder):
    with pytest.raises(UserError, match=r"a 'deberta-v2' model cannot run packed rows .*encoder\.packing=auto"):
        build(model_folder("deberta-v2"), packing=True)
    assert not build(model_folder("deberta-v2")).packed
    assert build(model_folder("bert")).packed


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("roberta", 64), ("gpt2", 64), ("t5", 64)])
def test_rows_beyond_the_encoder_s_length_are_refused(model_folder, family, longest):
    encoder = build(model_folder(family))
    assert encoder.max_length == longest  # RoBERTa: 66 positions, the first two of them unused
    encoder(*_row(encoder, longest))
    with pytest.raises(UserError, match=rf"A row of {longest + 1} tokens, but the encoder takes at most {longest}"):
        encoder(*_row(encoder, longest + 1))


def _row(encoder, length):
    input_ids_N, layout = tiny_encoders.rows({"a": [length]}, packed=encoder.packed)
    return input_ids_N, None, layout


def test_a_family_that_reuses_one_block_works_until_blocks_are_needed(tmp_path):
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=300,
        embedding_size=8,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_encoders.tokenizer().save_pretrained(tmp_path)
    encoder = build(tmp_path)
    assert len(encoder.blocks) == 0
    assert encoder(*_row(encoder, 5)).shape == (5, 32)
    with pytest.raises(UserError, match="'albert' model does not have"):
        build(tmp_path, num_frozen_blocks=1)


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(UserError, match=r"holds pickled weights only .*pytorch_model\.bin.*save_pretrained"):
        build(copy)


def test_missing_weights_of_the_body_are_an_error(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of the encoder's: encoder\.layer\.1\.output\.dense\.weight.*random"):
        build(copy)


def test_weights_of_another_shape_are_an_error(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(UserError, match=r"encoder\.path: weights of .* cannot be loaded"):
        build(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"config\.json of '.*' cannot be loaded .*save_pretrained"),
        ("model.safetensors", r"weights of '.*' cannot be loaded"),
    ],
)
def test_a_folder_that_lacks_a_part(copy, name, message):
    (copy / name).unlink()
    with pytest.raises(UserError, match=message):
        build(copy)


@pytest.mark.parametrize("family", tiny_encoders.CONFIGS)
def test_a_folder_without_a_tokenizer(model_folder, tmp_path, family):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model_folder(family) / name, tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.*tokenizer\.save_pretrained\(folder\)"):
        HuggingFaceEncoder(path=str(tmp_path)).load_tokenizer()


def test_an_unknown_folder(tmp_path):
    with pytest.raises(UserError, match=r"encoder\.path: there is no folder '.*nowhere'"):
        build(tmp_path / "nowhere")


def test_an_unknown_id_without_a_network():
    with pytest.raises(UserError, match=r"'nobody/nothing'.*HF_HUB_OFFLINE is set.*local folder.*encoder=minilm"):
        build("nobody/nothing")


def test_a_decoder_with_its_encoder_is_refused_where_it_cannot_be_taken_apart(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "bart", "is_encoder_decoder": True}))
    with pytest.raises(UserError, match="encoder of a 'bart' model cannot be loaded apart"):
        build(copy)


def test_settings_construct_without_reading_anything():
    HuggingFaceEncoder(path="nobody/nothing", dropout=0.2)


def test_the_tokenizer_that_is_given_is_used(model_folder):
    tokenizer = tiny_encoders.tokenizer()
    encoder = HuggingFaceEncoder(path=str(model_folder("bert"))).build(iter(()), tokenizer)
    assert encoder.tokenizer is tokenizer


def test_models_that_lie_far_from_the_default_sizes(tmp_path):
    # Attention width that the variable-length kernel cannot take, one block, one head.
    config = BertConfig(vocab_size=300, hidden_size=6, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_encoders.tokenizer().save_pretrained(tmp_path)
    assert build(tmp_path)(*_row(build(tmp_path), 1)).shape == (1, 6)
