import csv

import pytest

from mtl_cli.data.delimited import read_delimited
from mtl_cli.errors import UserError

AWKWARD = ["NA", "null", "None", "007", "1.50", "2024-01-31", "True", "", " blank ends ", "-1", "inf", "é 漢 🙂"]


def read(path, delimiter=",", quoting=True, columns=None):
    table, lines = read_delimited(path, delimiter=delimiter, quoting=quoting, columns=columns)
    return table.to_pydict(), lines


def test_every_field_stays_the_text_that_it_is(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "x"] for text in AWKWARD)])
    rows, _ = read(path)
    assert rows == {"text": AWKWARD, "label": ["x"] * len(AWKWARD)}


def test_quoted_fields_hold_delimiters_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one, two\nthree ""four""",x\nplain,y\n', encoding="utf-8")
    rows, lines = read(path)
    assert rows == {"text": ['one, two\nthree "four"', "plain"], "label": ["x", "y"]}
    assert lines == [2, 4]


def test_without_quoting_a_quote_is_a_plain_character(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"unclosed\tx\nit"s\ty\n', encoding="utf-8")
    rows, lines = read(path, "\t", quoting=False)
    assert rows == {"text": ['"unclosed', 'it"s'], "label": ["x", "y"]}
    assert lines == [2, 3]


def test_characters_that_merely_look_like_line_ends_stay_in_the_text(tmp_path):
    path = tmp_path / "a.tsv"
    text = "a\u2028b\x85c\x0bd"
    path.write_bytes(f"text\tlabel\r\n{text}\tx\r\n".encode())
    assert read(path, "\t", quoting=False)[0] == {"text": [text], "label": ["x"]}
    assert read(path, "\t", quoting=True)[0] == {"text": [text], "label": ["x"]}


def test_columns_name_a_file_without_header(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("src\t1\t\tA sentence.\n", encoding="utf-8")
    rows, lines = read(path, "\t", columns=["source", "label", "mark", "sentence"])
    assert rows == {"source": ["src"], "label": ["1"], "mark": [""], "sentence": ["A sentence."]}
    assert lines == [1]


@pytest.mark.parametrize("quoting", [True, False])
def test_a_row_with_too_few_or_too_many_fields_is_named(tmp_path, quoting):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nfine,x\nshort\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv, line 3: 1 field, but the header has 2 \(text, label\)"):
        read(path, quoting=quoting)
    path.write_text("text,label\nfine,x\none,two,three\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv, line 3: 3 fields, but the header has 2"):
        read(path, quoting=quoting)


def test_a_quote_that_swallows_lines_is_explained(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"open\tx\nb\ty\nclosed"\tz\tz\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: 3 fields.*runs on to line 4.*quoting: false"):
        read(path, "\t")
    path.write_text('text\tlabel\nfine\tx\n"never closed\tx\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 3: broken quoting.*quoting: false"):
        read(path, "\t")


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,x\ncaf\xe9,y\n")
    with pytest.raises(UserError, match=r"a\.csv, line 3: not UTF-8 \(byte 0xe9\)"):
        read(path)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\na,x\n")
    assert read(path)[0] == {"text": ["a"], "label": ["x"]}


def test_empty_lines_between_rows_of_several_columns_are_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n\na,x\n\n\nb,y\n\n", encoding="utf-8")
    for quoting in (True, False):
        assert read(path, quoting=quoting) == ({"text": ["a", "b"], "label": ["x", "y"]}, [3, 6])


def test_a_field_may_be_long(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"text\n{'x' * 200_000}\n", encoding="utf-8")
    assert len(read(path)[0]["text"][0]) == 200_000


def test_an_empty_file_and_a_repeated_header_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv is empty"):
        read(path)
    path.write_text("text,text\na,b\n", encoding="utf-8")
    with pytest.raises(UserError, match="the header names 'text' twice"):
        read(path)
