"""The help of each command: what it prints, and that what it says is true of the configuration."""

import re
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import get_args

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtl_cli.bench.settings import Benchmark, BenchSettings

CONF = Path(__file__).parents[2] / "conf"


def help_template(command: str, name: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command, overrides=[f"hydra/help={name}"], return_hydra_config=True)
        return str(config.hydra.help.template)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("train", "mtl"),
        ("evaluate", "mtl_evaluate"),
        ("predict", "mtl_predict"),
        ("inspect", "mtl_inspect"),
        ("study", "mtl_study"),
        ("compare", "mtl_compare"),
        ("sync", "mtl_sync"),
        ("search", "mtl_search"),
        ("bench", "mtl_bench"),
    ],
)
def test_help_is_made_of_what_hydra_fills_in(command: str, name: str) -> None:
    text = help_template(command, name)
    # What Hydra's own get_help fills in.
    filled = Template(text).substitute(APP_CONFIG_GROUPS="GROUPS", HYDRA_CONFIG_GROUPS="", FLAGS_HELP="", CONFIG="ALL")
    assert filled.startswith(f"mtl {command} ")
    assert ("GROUPS" in filled) == (command == "train")
    assert "ALL" not in filled
    assert max(map(len, filled.splitlines())) <= 120


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("evaluate", "mtl_evaluate"),
        ("predict", "mtl_predict"),
        ("inspect", "mtl_inspect"),
        ("compare", "mtl_compare"),
        ("sync", "mtl_sync"),
    ],
)
def test_help_explains_exactly_the_settings_of_the_command(command: str, name: str) -> None:
    explained = re.findall(r"^(\w+) {2,}\S", help_template(command, name), flags=re.MULTILINE)
    settings = OmegaConf.load(CONF / f"{command}.yaml")
    assert explained == [key for key in settings if key not in ("defaults", "hydra")]


def test_help_explains_exactly_the_settings_of_a_search() -> None:
    text = help_template("search", "mtl_search").split("== How")[1]
    explained = re.findall(r"^(\w+) {2,}\S", text, flags=re.MULTILINE)
    assert explained == list(OmegaConf.load(CONF / "search" / "default.yaml"))


def test_the_help_of_studies_explains_exactly_what_stands_below_study() -> None:
    explained = re.findall(r"^(\w+) {2,}\S", help_template("study", "mtl_study"), flags=re.MULTILINE)
    assert explained == list(OmegaConf.load(CONF / "study.yaml").study)


def test_the_help_of_benchmarks_explains_exactly_their_settings_and_what_there_is_to_measure() -> None:
    of, how = help_template("bench", "mtl_bench").split("== of=NAME")[1].split("== How")
    explained = [re.findall(r"^(\w+) {2,}\S", text, flags=re.MULTILINE) for text in (of, how)]
    assert explained == [list(get_args(Benchmark)), list(OmegaConf.load(CONF / "bench.yaml").bench)]


def test_the_settings_of_benchmarks_have_the_defaults_of_the_yaml() -> None:
    assert asdict(BenchSettings()) == OmegaConf.to_container(OmegaConf.load(CONF / "bench.yaml").bench)


def test_the_overrides_that_train_shows_compose_together() -> None:
    shown = re.findall(r"^(\S+=\S+) {2,}\S", help_template("train", "mtl"), flags=re.MULTILINE)
    assert len(shown) == 5
    # `mtl` itself puts the ++ that a key missing in the YAML needs.
    overrides = [f"++{override}" if "." in override.split("=")[0] else override for override in shown]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=overrides)
    assert list(config.tasks) == ["sst2", "conll2003", "snli"]
    assert config.tasks.sst2.max_train_examples == 1000
