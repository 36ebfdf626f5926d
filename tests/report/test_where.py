"""Conditions on runs."""

import math

import pytest
from report.made_up_run import CONFIG, finished, write

from mtl_cli.errors import UserError
from mtl_cli.report.fields import Fields, short_labels
from mtl_cli.report.run_records import read_runs
from mtl_cli.report.where import parse_conditions
from mtl_cli.tracking import Results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of seed 7 with a score of 0.8125, a better one with another sharing, and one that failed."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "007")
    better = finished()
    better.score = 0.9
    better.tasks["sst2"]["validation"]["loss"] = math.nan
    hard = {"_target_": "mtl_cli.sharing.HardSharing"}
    optimizer = {"lr": 1e-4, "betas": [0.9, 0.99]}
    write(folder / "hard", better, config=CONFIG | {"sharing": hard, "optimizer": optimizer, "flag": True})
    write(folder / "failed", Results(status="failed", error="no"), lines=[], config=CONFIG | {"optimizer": {"lr": 1}})
    (folder / "hard" / "overrides.yaml").unlink()
    return read_runs([folder])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["sharing=hard"], ["hard"]),
        (["sharing=HardSharing"], ["hard"]),
        (["sharing=hard_sharing"], ["hard"]),
        (["sharing=mtl_cli.sharing.HardSharing"], ["hard"]),
        (["sharing!=hard"], ["007", "failed"]),
        (["sharing=[hard,cross_stitch]"], ["007", "failed", "hard"]),
        (["sharing==cross_stitch", "status=finished"], ["007"]),
        (["score>0.8125"], ["hard"]),
        (["score>=0.8125"], ["007", "hard"]),
        (["score<0.9"], ["007"]),
        (["validation/score <= 0.9"], ["007", "hard"]),
        (["sst2/loss<1"], ["007"]),  # what is not a number is not less
        (["score=null"], ["failed"]),
        (["lr<=1e-4"], ["hard"]),
        (["optimizer.lr=0.0001"], ["hard"]),
        (["optimizer.lr=[1,2]"], ["failed"]),
        (["lr=null"], ["007"]),
        (["betas=[0.9,0.99]"], ["hard"]),
        (["betas~0.99"], ["hard"]),
        (["tasks~snli"], ["007", "failed", "hard"]),
        (["task=[sst2,snli]"], ["007", "failed", "hard"]),
        (["task=[snli,sst2]"], []),
        (["flag=true"], ["hard"]),
        (["flag=True"], ["hard"]),
        (["name=007"], ["007"]),
        (["name~ar"], ["hard"]),
        (["created>2026-01"], ["007", "failed", "hard"]),
        (["created<2026-01-31"], []),
        (["seed=7.0"], ["007", "failed", "hard"]),
        (["status=[failed,broken]"], ["failed"]),
        (["problem=no"], ["failed"]),
        (["parameters>1e6"], ["007", "hard"]),
        (["pooling=mean"], ["007", "failed", "hard"]),
        ([], ["007", "failed", "hard"]),
    ],
)
def test_runs_that_meet_all_conditions_are_kept(runs, where, expected):
    conditions = parse_conditions(where, Fields(runs))
    assert [run.name for run in runs if all(condition.holds(run) for condition in conditions)] == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("sharng=hard", "no run has 'sharng'; did you mean sharing"),
        ("scor>0.8", "no run has 'scor'; did you mean score"),
        ("optimizer.l=1", "did you mean optimizer.lr"),
        ("zzz=1", "there are name, group, status, .*, and the settings of the runs"),
        ("hard", "found 'hard'; a condition looks like sharing=hard"),
        ("", "found ''; a condition looks like"),
        ("_target_=x", "'_target_' may be encoder._target_, .*; name one"),
        ("accuracy>0.8", "'accuracy' may be validation/sst2/accuracy, validation/snli/accuracy; name one"),
    ],
)
def test_a_condition_that_cannot_be_read_is_refused_with_what_is_near(runs, tmp_path, where, message):
    write(tmp_path / "more", Results())  # unfinished, with an accuracy of snli
    with pytest.raises(UserError, match=f"where: .*{message}"):
        parse_conditions([where], Fields([*runs, *read_runs([tmp_path])]))


def test_all_problems_come_at_once(runs):
    with pytest.raises(UserError, match=r"(?s)'sharng'.*'zzz'"):
        parse_conditions(["sharng=hard", "zzz=1"], Fields(runs))


def test_text_is_not_compared_with_a_number(runs):
    (condition,) = parse_conditions(["sharing>3"], Fields(runs))
    with pytest.raises(UserError, match=r"where: 'sharing>3' compares 3.0 with 'cross_stitch'"):
        condition.holds(runs[0])


def test_labels_are_as_short_as_they_are_clear():
    keys = ["optimizer.lr", "tasks.a.max_length", "tasks.b.max_length", "sharing._target_", "trainer.name", "seed"]
    assert short_labels(keys, taken=["name"]) == {
        "optimizer.lr": "lr",
        "tasks.a.max_length": "a.max_length",
        "tasks.b.max_length": "b.max_length",
        "sharing._target_": "sharing",
        "trainer.name": "trainer.name",
        "seed": "seed",
    }
