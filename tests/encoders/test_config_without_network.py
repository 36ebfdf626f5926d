"""A hub that does not answer is asked for a model's config once, not once a check and once more to load."""

import pytest
import transformers
from transformers import BertConfig

from mtl_cli.encoders import HuggingFaceEncoder, loading
from mtl_cli.types import UserError


def test_loading_repeats_what_the_check_could_not_read_without_asking_again(monkeypatch):
    asked = []

    def no_network(path, **_):
        asked.append(path)
        raise OSError("We couldn't connect")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", no_network)
    encoder = HuggingFaceEncoder(path="nobody/out_of_reach")
    assert encoder.known_shape() is None
    encoder.check_settings()
    with pytest.raises(UserError, match="nobody/out_of_reach"):
        encoder.build()
    assert asked == ["nobody/out_of_reach"]


def test_a_failure_is_remembered_for_a_minute_and_a_config_for_good(monkeypatch):
    answers = [OSError("We couldn't connect"), BertConfig(num_hidden_layers=7)]
    now = [100.0]

    def answer(path, **_):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", answer)
    monkeypatch.setattr(loading.time, "monotonic", lambda: now[0])
    encoder = HuggingFaceEncoder(path="nobody/out_of_reach_for_a_while")
    assert encoder.known_shape() is None
    now[0] += 59
    assert encoder.known_shape() is None
    now[0] += 2
    assert encoder.known_shape().num_blocks == 7
    now[0] += 1000
    changed = HuggingFaceEncoder(path="nobody/out_of_reach_for_a_while", config_overrides={"num_hidden_layers": 5})
    assert changed.known_shape().num_blocks == 5
    assert encoder.known_shape().num_blocks == 7
