import io
import json

import pytest
from rich.console import Console

from mtl_cli.bench.report import BenchReport
from mtl_cli.errors import UserError

MACHINE = {
    "device": "cpu", "processor": "P", "capability": "AVX2", "cores": 2, "threads": 1, "gpus": [], "torch": "2",
    "transformers": "5", "load": 0.25, "load_at_end": 1.0,
}  # fmt: skip


@pytest.fixture
def report():
    return BenchReport(
        "step", "a title", MACHINE, ["variant", "x y"], [["ours", "1.0 [x]"]], {"a": (1, 2)}, ["a note"],
        {"fast": True, "small": False, "cold": None},
    )  # fmt: skip


def test_markdown_has_the_table_the_machine_and_the_remarks(report):
    assert report.to_markdown().splitlines() == [
        "a title  ",
        "2 cores of P (AVX2), 1 thread; on cpu; torch 2, transformers 5; load a core at the start 0.25, at the "
        "end 1.00",
        "",
        "| variant | x y |",
        "|---|---:|",
        "| ours | 1.0 [x] |",
        "",
        "- a note",
        "- aim fast: reached",
        "- aim small: missed",
        "- aim cold: not measured",
    ]


def test_the_terminal_shows_the_same(report):
    console = Console(width=100, record=True, file=io.StringIO())
    report.show(console)
    printed = console.export_text()
    for text in ("a title", "1.0 [x]", "2 cores of P", "a note", "aim small: missed"):
        assert text in printed


def test_files_are_written_where_they_are_named(report, tmp_path):
    report.write(str(tmp_path / "a.json"), None)
    report.write(None, str(tmp_path / "a.md"))
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "name": "step", "title": "a title", "machine": MACHINE, "figures": {"a": [1, 2]}, "notes": ["a note"],
        "aims": {"fast": True, "small": False, "cold": None},
    }  # fmt: skip
    assert (tmp_path / "a.md").read_text() == report.to_markdown()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"bench.json: .*file/a.json cannot be written"):
        report.write(str(tmp_path / "file" / "a.json"), None)
