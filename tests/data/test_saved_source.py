import datasets
import pytest

from mtl_cli.data import SavedSource
from mtl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "no_network")


def rows(*texts):
    return datasets.Dataset.from_dict({"text": list(texts)})


def test_splits_are_chosen_by_name(tmp_path):
    datasets.DatasetDict({"train": rows("a"), "dev": rows("b"), "test": rows("c")}).save_to_disk(tmp_path / "saved")
    loaded = SavedSource(path=str(tmp_path / "saved"), splits={"validation": "dev", "test": None}).load()
    assert {split: dataset["text"][:] for split, dataset in loaded.items()} == {"train": ["a"], "validation": ["b"]}


def test_a_single_data_set_serves_as_training_split(tmp_path):
    rows("a", "b").save_to_disk(tmp_path / "saved")
    source = SavedSource(path=str(tmp_path / "saved"))
    assert source.load()["train"]["text"][:] == ["a", "b"]
    assert source.locate("train", 1) == f"{tmp_path / 'saved'} (train), row 2"


def test_rows_selected_before_saving_are_kept(tmp_path):
    rows("a", "b", "c").select([2, 0]).save_to_disk(tmp_path / "saved")
    assert SavedSource(path=str(tmp_path / "saved")).load()["train"]["text"][:] == ["c", "a"]


def test_the_fingerprint_follows_the_files(tmp_path):
    source = SavedSource(path=str(tmp_path / "saved"))
    rows("a").save_to_disk(tmp_path / "saved")
    first = source.load()["train"]._fingerprint
    assert source.load()["train"]._fingerprint == first
    rows("b").save_to_disk(tmp_path / "saved")
    assert source.load()["train"]._fingerprint != first


def test_what_is_no_saved_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        SavedSource(path=str(tmp_path / "nowhere")).load()
    with pytest.raises(UserError, match="is not a folder written by save_to_disk"):
        SavedSource(path=str(tmp_path)).load()
    datasets.DatasetDict({"a": rows("x")}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"none of the splits.*Splits: a\. .*splits: \{train: a\}"):
        SavedSource(path=str(tmp_path / "saved")).load()
