"""Which runs are averaged, and what the means and their intervals are."""

import math

import pytest
from report.made_up_sweep import config, records, results, write_job, write_run, write_sweep, write_unfinished

from mtl_cli.report.run_records import read_runs
from mtl_cli.report.seed_means import refusals, seed_groups


def groups_of(*folders):
    return seed_groups(read_runs(folders))


def by_label(groups):
    return {group.label: group for group in groups}


def test_runs_that_differ_in_nothing_but_the_seed_are_averaged(tmp_path):
    groups = by_label(groups_of(write_sweep(tmp_path)))
    assert list(groups) == ["hard, equal", "hard, pcgrad", "mmoe, equal", "mmoe, pcgrad"]
    mean = groups["hard, equal"].means["validation/sentiment/accuracy"]
    assert (mean.mean, mean.n) == (pytest.approx(0.8), 3)
    assert groups["mmoe, pcgrad"].means["validation/entities/span_f1"].mean == pytest.approx(0.65)


def test_a_group_says_only_what_tells_it_from_the_others(tmp_path):
    write_job(tmp_path, lr=0.001)
    write_job(tmp_path, lr=0.0005, name="other")
    assert {group.label for group in groups_of(tmp_path)} == {"lr=0.001", "lr=0.0005"}


def test_only_finished_runs_count_and_the_others_are_named(tmp_path):
    write_sweep(tmp_path)
    write_unfinished(tmp_path)
    group = by_label(groups_of(tmp_path))["hard, equal, lr=0.001"]
    assert [run.path.name for run in group.counted] == [
        f"sharing=hard,weighting=equal,seed={seed}" for seed in (1, 2, 3)
    ]
    assert any("not finished" in note and "running (running)" in note for note in group.notes)


def test_a_seed_that_ran_twice_counts_once_the_newer_run(tmp_path):
    write_job(tmp_path, seed=1, name="old", created="2026-01-01T00:00:00+00:00")
    write_job(tmp_path, seed=1, name="new", created="2026-02-01T00:00:00+00:00")
    write_job(tmp_path, seed=2, name="second")
    (group,) = groups_of(tmp_path)
    assert sorted(run.name for run in group.counted) == ["new", "second"]
    assert group.means["validation/score"].n == 2
    assert group.notes == ["not counted, since a newer run has the same seed: old"]


def test_a_value_that_is_not_finite_is_left_out_and_said(tmp_path):
    write_job(tmp_path, seed=1)
    scores = {"sentiment": math.nan, "entities": 0.7, "inference": 0.6}
    write_run(tmp_path / "second", config(seed=2), results(scores), records(scores))
    (group,) = groups_of(tmp_path)
    assert group.means["validation/sentiment/accuracy"].n == 1
    assert "validation/sentiment/accuracy: 1 of 2 runs have no finite value" in group.notes


def test_runs_that_were_called_alike_but_differ_in_fixed_settings_are_not_averaged(tmp_path):
    for seed in (1, 2, 3):
        write_job(tmp_path / "first", seed=seed)
        write_job(tmp_path / "second", seed=seed, lr=0.01)
    groups = groups_of(tmp_path)
    assert [len(group.runs) for group in groups] == [3, 3]
    (refusal,) = refusals(groups)
    assert refusal.differences == {"optimizer.lr": [0.001, 0.01]}
    assert refusal.labels == ["lr=0.001", "lr=0.01"]


def test_what_is_typed_alike_without_a_job_name_is_not_averaged_either(tmp_path):
    for number, hidden in enumerate((64, 128)):
        encoder = {"_target_": "mtl_cli.encoders.TransformerEncoder", "hidden_size": hidden}
        made = config(seed=number) | {"encoder": encoder}
        scores = {"sentiment": 0.5}
        typed = ["sharing=hard", f"seed={number}", "+logger=none"]
        write_run(tmp_path / f"run {number}", made, results(scores), records(scores), typed)
    (refusal,) = refusals(groups_of(tmp_path))
    assert refusal.differences == {"encoder.hidden_size": [64, 128]}


@pytest.mark.parametrize(
    "words",
    [
        ("hydra/launcher=joblib", "hydra.run.dir=x"),
        ("debug=true",),
        ("trainer.device=cpu", "trainer.log_every_steps=1"),
        ("logger=wandb", "~loggers.tensorboard"),
    ],
)
def test_where_a_run_was_computed_does_not_tell_it_from_another_that_was_typed_alike(tmp_path, words):
    scores = {"sentiment": 0.5}
    for number, more in enumerate(((), words)):
        made = config(seed=number, lr=0.1 * (number + 1))
        typed = ["sharing=hard", f"seed={number}", *more]
        write_run(tmp_path / f"run {number}", made, results(scores), records(scores), typed)
    (refusal,) = refusals(groups_of(tmp_path))
    assert list(refusal.differences) == ["optimizer.lr"]


def test_a_plain_sweep_refuses_nothing(tmp_path):
    assert refusals(groups_of(write_sweep(tmp_path))) == []
    assert refusals([]) == []
