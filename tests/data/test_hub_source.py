from pathlib import Path

import datasets
import pytest

from mtl_cli.data import HubSource
from mtl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "no_network")

FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
CARD = """\
---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: dev_matched, path: main/dev-*}
  - {split: test, path: main/test-*}
- config_name: extra
  data_files:
  - {split: train, path: extra/train-*}
---
"""


def write_rows(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"text": texts, "label": [number % 2 for number in range(len(texts))]}
    datasets.Dataset.from_dict(rows, features=FEATURES).to_parquet(path)


@pytest.fixture
def hub(tmp_path):
    """A data set in the Hub's format: parquet files, and a card that declares configurations."""
    folder = tmp_path / "hub"
    for name, texts in (("main/train-0", ["a", "b"]), ("main/dev-0", ["c"]), ("main/test-0", ["d"])):
        write_rows(folder / f"{name}.parquet", texts)
    write_rows(folder / "extra" / "train-0.parquet", ["e"])
    (folder / "README.md").write_text(CARD)
    return folder


def test_configuration_and_splits_are_chosen_by_name(hub):
    source = HubSource(path=str(hub), name="main", splits={"validation": "dev_matched"})
    loaded = source.load()
    assert {split: dataset["text"][:] for split, dataset in loaded.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
        "test": ["d"],
    }
    assert loaded["train"].features == FEATURES
    assert source.locate("validation", 0) == f"{hub}/main (dev_matched), row 1"
    assert list(HubSource(path=str(hub), name="extra").load()) == ["train"]


def test_null_leaves_a_split_out(hub):
    source = HubSource(path=str(hub), name="main", splits={"train": "train", "test": None})
    assert list(source.load()) == ["train"]


def test_a_folder_or_named_files_can_be_read_instead(hub):
    assert list(HubSource(path=str(hub), data_dir="extra").load()) == ["train"]
    loaded = HubSource(path=str(hub), data_files={"train": "main/*-0.parquet"}).load()
    assert sorted(loaded["train"]["text"][:]) == ["a", "b", "c", "d"]


def test_a_changed_folder_is_read_again(hub):
    source = HubSource(path=str(hub), name="main")
    before = source.load()["train"]
    assert source.load()["train"]._fingerprint == before._fingerprint
    write_rows(hub / "main" / "train-0.parquet", ["changed", "rows", "here"])
    after = source.load()["train"]
    assert after["text"][:] == ["changed", "rows", "here"]
    assert after._fingerprint != before._fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "main", "splits": {"validation": "dev_match"}}, r"no split 'dev_match' \(splits\.validation\)\. "
         r"Splits: train, dev_matched, test\. Did you mean dev_matched\?"),
        ({"name": "mian"}, r"'mian' not found\. Available: \['main', 'extra'\].*Set `name`"),
        ({}, r"available configs: \['main', 'extra'\].*Set `name`"),
        ({"data_dir": "nowhere"}, r"nowhere.*check its files"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named_with_what_does(hub, settings, message):
    with pytest.raises(UserError, match=message):
        HubSource(path=str(hub), **settings).load()


def test_a_broken_file_is_reported_with_its_cause(hub):
    (hub / "extra" / "train-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"hub/extra cannot be loaded: .*[Pp]arquet"):
        HubSource(path=str(hub), name="extra").load()


def test_a_data_set_that_needs_a_script_is_explained(hub):
    (hub / "hub.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match=r"Dataset scripts are no longer supported.*refs/convert/parquet"):
        HubSource(path=str(hub), name="main").load()


def test_without_a_network_the_next_step_is_named(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"owner/name cannot be loaded.*HF_HUB_OFFLINE is set"):
        HubSource(path="owner/name").load()


def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub():
    with pytest.raises(UserError, match=r"there is no folder \./nowhere"):
        HubSource(path="./nowhere").load()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach the Hub"), "Check `path` .* and the network"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "hf auth login"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub."), r"Check `path` \(owner"),
    ],
)
def test_errors_of_the_hub_name_the_next_step(monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=message):
        HubSource(path="a/b").load()


def test_an_unknown_split_key_is_refused_at_once():
    with pytest.raises(UserError, match=r"splits\.dev: keys are train, validation, test"):
        HubSource(path="a/b", splits={"dev": "dev"})
