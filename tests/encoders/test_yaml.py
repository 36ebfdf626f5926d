"""Every file of conf/encoder and conf/sharing binds to the code."""

import importlib
from pathlib import Path

import pytest
import yaml

from mtl_cli.encoders import EncoderSpec
from mtl_cli.sharing import SharingStrategy

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted([*(CONF / "encoder").glob("*.yaml"), *(CONF / "sharing").glob("*.yaml")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_file_constructs_its_class(file):
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.splitlines()[0]) < 160
    settings = yaml.safe_load(text)
    module, _, name = settings.pop("_target_").rpartition(".")
    built = getattr(importlib.import_module(module), name)(**settings)
    assert isinstance(built, EncoderSpec if file.parent.name == "encoder" else SharingStrategy)
    for key, value in settings.items():
        assert getattr(built, key) == value
