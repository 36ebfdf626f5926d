"""Operations of a token worked out by hand, and the shape of what the ceiling measures."""

import numpy as np
import pytest
import torch
from encoders import tiny_encoders
from transformers import BertConfig, BertModel

from mtl_cli.bench.ceiling import Ceiling, EncoderSize
from mtl_cli.encoders import Encoder


@pytest.fixture(scope="module")
def size():
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config, add_pooling_layer=False)
    return EncoderSize.of(Encoder(model, tiny_encoders.tokenizer(), pooling="mean", packed=True))


def test_parameters_are_counted_without_embeddings(size):
    # A block: four projections of 32 x 32, two of 32 x 64, with biases, and two layer norms; a third norm stands behind
    # the embeddings.
    block = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 2 * 32
    assert size == EncoderSize(num_parameters=2 * block + 2 * 32, num_layers=2, width=32, inner_width=64)


def test_a_token_takes_6_n_and_12_l_h_t_operations():
    size = EncoderSize(num_parameters=100, num_layers=3, width=8, inner_width=16)
    # Rows of 2 and 5 tokens: 7 tokens of 600, and 12 * 3 * 8 operations for each of 2 * 2 + 5 * 5 pairs.
    assert size.operations(np.array([2, 5])) == 7 * 600 + 288 * 29


def test_the_ceiling_keeps_a_rate_for_each_round(monkeypatch):
    monkeypatch.setattr("mtl_cli.bench.ceiling._SHORTEST_SECONDS", 0.001)
    monkeypatch.setattr("mtl_cli.bench.ceiling._SQUARE", {"cpu": 64})
    ceiling = Ceiling(EncoderSize(100, 1, 16, 32), 64, "fp32", torch.device("cpu"))
    assert [ceiling.round().tokens for _ in range(3)] == [0, 0, 0]
    assert len(ceiling.rates) == 3
    assert min(ceiling.rates) > 0


def test_repeated_products_are_all_counted(monkeypatch):
    """A clock that moves by one with each look: 1 + 2 + 4 products fit into three seconds after the start."""
    seconds = iter(range(100))
    monkeypatch.setattr("mtl_cli.bench.ceiling.time.perf_counter", lambda: next(seconds))
    monkeypatch.setattr("mtl_cli.bench.ceiling._SHORTEST_SECONDS", 3)
    ceiling = Ceiling(EncoderSize(100, 1, 16, 32), 64, "fp32", torch.device("cpu"))
    calls = []
    assert ceiling._rate(12.0, lambda: calls.append(1) or torch.zeros(())) == 12.0 * 7 / 3
    assert len(calls) == 1 + 7  # one to warm up
