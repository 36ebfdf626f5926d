from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from pydantic import ConfigDict, TypeAdapter

import mtl_cli.sampling as sampling
from mtl_cli.sampling import Sampler

FILES = sorted((Path(__file__).parents[2] / "conf" / "sampler").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_names_a_sampler_and_settings_of_it_with_its_defaults(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    settings = yaml.safe_load(text)
    package, name = settings.pop("_target_").rsplit(".", 1)
    assert package == "mtl_cli.sampling"
    kind = getattr(sampling, name)
    assert path.stem == "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")
    assert kind(**settings) == kind()
    assert set(settings) == set(inspect.signature(kind).parameters)


def test_each_sampler_has_a_file():
    kinds = {name for name in sampling.__all__ if inspect.isclass(getattr(sampling, name))}
    concrete = {
        name
        for name in kinds
        if issubclass(getattr(sampling, name), Sampler) and not inspect.isabstract(getattr(sampling, name))
    }
    assert {
        yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"].rsplit(".", 1)[1] for path in FILES
    } == concrete


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_setting_can_be_validated_against_its_annotation(path):
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = getattr(sampling, settings.pop("_target_").rsplit(".", 1)[1])
    for name, parameter in inspect.signature(kind).parameters.items():
        adapter = TypeAdapter(parameter.annotation, config=ConfigDict(strict=True))
        assert adapter.validate_python(settings[name]) == settings[name]
        with pytest.raises(ValueError, match="valid"):
            adapter.validate_python(object())
