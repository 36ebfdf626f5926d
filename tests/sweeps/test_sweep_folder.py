"""sweep.json, and what the run folders below it say of the jobs."""

import json

import pytest

from mtl_cli.errors import UserError
from mtl_cli.sweeps import Job, SweepFolder, sweep_name
from mtl_cli.sweeps.sweep_folder import find_same_command, group_of_run
from mtl_cli.tracking import Results, RunFolder

JOBS = tuple(Job(name=f"seed={i}", overrides=(f"seed={i}",)) for i in range(4))


def run_folder(path, status, **results):
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.write_results(Results(status=status, **results))
    return folder


def test_what_is_written_is_read_back(tmp_path):
    SweepFolder(tmp_path, JOBS, ("seed=range(4)",), "sweep", "my sweep").write()
    read = SweepFolder.read(tmp_path)
    assert (read.jobs, read.command, read.kind, read.name) == (JOBS, ("seed=range(4)",), "sweep", "my sweep")


def test_secrets_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    job = Job(name="a", overrides=("loggers.wandb.api_key=hunter2", "note=0123456789abcdef"))
    SweepFolder(tmp_path, (job,), ("x.password=hunter2", "seed=1")).write()
    text = (tmp_path / "sweep.json").read_text()
    assert "hunter2" not in text
    assert "0123456789abcdef" not in text
    assert SweepFolder.read(tmp_path).masked == ["x.password"]


def test_each_job_stands_where_its_run_folder_says(tmp_path):
    sweep = SweepFolder(tmp_path, JOBS)
    run_folder(sweep.folder_of(JOBS[0]), "finished", score=0.5)
    run_folder(sweep.folder_of(JOBS[1]), "failed", error="loss is nan")
    run_folder(sweep.folder_of(JOBS[2]), "running")
    first, second, third, fourth = sweep.outcomes()
    assert (first.status, first.score, first.can_be_resumed) == ("finished", 0.5, False)
    assert (second.status, second.error, second.can_be_resumed) == ("failed", "loss is nan", True)
    assert (third.status, third.can_be_resumed) == ("running", True)
    assert (fourth.status, fourth.can_be_resumed) == ("not started", False)


def test_what_stopped_a_job_that_wrote_nothing_can_be_told(tmp_path):
    sweep = SweepFolder(tmp_path, JOBS)
    run_folder(sweep.folder_of(JOBS[0]), "finished", score=0.5)
    known = {"seed=0": "too late", "seed=1": "bad setting"}
    assert [(o.status, o.error) for o in sweep.outcomes(known)[:2]] == [("finished", None), ("failed", "bad setting")]


def test_a_torn_results_file_is_a_failure_and_not_an_exception(tmp_path):
    sweep = SweepFolder(tmp_path, JOBS)
    run_folder(sweep.folder_of(JOBS[0]), "finished").results_file.write_text('{"status": "fini')
    assert sweep.outcomes()[0].status == "failed"
    assert "results.json cannot be read" in (sweep.outcomes()[0].error or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no sweep.json"),
        ("[1]", "found list"),
        ('{"format_version": 1', "cannot be read"),
        ('{"format_version": 99}', "format_version 99"),
        ('{"format_version": 1, "jobs": 3, "command": [], "kind": "sweep", "name": ""}', "is not what mtl writes"),
    ],
)
def test_a_folder_that_is_no_sweep_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=message):
        SweepFolder.read(tmp_path)


def test_two_launches_of_one_sweep_do_not_go_together(tmp_path):
    sweep = SweepFolder(tmp_path, JOBS)
    with sweep.alone(), pytest.raises(UserError, match="another process"), SweepFolder(tmp_path, JOBS).alone():
        pass
    with sweep.alone():
        pass


def test_a_sweep_named_by_a_time_gets_its_day(tmp_path):
    assert sweep_name(tmp_path / "2026-01-31" / "12-00-00") == "2026-01-31 12-00-00"
    assert sweep_name(tmp_path / "my_sweep") == "my_sweep"


def test_a_run_knows_the_sweep_that_it_is_of(tmp_path):
    SweepFolder(tmp_path / "s", JOBS, name="lr").write()
    assert group_of_run(tmp_path / "s" / "seed=0") == "lr"
    assert group_of_run(tmp_path / "alone") is None
    nested = Job(name="hard/1", overrides=())
    SweepFolder(tmp_path / "n", (nested,), name="deep").write()
    assert group_of_run(tmp_path / "n" / "hard" / "1") == "deep"
    assert group_of_run(tmp_path / "n" / "hard" / "2") is None
    (tmp_path / "s" / "sweep.json").write_text("{")
    assert group_of_run(tmp_path / "s" / "seed=0") is None


def test_the_sweep_of_the_same_words_is_found(tmp_path):
    for name, command in (("a", ("seed=1,2",)), ("b", ("seed=1,3",)), ("c", ("x.api_key=one", "seed=1,2"))):
        SweepFolder(tmp_path / name, JOBS, command).write()
    assert find_same_command([tmp_path], ("seed=1,3",)) == tmp_path / "b"
    assert find_same_command([tmp_path], ("x.api_key=two", "seed=1,2")) == tmp_path / "c"
    assert find_same_command([tmp_path], ("seed=7",)) is None


def test_sweep_json_is_as_documented(tmp_path):
    SweepFolder(tmp_path, JOBS[:1], ("seed=0",), name="n").write()
    assert json.loads((tmp_path / "sweep.json").read_text()) == {
        "format_version": 1,
        "kind": "sweep",
        "name": "n",
        "command": ["seed=0"],
        "jobs": [{"name": "seed=0", "overrides": ["seed=0"]}],
    }
