"""The encoder trained from scratch, and its tokenizer."""

import subprocess
import sys

import pytest
import torch
from encoders import tiny_encoders
from transformers import AutoTokenizer, ModernBertModel

from mtl_cli.encoders import TransformerEncoder
from mtl_cli.encoders.train_tokenizer import train_tokenizer
from mtl_cli.types import UserError

TEXTS = [
    f"{who} {what} the {thing}." for who in ("Anna", "Bob") for what in ("sees", "paints") for thing in ("sea", "hut")
]
SMALL = {"vocab_size": 400, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_length": 32}


def test_settings_are_those_of_the_model():
    torch.manual_seed(0)
    encoder = TransformerEncoder(**SMALL, dropout=0.25, pooling="max").build(TEXTS)
    config = encoder.model.config
    assert isinstance(encoder.model, ModernBertModel)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert config.intermediate_size == 43  # 8 / 3 * 16
    assert (config.embedding_dropout, config.mlp_dropout, config.attention_dropout) == (0.25, 0.25, 0.25)
    without = TransformerEncoder(**SMALL, dropout=0.25, attention_dropout=0.0).build(TEXTS).model.config
    assert (without.mlp_dropout, without.attention_dropout) == (0.25, 0.0)
    assert set(config.layer_types) == {"full_attention"}
    assert (encoder.hidden_size, encoder.max_length, encoder.pooling, encoder.packed) == (16, 32, "max", True)
    assert config.vocab_size == len(encoder.tokenizer) <= 400
    assert len(encoder.blocks) == 2


def test_weights_follow_the_seed():
    tokenizer = TransformerEncoder(**SMALL).load_tokenizer(TEXTS)

    def weights(seed):
        torch.manual_seed(seed)
        encoder = TransformerEncoder(**SMALL).build(tokenizer=tokenizer)
        return torch.cat([parameter.flatten() for parameter in encoder.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert weights(1)[: 300 * 16].std().item() == pytest.approx(16**-0.5, rel=0.1)


def test_packed_and_padded_agree():
    tokenizer = TransformerEncoder(**SMALL).load_tokenizer(TEXTS)
    hidden = []
    for packing in (True, False):
        torch.manual_seed(0)
        encoder = TransformerEncoder(**SMALL, packing=packing).build(tokenizer=tokenizer).eval()
        layout = tiny_encoders.rows({"a": [3, 9], "b": [5]}, packed=packing)[1]
        with torch.no_grad():
            hidden.append(encoder(torch.arange(17), None, layout))
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(UserError, match=r"encoder\.hidden_size: 100 is not a multiple of encoder\.num_heads: 3.*99"):
        TransformerEncoder(hidden_size=100, num_heads=3)


def test_no_text_is_an_error():
    with pytest.raises(UserError, match="there are none"):
        TransformerEncoder(**SMALL).build(iter(()))


def test_any_text_survives_the_tokenizer():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, lowercase=False, max_length=64)
    for text in ("Zoë läuft nach 東京 🚀", "don't  stop", "x" * 50):
        encoded = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in encoded
        assert tokenizer.decode(encoded, skip_special_tokens=True).strip() == text


def test_merges_are_learnt_from_the_texts():
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, lowercase=True, max_length=64)
    assert tokenizer.tokenize("Anna paints") == ["Ġanna", "Ġpaints"]
    assert tokenizer.tokenize("paints anna") == ["Ġpaints", "Ġanna"]
    assert "ĠAnna" in train_tokenizer(TEXTS, vocab_size=400, lowercase=False, max_length=64).get_vocab()


def test_rows_are_framed_as_in_bert():
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, lowercase=True, max_length=64)
    encoded = tokenizer("anna", "bob sees")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
        "[CLS]",
        "Ġanna",
        "[SEP]",
        "Ġbob",
        "Ġsees",
        "[SEP]",
    ]
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1, 1]


def test_the_tokenizer_is_the_same_in_every_process():
    texts = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrst"]  # every pair equally often
    ours = train_tokenizer(texts, vocab_size=350, lowercase=True, max_length=64)
    code = (
        "from mtl_cli.encoders.train_tokenizer import train_tokenizer as t;"
        "texts = [f'{a}{b}{c}' for a in 'abcdefgh' for b in 'ijklmnop' for c in 'qrst'];"
        "print(t(texts, vocab_size=350, lowercase=True, max_length=64).backend_tokenizer.to_str())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ours.backend_tokenizer.to_str()


def test_the_tokenizer_survives_saving(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, lowercase=True, max_length=64)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("Anna sees", "the Fluß 東") == tokenizer("Anna sees", "the Fluß 東")
    assert (loaded.pad_token_id, loaded.model_max_length) == (0, 64)
