"""The lines that say when a job starts and ends."""

from mtl_cli.sweeps import Job, SweepFolder
from mtl_cli.sweeps.progress import JobWatch
from mtl_cli.tracking import Results, RunFolder


def test_a_job_that_ends_between_two_looks_is_said_to_be_finished_and_what_was_left_before_is_not(tmp_path, capsys):
    jobs = tuple(Job(name=name, overrides=()) for name in ("quick", "left"))
    sweep = SweepFolder(tmp_path, jobs)
    RunFolder.create(tmp_path / "left").write_results(Results(status="failed", error="before"))
    with JobWatch(sweep, {}, announce=True, poll_seconds=60.0) as watch:
        watch.begin(jobs)
        RunFolder.create(tmp_path / "quick").write_results(Results(status="finished", score=0.5))
    shown = capsys.readouterr().out
    assert "[1/2] finished  quick  score 0.5000" in shown
    assert "left" not in shown
