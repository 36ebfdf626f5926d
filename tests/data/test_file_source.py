import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl_cli.data import FileSource
from mtl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "no_network")


def test_files_of_every_format_give_the_same_rows(tmp_path):
    rows = {"text": ["one", "two"], "label": ["x", "y"]}
    (tmp_path / "a.csv").write_text("text,label\none,x\ntwo,y\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\none\tx\ntwo\ty\n")
    (tmp_path / "a.json").write_text('[{"text": "one", "label": "x"}, {"text": "two", "label": "y"}]')
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": "x"}\n{"text": "two", "label": "y"}\n')
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    for suffix in ("csv", "tsv", "json", "jsonl", "parquet"):
        loaded = FileSource(train=str(tmp_path / f"a.{suffix}")).load()
        assert list(loaded) == ["train"]
        assert loaded["train"].to_dict() == rows, suffix
    (tmp_path / "a.txt").write_text("text|label\none|x\ntwo|y\n")
    loaded = FileSource(train=str(tmp_path / "a.txt"), format="csv", delimiter="|").load()
    assert loaded["train"].to_dict() == rows


def test_lists_and_patterns_join_files_in_order(tmp_path, monkeypatch):
    for name, text in (("part-2", "b"), ("part-1", "a"), ("more", "c")):
        (tmp_path / f"{name}.csv").write_text(f"text\n{text}\n")
    monkeypatch.chdir(tmp_path)
    source = FileSource(train=["part-*.csv", "more.csv"], test="more.csv")
    loaded = source.load()
    assert loaded["train"]["text"][:] == ["a", "b", "c"]
    assert loaded["test"]["text"][:] == ["c"]
    assert source.locate("train", 1) == "part-2.csv, row 1 (line 2)"
    assert source.locate("train", 2) == "more.csv, row 1 (line 2)"


def test_json_files_whose_numbers_differ_in_kind_go_together(tmp_path):
    (tmp_path / "1.jsonl").write_text('{"score": 1}\n')
    (tmp_path / "2.jsonl").write_text('{"score": 0.5}\n')
    assert FileSource(train=str(tmp_path / "*.jsonl")).load()["train"]["score"][:] == [1.0, 0.5]
    (tmp_path / "2.jsonl").write_text('{"score": "high"}\n')
    with pytest.raises(UserError, match=r"1\.jsonl.*2\.jsonl do not go together"):
        FileSource(train=str(tmp_path / "*.jsonl")).load()


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path, cache):
    path = tmp_path / "a.csv"
    path.write_text("text\none\n")
    times = path.stat()
    source = FileSource(train=str(path))
    first = source.load()["train"]
    # The same size and time stamp: only the content tells.
    path.write_text("text\ntwo\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = source.load()["train"]
    assert (first["text"][:], second["text"][:]) == (["one"], ["two"])
    assert first._fingerprint != second._fingerprint
    path.write_text("text\none\n")
    assert source.load()["train"]._fingerprint == first._fingerprint
    assert len(list(cache.rglob("*.arrow"))) == 2


def test_settings_of_reading_are_part_of_the_key(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\n"quoted"\n')
    assert FileSource(train=str(path)).load()["train"]["text"][:] == ["quoted"]
    assert FileSource(train=str(path), quoting=False).load()["train"]["text"][:] == ['"quoted"']
    assert FileSource(train=str(path), columns=["text"]).load()["train"]["text"][:] == ["text", "quoted"]


def test_label_names_declared_in_parquet_are_kept(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    dataset = datasets.Dataset.from_dict({"text": ["a"], "label": [1]}, features=features)
    dataset.to_parquet(tmp_path / "a.parquet")
    assert FileSource(train=str(tmp_path / "a.parquet")).load()["train"].features == features


def test_places_count_rows_from_one_and_name_lines(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"one\ntwo",x\nthree,y\n')
    source = FileSource(train=str(tmp_path / "a.csv"))
    assert source.locate("train", 0).endswith("a.csv, row 1 (line 2)")
    assert source.locate("train", 1).endswith("a.csv, row 2 (line 4)")
    (tmp_path / "a.json").write_text('[{"text": "a"}]')
    assert FileSource(train=str(tmp_path / "a.json")).locate("train", 0).endswith("a.json, row 1")
    with pytest.raises(IndexError):
        source.locate("train", 2)


def test_missing_files_are_named_with_the_nearest(tmp_path):
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(UserError, match=r"train: there is no file .*trian\.csv .*Nearest: train\.csv"):
        FileSource(train=str(tmp_path / "trian.csv")).load()
    with pytest.raises(UserError, match=r"test: no file matches .*\*\.tsv"):
        FileSource(train=str(tmp_path / "train.csv"), test=str(tmp_path / "*.tsv")).load()
    with pytest.raises(UserError, match=r"is a folder. Name its files"):
        FileSource(train=str(tmp_path)).load()
    with pytest.raises(UserError, match=r"The folder .*nowhere does not exist either"):
        FileSource(train=str(tmp_path / "nowhere" / "a.csv")).load()


def test_a_name_with_pattern_characters_is_taken_literally_where_it_exists(tmp_path):
    path = tmp_path / "a[1].csv"
    path.write_text("text\na\n")
    assert len(FileSource(train=str(path)).load()["train"]) == 1


def test_contradictory_settings_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="names no file"):
        FileSource()
    with pytest.raises(UserError, match=r"delimiter must be one character\. Found '\|\|'"):
        FileSource(train="nowhere.csv", delimiter="||")
    with pytest.raises(UserError, match="columns must differ"):
        FileSource(train="nowhere.csv", columns=["a", "a"])
    (tmp_path / "a.dat").write_text("x")
    with pytest.raises(UserError, match=r"the suffix names no format\. Set format to one of csv, tsv"):
        FileSource(train=str(tmp_path / "a.dat")).load()


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"a\.parquet: not a readable parquet file"):
        FileSource(train=str(tmp_path / "a.parquet")).load()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\na\n")
    (tmp_path / "occupied").write_text("a file where a folder is needed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(UserError, match=r"cannot be written .*HF_DATASETS_CACHE"):
        FileSource(train=str(tmp_path / "a.csv")).load()
