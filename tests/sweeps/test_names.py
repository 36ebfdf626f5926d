"""Names of jobs: readable, safe, and no two the same."""

import re

import pytest

from mtl_cli.sweeps import job_names


def test_a_job_is_named_by_what_not_all_jobs_share():
    jobs = [["sharing=hard", "logger=none", "seed=1"], ["sharing=hard", "logger=none", "seed=2"]]
    assert job_names(jobs) == ["seed=1", "seed=2"]


def test_of_a_key_the_last_part_stays_where_that_is_clear():
    jobs = [["optimizer.lr=1e-4", "encoder.dropout=0.1"], ["optimizer.lr=3e-4", "encoder.dropout=0.2"]]
    assert job_names(jobs) == ["lr=1e-4,dropout=0.1", "lr=3e-4,dropout=0.2"]
    jobs = [["tasks.a.weight=1", "tasks.b.weight=2"], ["tasks.a.weight=2", "tasks.b.weight=1"]]
    assert job_names(jobs) == ["a.weight=1,b.weight=2", "a.weight=2,b.weight=1"]


def test_lists_of_tasks_are_joined_without_their_folders():
    jobs = [["task=[glue/rte]"], ["task=[glue/rte,glue/mnli]"]]
    assert job_names(jobs) == ["task=rte", "task=rte+mnli"]


def test_options_that_end_alike_keep_their_folders():
    assert job_names([["task=[glue/cb]"], ["task=[superglue/cb]"]]) == ["task=glue-cb", "task=superglue-cb"]


def test_a_key_that_only_some_jobs_have_names_those():
    assert job_names([["seed=1"], ["seed=1", "~loggers.wandb="]]) == ["run", "wandb="]


def test_a_single_job_is_named_by_all_that_was_asked_for():
    assert job_names([["sharing=hard", "seed=3"]]) == ["sharing=hard,seed=3"]


@pytest.mark.parametrize("value", ["a b/c\\d", "x" * 500, "'it''s'", "${oc.env:HOME}", "..", "ünï"])
def test_names_are_safe_as_folders(value):
    for name in job_names([[f"key={value}"], ["key=other"]]):
        assert re.fullmatch(r"[\w.+=,@-]+", name)
        assert len(name.encode()) <= 255
        assert name not in (".", "..")


def test_names_that_come_twice_get_a_number_whatever_their_case():
    assert job_names([["a=x y"], ["a=x/y"], ["a=X-Y"]]) == ["a=x-y", "a=y", "a=X-Y-2"]


def test_long_names_differ_where_the_jobs_do():
    first, second = job_names([[f"key={'x' * 300}1"], [f"key={'x' * 300}2"]])
    assert first != second


def test_secrets_are_no_part_of_a_name():
    assert job_names([["x.api_key=one", "seed=1"], ["x.api_key=two", "seed=2"]]) == ["seed=1", "seed=2"]
    assert job_names([["x.api_key=one", "seed=1"]]) == ["seed=1"]
