import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_cli.tracking import json_files
from mtl_cli.tracking.json_files import (
    jsonable,
    read_json_lines,
    to_json_line,
    write_json,
    write_json_lines,
    write_text,
)


def test_values_that_are_not_finite_become_null():
    record = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": np.float32("nan"), "d": torch.tensor(math.inf)}
    assert json.loads(to_json_line(record)) == {"a": None, "b": [None, None, 1.5], "c": None, "d": None}


@pytest.mark.parametrize("value", [0.1, 1e-300, 1 / 3, 5e-324, 1.7976931348623157e308, float(np.float32(0.1))])
def test_a_float_comes_back_bit_for_bit(value):
    assert json.loads(to_json_line({"x": value}))["x"].hex() == value.hex()


def test_numpy_torch_paths_sets_and_dataclasses_are_written_as_plain_json():
    @dataclass
    class Pair:
        first: int
        second: list

    value = {
        "int": np.int64(3),
        "bool": np.bool_(True),
        "array": np.array([[1, 2], [3, 4]]),
        "tensor": torch.tensor(2.5),
        "path": Path("a/b"),
        "set": {"b", "a"},
        "pair": Pair(1, [np.float64(0.5)]),
        1: None,
    }
    assert jsonable(value) == {
        "int": 3,
        "bool": True,
        "array": [[1, 2], [3, 4]],
        "tensor": 2.5,
        "path": "a/b",
        "set": ["a", "b"],
        "pair": {"first": 1, "second": [0.5]},
        "1": None,
    }
    assert type(jsonable(np.bool_(True))) is bool


def test_a_value_that_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match="function cannot be written as JSON"):
        jsonable({"x": len.__class__ and (lambda: 0)})


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "results.json"
    write_json(file, {"a": 1})

    def records():
        yield {"a": 2}
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_json_lines(file, records())
    assert json.loads(file.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_process_that_dies_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_text(file, "old")
    seen = []

    def die(self, target):
        seen.append((self.read_text(), self.parent == file.parent))
        raise SystemExit

    monkeypatch.setattr(json_files.Path, "replace", die)
    with pytest.raises(SystemExit):
        write_text(file, "new")
    # Everything was in the temporary file, on the same file system, before the rename.
    assert seen == [("new", True)]
    assert file.read_text() == "old"


def test_the_content_is_flushed_to_the_disk_before_the_rename(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("replace"), replace(self, target)))
    write_text(tmp_path / "a", "x")
    assert order[:2] == ["fsync", "replace"]


def test_files_get_the_permissions_of_any_other_output(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_lines_are_ended_by_newlines_alone(tmp_path):
    # U+2028 and U+0085 end a line for str.splitlines(), but not in JSON lines.
    records = [{"text": "a\u2028b\u0085c\nd\r"}, {"text": "é 漢"}]
    assert write_json_lines(tmp_path / "p.jsonl", iter(records)) == 2
    assert read_json_lines(tmp_path / "p.jsonl") == records
    assert (tmp_path / "p.jsonl").read_bytes().count(b"\n") == 2


def test_an_unfinished_last_line_is_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3')
    assert read_json_lines(tmp_path / "m.jsonl") == [{"a": 1}, {"a": 2}]
