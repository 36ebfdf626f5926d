"""`mtl compare`, as a user types it."""

import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from report.made_up_run import CONFIG, write

from mtl_cli.cli import _main
from mtl_cli.tracking import Results

ROOT = Path(__file__).parents[1]
SHOWN = [
    shlex.split(line, comments=True)[1:]
    for file in ("docs/compare.md", "conf/hydra/help/mtl_compare.yaml", "conf/hydra/help/mtl_sync.yaml")
    for line in re.findall(r"^ *(mtl (?:compare|sync) .*)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture
def page(monkeypatch):
    """A stand-in for the page: what it was asked for."""
    asked = types.SimpleNamespace(runs=[], baseline=None)

    def compare_page(runs, *, baseline=None):
        asked.runs, asked.baseline = [run.name for run in runs], baseline
        return "<!DOCTYPE html>"

    module = types.ModuleType("mtl_cli.report.compare_page")
    module.compare_page = compare_page
    monkeypatch.setitem(sys.modules, "mtl_cli.report.compare_page", module)
    return asked


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a run in outputs and two in a sweep."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "outputs" / "day" / "one")
    for seed in (1, 2):
        write(tmp_path / "multirun" / f"sharing=hard,seed={seed}", config=CONFIG | {"seed": seed})
    return tmp_path


def test_without_words_all_runs_of_the_usual_folders_are_shown_and_a_page_is_written(folder, capsys, page):
    assert _main(["compare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("one", "sharing=hard,seed=1", "sharing=hard,seed=2"):
        assert any(line.startswith(name) for line in lines)
    assert lines[-2] == "3 runs: 3 finished. Metrics are of validation."
    assert lines[-1] == "compare.html"
    assert (folder / "compare.html").read_text() == "<!DOCTYPE html>"
    assert sorted(page.runs) == ["one", "sharing=hard,seed=1", "sharing=hard,seed=2"]
    assert sorted(path.name for path in folder.iterdir()) == ["compare.html", "multirun", "outputs"]


def test_folders_with_any_name_can_be_given(folder, capsys):
    names = ["sharing=hard,seed=1", "with blank, [and] = more", "it's ${x} {a: b}", "1e3"]
    for number, name in enumerate(names):
        write(folder / "odd" / name, config=CONFIG | {"seed": number})
    assert _main(["compare", *(f"odd/{name}" for name in names), "html=null", "format=json", "sort=seed"]) == 0
    assert [record["name"] for record in json.loads(capsys.readouterr().out)] == names


def test_conditions_can_be_typed_as_they_are_meant(folder, capsys):
    words = ["where=seed>=1", "where=[seed<2,name~seed]", "format=csv", "columns=[seed]"]
    assert _main(["compare", "outputs", "multirun", *words]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        '"sharing=hard,seed=1",1,finished,,"multirun/sharing=hard,seed=1"'
    ]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_what_another_program_reads_stands_alone_on_standard_output(folder, capsys, page, form):
    write(folder / "multirun" / "bad").results_file.write_text("{")
    assert _main(["compare", f"format={form}", "limit=1", "html=page.html"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 1 if form == "json" else printed.out.count("\n") == 2
    assert "3 more rows are not shown" in printed.err
    assert "broken: bad: results.json cannot be read" in printed.err
    assert printed.err.endswith("page.html\n")
    assert (folder / "page.html").exists()


def test_jobs_that_have_not_begun_are_told_with_their_study_and_do_nothing_to_the_terminal(folder, capsys):
    jobs = [{"name": "sharing=hard,seed=1"}, {"name": "a\x1b[2J"}]
    record = {"kind": "study", "name": "strategies", "jobs": jobs}
    (folder / "multirun" / "sweep.json").write_text(json.dumps(record))
    assert _main(["compare", "html=null"]) == 0
    told = "study strategies (multirun): 1 of 2 jobs have not begun (a\N{REPLACEMENT CHARACTER}[2J)\n"
    assert told in capsys.readouterr().out


def test_a_file_is_written_whole_and_its_path_printed(folder, capsys):
    assert _main(["compare", "multirun", "output=out/table.txt"]) == 0
    assert capsys.readouterr().out == "out/table.txt\n"
    text = (folder / "out" / "table.txt").read_text(encoding="utf-8")
    assert "0.8125" in text
    assert "2 runs: 2 finished" in text
    assert _main(["compare", "multirun", "format=latex", "mean=true", "output=table.tex"]) == 0
    assert capsys.readouterr().out == "table.tex\n"
    assert "0.8125 $\\pm$ 0.0000" in (folder / "table.tex").read_text(encoding="utf-8")
    assert not (folder / "compare.html").exists()


def test_a_terminal_shows_fifty_rows_and_files_have_all(folder, capsys):
    for seed in range(60):
        write(folder / "many" / str(seed), config=CONFIG | {"seed": seed}, lines=[])
    assert _main(["compare", "many", "html=null"]) == 0
    assert "10 more rows are not shown (limit=50; where= chooses among them)" in capsys.readouterr().out
    assert _main(["compare", "many", "format=csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 61


def test_the_page_compares_with_a_run_of_choice(folder, capsys, page):
    assert _main(["compare", "baseline=one", "where=seed>0"]) == 0
    assert page.baseline.name == "one"
    assert _main(["compare", "baseline=multirun/sharing=hard,seed=1"]) == 0
    assert page.baseline.name == "sharing=hard,seed=1"
    assert _main(["compare", "baseline=two"]) == 2
    assert "baseline: no run 'two' among those compared; they are" in capsys.readouterr().err


def test_averages_leave_unfinished_and_repeated_runs_on_the_page_and_in_the_count(folder, capsys, page):
    write(folder / "multirun" / "going", Results(), config=CONFIG | {"seed": 3})
    write(folder / "multirun" / "torn").results_file.write_text("{")
    write(folder / "multirun" / "again", config=CONFIG | {"seed": 1})
    assert _main(["compare", "multirun", "mean=true", "baseline=going"]) == 0
    printed = capsys.readouterr().out
    assert "5 runs: 3 finished, 1 running, 1 broken. Metrics are of validation." in printed
    assert "broken: torn: results.json cannot be read" in printed
    assert sorted(page.runs) == ["again", "going", "sharing=hard,seed=1", "sharing=hard,seed=2", "torn"]
    assert page.baseline.name == "going"
    assert _main(["compare", "multirun", "mean=true", "where=status=finished"]) == 0
    assert "3 runs: 3 finished; 2 others left out." in capsys.readouterr().out


@pytest.mark.parametrize("words", [["sort=test/sst2/accuracy"], ["where=test/sst2/accuracy>0.6"], ["splits=[test]"]])
def test_choosing_by_test_scores_is_warned_of_even_where_no_column_shows_them(folder, capsys, words):
    warning = "test scores are for reporting: what is chosen by them is not as good as they say"
    assert _main(["compare", "html=null"]) == 0
    assert warning not in capsys.readouterr().out
    assert _main(["compare", "html=null", *words]) == 0
    assert warning in capsys.readouterr().out


def test_one_number_that_no_float_can_hold_makes_one_run_broken_and_the_rest_is_shown(folder, capsys):
    file = folder / "outputs" / "day" / "one" / "results.json"
    file.write_text(file.read_text().replace("0.8125", "1" + "0" * 400))
    for more in ([], ["mean=true"], ["sort=name"]):
        assert _main(["compare", *more]) == 0
        printed = capsys.readouterr().out
        assert "3 runs: 2 finished, 1 broken." in printed
        assert "broken: one: results.json is not what mtl writes: it holds a number beyond the largest" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "outputs"], "runs: 'nowhere' does not exist"),
        (["file"], "runs: 'file' is a file, not a folder"),
        (["empty"], "runs: no run in or below empty; the folder of a run holds config.yaml, environment.json"),
        (["fromat=csv"], "fromat: no such key; did you mean format?"),
        (["format=xml"], "format: found 'xml', input should be 'table', 'csv', 'json', 'markdown' or 'latex'"),
        (["limit=0"], "limit: found 0, input should be greater than 0"),
        (["splits=[train]"], "splits: found ['train']"),
        (["where=nothing"], "where: found 'nothing'; a condition looks like"),
        (["output=empty"], "output: found 'empty', which is a folder"),
        (["html=empty"], "html: found 'empty', which is a folder"),
        (["output=file/table.txt"], "output: file/table.txt cannot be written"),
        (["group_by=sharing"], "group_by: only runs that differ in nothing but the seed are averaged"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_message(folder, capsys, arguments, message):
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    write(folder / "multirun" / "other", config=CONFIG | {"x": 1})
    before = sorted(folder.rglob("*"))
    html = [] if any("html=" in argument for argument in arguments) else ["html=null"]
    assert _main(["compare", *arguments, *html]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


def test_where_nothing_is_there_a_name_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _main(["compare"]) == 2
    assert "no folder was named, and" in capsys.readouterr().err


def test_runs_are_compared_without_torch(folder):
    code = (
        "import sys\nfrom mtl_cli.cli import _main\ncode = _main(sys.argv[1:])\n"
        "heavy = [m for m in ('torch', 'transformers', 'wandb', 'datasets') if m in sys.modules]\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    command = [sys.executable, "-c", code, "compare", "html=null"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in SHOWN if "wandb" not in c], ids=" ".join)
def test_a_command_of_the_documentation_works(command, tmp_path, monkeypatch, page, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "outputs" / "2026-01-31" / "one")
    for seed in (1, 2):
        for name in ("HardSharing", "MMoE"):
            sharing = {"sharing": {"_target_": f"mtl_cli.sharing.{name}"}, "seed": seed, "optimizer": {"lr": 1e-4}}
            write(tmp_path / "multirun" / "2026-01-31" / f"{name},seed={seed}", config=CONFIG | sharing)
    for run in (tmp_path / "multirun" / "2026-01-31").iterdir():
        (run / "overrides.yaml").unlink()
    write(tmp_path / "outputs" / "two", Results(status="failed", error="no"))
    assert _main(command) == 0
    assert "error" not in capsys.readouterr().err
