"""Going on with a study whose runs need a secret, and reporting again on one with other numbers of examples."""

import json

import pytest
from made_up_study import TASKS, measured, settings

from mtl_cli.commands import study as command
from mtl_cli.errors import UserError
from mtl_cli.studies.plan_file import write_plan
from mtl_cli.sweeps import Job
from mtl_cli.tracking import RunFolder


class LaunchedError(Exception):
    """The study came as far as the launch of its runs."""


def refuse_to_compose(_):
    raise AssertionError("a study that is gone on with composes nothing")


def with_secrets(plan):
    """The plan with secrets in the overrides of all runs, by key and in a node."""
    jobs = tuple(
        Job(
            name=job.name,
            overrides=(*job.overrides, "+loggers.own.api_key=abc123", "+loggers.other={token: xyz, project: p}"),
        )
        for job in plan.jobs
    )
    return type(plan)(**{**vars(plan), "jobs": jobs})


def resume(folder, launched):
    def launch(_, jobs):
        launched.extend(jobs)
        raise LaunchedError

    config = {"study": {"resume": str(folder)}}
    return command.study(config, folder, [f"study.resume={folder}"], launch, refuse_to_compose)


def finish(folder, plan, left_out=()):
    for job in plan.jobs:
        if job.name in left_out:
            continue
        run = RunFolder(folder / job.name)
        run.path.mkdir()
        run.config_file.write_text("{}")
        run.environment_file.write_text('{"format_version": 1}')
        record = measured(plan.settings).results[job.name].to_dict()
        run.results_file.write_text(json.dumps(record))


def test_a_study_whose_unfinished_runs_need_a_secret_is_not_gone_on_with_the_mask(tmp_path):
    plan = with_secrets(measured(settings(seeds=[1])).plan)
    write_plan(tmp_path, plan)
    assert "abc123" not in (tmp_path / "plan.json").read_text()
    finish(tmp_path, plan, left_out=["variant=equal,seed=1"])
    launched = []
    with pytest.raises(UserError) as caught:
        resume(tmp_path, launched)
    assert "need loggers.own.api_key, loggers.other." in str(caught.value)
    assert f"hydra.run.dir={tmp_path}" in str(caught.value)
    assert launched == []


def test_a_study_all_of_whose_runs_are_finished_needs_no_secret(tmp_path):
    plan = with_secrets(measured(settings(seeds=[1])).plan)
    write_plan(tmp_path, plan)
    finish(tmp_path, plan)
    launched = []
    with pytest.raises(LaunchedError):
        resume(tmp_path, launched)
    assert len(launched) == len(plan.jobs)


def test_training_examples_are_scored_again_where_their_number_is_another(tmp_path, monkeypatch):
    asked = []

    def score(run, most, **_):
        asked.append((run.path.name, most))
        return {task: {info.metric: most / 1000} for task, info in TASKS.items()}

    monkeypatch.setattr(command, "training_metrics", score)

    def train_metrics(most):
        found = measured(settings(seeds=[1], generalisation=True, generalisation_examples=most))
        for job in found.results:
            found.folders[job] = RunFolder(tmp_path / job)
        return command._train_metrics(tmp_path, found, {})

    assert train_metrics(20)["variant=equal,seed=1"]["rte"] == 0.02
    assert len(asked) == 4
    assert train_metrics(20)["variant=equal,seed=1"]["rte"] == 0.02
    assert len(asked) == 4
    assert train_metrics(50)["variant=equal,seed=1"]["rte"] == 0.05
    assert asked[4:] == [(job, 50) for job, _ in asked[:4]]
    (tmp_path / "generalisation" / "variant=equal,seed=1.json").write_text('{"exam')
    assert train_metrics(50)["variant=equal,seed=1"]["rte"] == 0.05
