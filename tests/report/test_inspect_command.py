"""`mtl inspect`, as a user types it."""

import shutil
import subprocess
import sys

import pytest
from report.made_up_run import Page, write

from mtl_cli.cli import _main


def test_the_page_lies_in_the_run_folder_and_its_path_is_printed(tmp_path, capsys):
    write(tmp_path / "run")
    assert _main(["inspect", f"run={tmp_path / 'run'}"]) == 0
    page = tmp_path / "run" / "inspect.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert Page(page.read_text(encoding="utf-8")).rows("status") == [["finished"]]


def test_another_file_can_be_named_and_the_run_folder_stays_as_it_is(tmp_path, capsys):
    write(tmp_path / "run")
    before = sorted(tmp_path.joinpath("run").iterdir())
    output = tmp_path / "pages" / "a.html"
    assert _main(["inspect", f"run={tmp_path / 'run'}", f"output={output}"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert output.exists()
    assert sorted(tmp_path.joinpath("run").iterdir()) == before


def test_a_page_is_replaced(tmp_path):
    write(tmp_path / "run")
    page = tmp_path / "run" / "inspect.html"
    page.write_text("old")
    assert _main(["inspect", f"run={tmp_path / 'run'}"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_real_run_has_a_page_with_its_scores(finished_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    assert _main(["inspect", f"run={run}"]) == 0
    page = Page((run / "inspect.html").read_text(encoding="utf-8"))
    assert page.rows("status") == [["finished"]]
    assert "HardSharing learns nothing about the tasks" in page.text
    for task in ("reviews", "pairs", "scores", "names"):
        assert page.rows(f"task {task}")
        assert page.rows(task)
    assert {"Training losses", "Weights of the tasks", "Score on validation"} <= set(page.headings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=nowhere"], "nowhere does not exist. Give the folder of a run"),
        (["run=."], "is not the folder of a run"),
        ([], "run: required and not set; give run=VALUE"),
        (["run=run", "output=run"], "output: found 'run', which is a folder"),
        (["run=run", "outptu=a"], "outptu: no such key; did you mean output?"),
        (["run=run", "output=file/page.html"], "output: file/page.html cannot be written"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_message(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert _main(["inspect", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_is_made_without_torch(tmp_path):
    write(tmp_path / "run")
    code = (
        "import sys\nfrom mtl_cli.cli import _main\ncode = _main(sys.argv[1:])\n"
        "heavy = [m for m in ('torch', 'transformers', 'wandb', 'datasets') if m in sys.modules]\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    command = [sys.executable, "-c", code, "inspect", f"run={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "inspect.html").exists()
