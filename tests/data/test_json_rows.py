import json

import pyarrow as pa
import pytest

from mtl_cli.data.json_rows import read_json
from mtl_cli.errors import UserError

ROWS = [{"text": "2024-01-31", "label": 1}, {"text": "NA", "label": 0}, {"text": "a\u2028b", "label": 2}]


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "field", "lines"),
    [
        (json.dumps(ROWS), None, None),
        (json.dumps({"version": 1, "data": ROWS}), "data", None),
        ("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n", None, [1, 2, 3]),
        ("\n\n".join(json.dumps(row) for row in ROWS), None, [1, 3, 5]),
    ],
    ids=["list", "field", "lines", "lines with empty ones"],
)
def test_all_layouts_give_the_same_rows(tmp_path, content, field, lines):
    table, found = read_json(write(tmp_path / "a.json", content), field=field)
    assert table.to_pylist() == ROWS
    assert table.schema.types == [pa.string(), pa.int64()]
    assert found == lines


def test_a_key_that_a_row_lacks_is_null(tmp_path):
    table, _ = read_json(write(tmp_path / "a.jsonl", '{"a": 1}\n{"b": ["x"]}\n'), field=None)
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": ["x"]}]


def test_whole_and_fractional_numbers_go_together(tmp_path):
    table, _ = read_json(write(tmp_path / "a.jsonl", '{"score": 3}\n{"score": 2.5}\n'), field=None)
    assert table.to_pydict() == {"score": [3.0, 2.5]}


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        ('{"a": 1}\n{"a": \n', None, r"a\.json, line 2: not one JSON value"),
        ('{"a": 1}\n{"a": 2} {"a": 3}\n', None, r"a\.json, line 2: not one JSON value"),
        ('{"a": 1}\n[1, 2]\n', None, r"a\.json, line 2: a list where an object"),
        ('[\n{"a": 1},\n{"a" 2}\n]', None, r"a\.json, line 3: broken JSON"),
        ('{\n"data": [{"a": 1}]\n}', None, r"a\.json, line 1: .*name the key that holds its rows with `field`"),
        ('{"rows": []}', "data", r"a\.json: no key 'data' \(`field`\)\. Keys at the top: rows"),
        ('{"data": 3}', "data", r"'data' holds a int"),
        ('[{"a": 1}, 2]', None, r"a\.json, row 2: a int where an object"),
        ('{"a": "x"}\n{"a": "y"}\n{"a": 3}\n{"a": 4}\n', None, r"a\.json, line 3, column a: 3 has another type"),
        ('{"a": ["x"]}\n\n{"a": "y"}\n', None, r"a\.json, line 3, column a: \"y\" has another type"),
    ],
)
def test_broken_json_is_named_with_its_place(tmp_path, content, field, message):
    with pytest.raises(UserError, match=message):
        read_json(write(tmp_path / "a.json", content), field=field)


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "x"}\n{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: not UTF-8 \(byte 0xff\)"):
        read_json(tmp_path / "a.jsonl", field=None)
