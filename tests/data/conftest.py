import socket
from pathlib import Path

import datasets
import pytest
from transformers import PreTrainedTokenizerFast
from word_tokenizer import make_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of datasets' own, in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    datasets.disable_progress_bars()
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError(f"a network was asked for: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer("a b c d e f g h")
