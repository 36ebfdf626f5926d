"""Tables, the line to paste, and which trials are best."""

import csv
import io
import random
import shlex

import optuna
import pytest
from plans import begun, plan, trial

from mtl_cli.search.claims import claim
from mtl_cli.search.parallel_coordinates import position, ticks
from mtl_cli.search.results import best_text, command_line, in_order, rich_table, short_names, trials_table
from mtl_cli.search.space import Choice, Float, Integer
from mtl_cli.search.storage import open_study
from mtl_cli.search.trials import best_trials, trials_of


def test_the_best_trial_is_optunas(tmp_path):
    draw = random.Random(4)
    for objective, direction in (("score", "maximize"), ("a/loss", "minimize")):
        values = [round(draw.random(), 1) for _ in range(20)]  # some are equal
        study = optuna.create_study(direction=direction)
        for value in values:
            study.tell(study.ask(), value)
        (best,) = best_trials([trial(i, value) for i, value in enumerate(values)], [objective])
        assert best.number == study.best_trial.number


def test_the_pareto_front_is_optunas():
    draw = random.Random(5)
    objectives = ["a/accuracy", "a/loss", "b/accuracy"]
    points = [tuple(round(draw.random(), 1) for _ in objectives) for _ in range(40)]
    points += points[:3]  # equal trials are all on the front, or none
    study = optuna.create_study(directions=["maximize", "minimize", "maximize"])
    for point in points:
        study.tell(study.ask(), point)
    front = best_trials([trial(i, *point) for i, point in enumerate(points)], objectives)
    assert {t.number for t in front} == {t.number for t in study.best_trials}
    first = [t.values[0] for t in front]
    assert first == sorted(first, reverse=True)


def test_without_a_finished_trial_there_is_no_best():
    trials = [trial(0, state="failed"), trial(1, state="unfinished"), trial(2, float("nan"))]
    assert best_trials(trials, ["score"]) == []
    assert best_text(trials, plan()) == "# no trial has finished yet\n"


def test_the_line_to_paste_survives_a_shell():
    made = plan()
    one = trial(0, 0.5, settings={"task": "[a,b]", "x": "'it is'", "y": "$HOME"})
    words = shlex.split(command_line(one, made))
    assert words == ["mtl", "train", "seed=3", "task=[a,b]", "x='it is'", "y=$HOME"]


def test_the_front_comes_with_a_line_for_each_trial():
    trials = [trial(0, 0.5, 0.9), trial(1, 0.9, 0.5), trial(2, 0.4, 0.4)]
    lines = best_text(trials, plan(objectives=["a/accuracy", "b/accuracy"])).splitlines()
    assert lines[0] == "# trial-001: a/accuracy 0.9000, b/accuracy 0.5000"
    assert lines[1].startswith("mtl train seed=3 optimizer.lr=0.0002")
    assert len(lines) == 4


def test_all_trials_are_in_the_csv():
    trials = [
        trial(0, 0.5),
        trial(1, state="pruned", evaluations={1: 0.25}, pruned_at_step=40),
        trial(2, state="failed", error='no, "never"'),
        trial(3, state="unfinished", seconds=None, settings={}),
    ]
    rows = list(csv.DictReader(io.StringIO(trials_table(trials, plan()))))
    assert [row["state"] for row in rows] == ["finished", "pruned", "failed", "unfinished"]
    assert rows[0]["score"] == "0.5"
    assert rows[1]["pruned_at_step"] == "40"
    assert rows[1]["evaluations"] == "1"
    assert rows[2]["error"] == 'no, "never"'
    assert rows[0]["optimizer.lr"] == "0.0001"
    assert rows[3]["optimizer.lr"] == ""


def test_trials_are_shown_best_first():
    trials = [
        trial(0, state="failed"),
        trial(1, 0.5),
        trial(2, state="pruned", evaluations={1: 0.1}),
        trial(3, 0.7),
        trial(4, state="pruned", evaluations={1: 0.2}),
        trial(5, state="unfinished"),
    ]
    assert [t.number for t in in_order(trials, ["score"])] == [3, 1, 4, 2, 5, 0]
    assert [t.number for t in in_order(trials, ["a/loss"])] == [1, 3, 2, 4, 5, 0]


def test_the_table_of_the_terminal_says_how_many_it_leaves_out():
    table = rich_table([trial(i, 0.1 * i) for i in range(14)], plan())
    assert table.row_count == 10
    assert table.caption == "4 more in trials.csv"
    assert [str(column.header) for column in table.columns] == ["trial", "state", "score", "lr", "sharing"]


def test_keys_are_shortened_as_far_as_they_stay_apart():
    assert short_names(["optimizer.lr", "sharing", "tasks.a.max", "tasks.b.max"]) == ["lr", "sharing", "a.max", "b.max"]
    assert short_names(["lr", "optimizer.lr"]) == ["lr", "optimizer.lr"]


def test_trials_are_read_from_the_storage_with_the_weights_of_a_simplex(tmp_path):
    made = plan(trials=3)
    folder, storage = begun(tmp_path / "s", made)
    taken = claim(folder, storage)
    taken.trial.report(0.25, 1)
    taken.trial.set_user_attr("error", "it broke")
    open_study(storage).tell(0, state=optuna.trial.TrialState.FAIL)
    (found,) = trials_of(open_study(storage), made)
    assert found.state == "failed"
    assert found.error == "it broke"
    assert found.evaluations == {1: 0.25}
    assert sum(v for k, v in found.settings.items() if "task_weights" in k) == pytest.approx(3, abs=1e-4)
    assert found.overrides == taken.job.overrides


def test_positions_on_an_axis():
    assert position(Float(1e-4, 1e-2, log=True), 1e-3) == pytest.approx(0.5)
    assert position(Integer(2, 6), 5) == pytest.approx(0.75)
    assert position(Choice(("a", "b", "c")), "b") == 0.5
    assert ticks(Float(1e-4, 1e-2, log=True)) == [(0.0, "0.0001"), (0.5, "0.001"), (1.0, "0.01")]
