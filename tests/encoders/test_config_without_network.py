"""A hub that does not answer is asked for a model's config once, not once a check and once more to load."""

import pytest
import transformers

from mtl_cli.encoders import HuggingFaceEncoder
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
