"""Encoders of each family with weights drawn anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from encoders import tiny_encoders

from mtl_cli.encoders import Encoder
from mtl_cli.encoders.layout import Layout


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Encoder]:
    """Make the encoder of a family, always with the same weights."""

    def make(family: str, packed: bool | None = None) -> Encoder:
        if packed is None:
            packed = family in tiny_encoders.PACKED
        model, tokenizer = tiny_encoders.reference_model(family), tiny_encoders.tokenizer()
        return Encoder(model, tokenizer, pooling="first", packed=packed)

    return make


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded encoders take all rows at once, as they do where a strategy's layers may mix tasks."""
    monkeypatch.setattr(Layout, "groups_for_passes", lambda layout, device: [layout])
