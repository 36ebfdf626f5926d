"""Averages over seeds, and which are refused."""

import pytest
from report.made_up_run import CONFIG, finished, write

from mtl_cli.errors import UserError
from mtl_cli.report.averages import groups_to_average
from mtl_cli.report.run_records import read_runs
from mtl_cli.tracking import Results


def write_runs(folder, **settings):
    for name, changes in settings.items():
        write(folder / name, config=CONFIG | changes)
    return read_runs([folder])


def names(groups):
    return [[run.name for run in group] for group in groups]


def test_runs_that_differ_in_the_seed_alone_are_averaged(tmp_path):
    runs = write_runs(tmp_path, a1={"seed": 1}, a2={"seed": 2}, b1={"seed": 1, "x": 1}, b2={"seed": 2, "x": 1})
    groups, notes = groups_to_average(runs, None)
    assert names(groups) == [["a1", "a2"], ["b1", "b2"]]
    assert notes == []
    assert names(groups_to_average(runs, ["x"])[0]) == [["a1", "a2"], ["b1", "b2"]]


def test_runs_that_differ_in_more_are_not_averaged_and_the_settings_are_named(tmp_path):
    runs = write_runs(
        tmp_path,
        a={"seed": 1, "x": 1, "y": {"z": 0.5}},
        b={"seed": 2, "x": 1, "y": {"z": 0.25}},
        c={"seed": 1, "x": 2},
    )
    with pytest.raises(UserError) as error:
        groups_to_average(runs, ["x"])
    assert str(error.value) == (
        "group_by: only runs that differ in nothing but the seed are averaged:\n"
        "  the 2 runs with x=1 differ in y.z (0.5, 0.25)\n"
        "Choose among them with where=, or keep them apart with group_by=[x,y.z] or mean=true."
    )


def test_unfinished_runs_do_not_count(tmp_path):
    runs = write_runs(tmp_path, a={"seed": 1}, b={"seed": 2})
    write(tmp_path / "c", Results(), config=CONFIG | {"seed": 3})
    groups, notes = groups_to_average(read_runs([tmp_path]), None)
    assert len(runs) == 2
    assert names(groups) == [["a", "b"]]
    assert notes == ["1 of 3 runs are not finished and do not count"]


def test_the_same_run_twice_is_no_second_draw(tmp_path):
    for name, seed, created in (("old", 1, "2026-01-01"), ("new", 1, "2026-01-02"), ("other", 2, "2026-01-01")):
        write(tmp_path / name, finished(), config=CONFIG | {"seed": seed}).write_environment({"created": created})
    groups, notes = groups_to_average(read_runs([tmp_path]), None)
    assert names(groups) == [["new", "other"]]
    assert len(notes) == 1
    assert "the newest of each does" in notes[0]
