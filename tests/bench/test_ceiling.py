"""Operations of a token worked out by hand, and the shape of what the ceiling measures."""

import pytest
import torch
import yaml
from encoders import tiny_encoders
from transformers import BertConfig, BertModel

from mtl_cli.bench.ceiling import Ceiling, EncoderSize, own_parameters
from mtl_cli.bench.protocol import Spread
from mtl_cli.bench.synthetic import told_of_tasks
from mtl_cli.build import instantiate
from mtl_cli.cli import conf_dir
from mtl_cli.encoders import Encoder
from mtl_cli.model import MultiTaskModel
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import Adapters
from mtl_cli.tasks import SingleTextClassification

# A block: four projections of 32 x 32, two of 32 x 64, with biases, and two layer norms; a third norm stands behind the
# embeddings.
BLOCK = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 2 * 32
N = 2 * BLOCK + 2 * 32


@pytest.fixture
def encoder():
    """Two blocks of random weights, 32 wide."""
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return Encoder(BertModel(config, add_pooling_layer=False), tiny_encoders.tokenizer(), pooling="mean", packed=True)


TASKS = ["a", "b", "c"]


def model_of(encoder, sharing):
    tasks = {name: SingleTextClassification(source=UnavailableSource()) for name in TASKS}
    return MultiTaskModel(encoder, sharing, tasks, {name: ["x", "y"] for name in TASKS})


def test_parameters_are_counted_without_embeddings(encoder):
    assert EncoderSize.of(encoder) == EncoderSize(num_parameters=N, num_layers=2, width=32, inner_width=64)


def test_frozen_parts_have_a_forward_pass_only(encoder):
    encoder.freeze(embeddings=True, num_blocks=1)
    size = EncoderSize.of(encoder)
    # The upper block is trained; into its query, key and value no gradient goes back, since nothing below is trained.
    assert size.num_parameters == N
    assert size.by_weights == BLOCK / N
    assert size.by_inputs == (BLOCK - 3 * (32 * 32 + 32)) / N
    assert size.by_attention == 0.5
    expected = 7 * (2 * N + 2 * BLOCK + 2 * (BLOCK - 3 * (32 * 32 + 32))) + (8 + 8) * 32 * 29
    assert size.operations(tokens=7, squares=29) == pytest.approx(expected)
    assert encoder.training


def test_adapters_in_a_frozen_encoder_have_the_gradient_pass_through_it(encoder):
    own = own_parameters(encoder)
    adapters = Adapters(placement="pfeiffer", train_encoder=False, train_norms=False)
    size = EncoderSize.of(encoder, own, model_of(encoder, adapters))
    assert size.num_parameters == N
    assert size.by_weights == 0
    # From the first adapter, behind the lower block's feed-forward part, all is passed: that block's last
    # normalisation, and the upper block.
    assert size.by_inputs == (2 * 32 + BLOCK) / N


@pytest.mark.parametrize("strategy", sorted(path.stem for path in (conf_dir() / "sharing").glob("*.yaml")))
def test_with_every_strategy_the_plain_encoders_operations_count(strategy, encoder):
    settings = yaml.safe_load((conf_dir() / "sharing" / f"{strategy}.yaml").read_text())
    own = own_parameters(encoder)
    size = EncoderSize.of(encoder, own, model_of(encoder, instantiate(told_of_tasks(settings, TASKS))))
    assert size.num_parameters == N
    if settings.get("train_encoder", True):
        assert size == EncoderSize(N, 2, 32, 64)
    else:  # low-rank updates of query and value: below the lowest of them are its inputs and a normalisation
        assert size.by_weights == 0
        assert size.by_inputs == (N - 2 * 32 - 3 * (32 * 32 + 32)) / N


def test_nothing_is_passed_back_where_nothing_is_trained(encoder):
    encoder.requires_grad_(False)
    size = EncoderSize.of(encoder)
    assert (size.by_inputs, size.by_weights, size.by_attention) == (0, 0, 0)
    assert size.operations(tokens=7, squares=29) == 7 * 2 * N + 4 * 2 * 32 * 29


def test_looking_at_an_encoder_leaves_no_trace(encoder):
    state, hooks = torch.get_rng_state(), [len(module._forward_pre_hooks) for module in encoder.modules()]
    EncoderSize.of(encoder)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(module._forward_pre_hooks) for module in encoder.modules()] == hooks


def test_a_share_is_of_the_rate_of_the_same_round():
    ceiling = Ceiling(EncoderSize(100, 1, 16, 32), 64, "fp32", torch.device("cpu"))
    ceiling.rates = [1000.0, 10.0, 20.0]  # the first round is dropped
    # 30 / 6 = 5 of 10, 30 / 2 = 15 of 20.
    assert ceiling.shares([30.0, 30.0], [6.0, 2.0]) == Spread.of([0.5, 0.75])


def test_a_token_takes_6_n_and_12_l_h_t_operations():
    size = EncoderSize(num_parameters=100, num_layers=3, width=8, inner_width=16)
    # Rows of 2 and 5 tokens: 7 tokens of 600, and 12 * 3 * 8 operations for each of 2 * 2 + 5 * 5 pairs.
    assert size.operations(tokens=7, squares=29) == 7 * 600 + 288 * 29


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
