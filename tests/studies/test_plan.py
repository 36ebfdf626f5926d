"""Which runs a study has, how they are named, and what is refused before any of them."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from compose import composed
from hydra import initialize_config_dir
from made_up_study import split_of_rows
from tiny_project import TINY

from mtl_cli.check_config import ConfigError, check_settings
from mtl_cli.errors import UserError
from mtl_cli.overrides import compose_train, quote_texts
from mtl_cli.shipped_conf import conf_dir
from mtl_cli.studies.plan import RunKey, needed_runs, removed_tasks, without_groups
from mtl_cli.studies.plan_file import is_same_study, read_plan, write_plan
from mtl_cli.studies.planning import plan_study
from mtl_cli.studies.settings import StudySettings

SIZES = {"reviews": 48, "pairs": 40, "names": 24}


def split_of(num_rows, length=8):
    return split_of_rows(np.full(num_rows, length))


@pytest.fixture
def plan(project):
    """Plans a study on three tiny tasks whose data are made of zeros."""

    def make(*overrides, **settings):
        common = ["task=[reviews,pairs,names]", *TINY, *overrides]
        return plan_study(
            StudySettings(**settings),
            common,
            lambda words: composed_by_study(words, project),
            lambda config: {name: split_of(SIZES[name]) for name in config["tasks"]},
        )

    return make


def composed_by_study(words, project):
    """What `mtl study` composes a run with."""
    return deepcopy(_composed_once(tuple(words), project))


@cache
def _composed_once(words, project):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose_train([*words, f"hydra.searchpath=[file://{project}]"], [conf_dir(), project])


def test_the_runs_are_single_tasks_and_variants_for_each_seed(plan):
    found = plan(variants={"equal": "weighting=equal", "pcgrad": "weighting=pcgrad"}, seeds=[3, 4])
    assert [job.name for job in found.jobs] == [
        f"{run},seed={seed}"
        for seed in (3, 4)
        for run in ("single=reviews", "single=pairs", "single=names", "variant=equal", "variant=pcgrad")
    ]
    assert found.size_in_words().startswith("this study is 10 runs of ")
    assert "6 of single tasks (3), 4 of variants (2)" in found.size_in_words()


def test_a_single_task_run_has_one_task_hard_sharing_and_equal_weights(plan, project):
    found = plan("sharing=mmoe", "sharing.num_experts=3", seeds=[1])
    job = next(job for job in found.jobs if job.name == "single=pairs,seed=1")
    config = composed(*job.overrides, config_dir=project)
    assert list(config["tasks"]) == ["pairs"]
    assert config["sharing"]["_target_"] == "mtl_cli.sharing.HardSharing"
    assert "num_experts" not in config["sharing"]
    joint = next(job for job in found.jobs if job.name == "variant=joint,seed=1")
    assert composed(*joint.overrides, config_dir=project)["sharing"]["num_experts"] == 3


def test_runs_that_are_the_same_are_made_once(plan):
    same = plan(variants={"a": "weighting=equal", "b": "sharing=hard"}, seeds=[1])
    assert [job.name for job in same.jobs if job.name.startswith("variant")] == ["variant=a,seed=1"]
    assert same.runs[RunKey("variant", "b", None, 1)] == "variant=a,seed=1"
    # `all` is what the comparison has anyway
    curves = plan(seeds=[1], low_resource=[8, "all"], low_resource_task="names")
    assert [job.name for job in curves.jobs][4:] == ["single=names,size=8,seed=1", "variant=joint,size=8,seed=1"]


def test_a_pair_of_two_tasks_is_the_variant_itself(project):
    found = plan_study(
        StudySettings(seeds=[1], pairs=True),
        ["task=[reviews,pairs]", *TINY],
        lambda words: composed_by_study(words, project),
        lambda config: {name: split_of(SIZES[name]) for name in config["tasks"]},
    )
    assert found.runs[RunKey("pair", "reviews+pairs", None, 1)] == "variant=joint,seed=1"


def test_every_pair_is_trained(plan, project):
    found = plan(seeds=[1], pairs=True)
    pairs = [job for job in found.jobs if job.name.startswith("pair")]
    assert [job.name for job in pairs] == [
        "pair=reviews+pairs,seed=1", "pair=reviews+names,seed=1", "pair=pairs+names,seed=1"
    ]  # fmt: skip
    assert list(composed(*pairs[1].overrides, config_dir=project)["tasks"]) == ["reviews", "names"]
    assert "3 for study.pairs" in found.size_in_words()


def test_sizes_go_to_the_task_named_or_to_all(plan):
    one = plan(seeds=[1], low_resource=[8], low_resource_task="names")
    joint = next(job for job in one.jobs if job.name == "variant=joint,size=8,seed=1")
    assert [o for o in joint.overrides if "max_train" in o] == ["tasks.names.max_train_examples=8"]
    assert "single=pairs,size=8,seed=1" not in [job.name for job in one.jobs]
    every = plan(seeds=[1], low_resource=[8])
    joint = next(job for job in every.jobs if job.name == "variant=joint,size=8,seed=1")
    assert len([o for o in joint.overrides if "max_train" in o]) == 3
    assert "single=pairs,size=8,seed=1" in [job.name for job in every.jobs]


def test_on_few_examples_joint_and_single_task_runs_are_lengthened_by_the_same_factor(plan):
    # names alone on all 24 examples: 2 epochs of 3 steps of 8, so at 8 examples at least 6 steps as well. Together at 8
    # examples, 2 epochs of (48 + 40 + 8) / 8 = 12 steps hold 16 rows of names, which are 2 steps alone: factor 3.
    found = plan(
        "sampler=proportional", "trainer.epochs=2", seeds=[1], low_resource=[8], low_resource_task="names", min_steps=20
    )
    assert found.steps["single=names,seed=1"] == 6
    assert found.steps["single=names,size=8,seed=1"] == 6
    assert found.steps["variant=joint,size=8,seed=1"] == 72
    # Passes over names: 6 * 8 / 8 rows alone, 72 * 8 * (8 / 96) / 8 together: 6 either way.


def test_without_least_steps_few_examples_get_the_passes_of_all(plan):
    found = plan(
        "sampler=proportional", "trainer.epochs=2", seeds=[1], low_resource=[8], low_resource_task="names", min_steps=0
    )
    assert found.steps["single=names,size=8,seed=1"] == 2
    assert found.steps["variant=joint,size=8,seed=1"] == 24


def uneven(num_rows):
    """Rows of 2 to 12 tokens, whose batches of at most so many tokens are other ones with each seed."""
    split = split_of(num_rows)
    lengths = np.random.default_rng(num_rows).integers(2, 13, num_rows)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return replace(split, input_ids=np.zeros(starts[-1], dtype=np.int32), row_starts=starts)


def test_with_a_limit_of_tokens_all_seeds_have_the_same_length(project):
    found = plan_study(
        StudySettings(seeds=[1, 2, 3, 4], low_resource=[16], low_resource_task="names"),
        ["task=[reviews,names]", *TINY, "sampler.max_tokens=40"],
        lambda words: composed_by_study(words, project),
        lambda config: {name: uneven(10 * SIZES[name]) for name in config["tasks"]},
    )
    of_runs = {}
    for job in found.jobs:
        lengths = tuple(o for o in job.overrides if o.startswith("trainer."))
        of_runs.setdefault(job.name.rpartition(",")[0], []).append(lengths)
    assert of_runs.keys() >= {"single=names", "variant=joint", "variant=joint,size=16"}
    for run, lengths in of_runs.items():
        assert len(lengths) == 4
        assert len(set(lengths)) == 1, run
        assert any(o.startswith("trainer.max_steps=") for o in lengths[0]), run


def test_only_a_variant_that_changes_the_length_itself_keeps_its_own(plan):
    found = plan(
        variants={
            "matched": "sampler=proportional",
            "clipped": "sampler=proportional trainer.max_grad_norm=0.5 trainer.log_every_steps=7",
            "longer": "sampler=proportional trainer.epochs=5",
        },
        seeds=[1],
    )
    steps = {name: found.steps[f"variant={name},seed=1"] for name in ("matched", "clipped", "longer")}
    assert steps["clipped"] == steps["matched"]
    assert steps["longer"] == 5 * 14  # 112 rows in steps of 8
    assert steps["matched"] != 3 * 14


def test_what_a_configuration_says_of_removed_tasks_goes_with_them():
    config = {
        "tasks": {"a": {"share_head_with": "b"}, "b": {}, "c": {}},
        "sampler": {"_target_": "x", "batch_size": {"a": 8, "b": 16, "c": 4}},
        "weighting": {"_target_": "y", "weights": {"a": 1.0, "b": 2.0, "c": 1.0}, "c": 5},
        "sharing": {"_target_": "z"},
        "trainer": {"best_metric": "b/accuracy"},
    }
    assert removed_tasks(config, ["a", "c"]) == [
        "~tasks.b",
        "tasks.a.share_head_with=null",
        "~sampler.batch_size.b",
        "~weighting.weights.b",
        "trainer.best_metric=score",
    ]
    # A setting of the class that is named like a task stays.
    assert "~weighting.c" not in removed_tasks(config, ["a", "b"])


def test_a_sampler_with_a_batch_size_for_each_task_works_alone(plan, project):
    found = plan("sampler.batch_size={reviews: 8, pairs: 4, names: 2}", seeds=[1])
    job = next(job for job in found.jobs if job.name == "single=names,seed=1")
    assert composed(*job.overrides, config_dir=project)["sampler"]["batch_size"] == {"names": 2}


@pytest.mark.parametrize(
    ("overrides", "settings", "message"),
    [
        (["seed=4"], {}, r"seed: a study has its seeds in study.seeds \(found seed=4\)"),
        (["trainer.epoch=3"], {}, "trainer.epoch: .*did you mean epochs"),
        ([], {"low_resource": [8], "low_resource_task": "nmes"}, "low_resource_task: found 'nmes', allowed: a task"),
        ([], {"low_resource": [40], "low_resource_task": "pairs"}, "found 40, but the training split of pairs has 40"),
        ([], {"low_resource": [30]}, "found 30, but the training split of names has 24 examples"),
        ([], {"variants": {"x": "weighting=pcgrd"}}, "study.variants.x: weighting=pcgrd: no such option; .*pcgrad"),
        ([], {"variants": {"x": "sharing.experts=3"}}, "study.variants.x: sharing.experts: "),
        (
            [],
            {"variants": ["task=[reviews]"]},
            "study.variants.*trains reviews, where the study is about",
        ),
        ([], {"single": "weighting.scope=all"}, "study.single, task reviews: weighting.scope"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_first_run(plan, overrides, settings, message):
    with pytest.raises(UserError, match=message):
        plan(*overrides, **settings)


def test_all_problems_come_at_once(plan):
    with pytest.raises(ConfigError) as caught:
        plan(variants={"x": "optimizer.lr=-1", "y": "trainer.epoch=2"}, low_resource=[8], low_resource_task="z")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "study.low_resource_task", "study.variants.x", "study.variants.y"
    ]  # fmt: skip


def test_one_task_is_no_study(project):
    with pytest.raises(UserError, match="compares learning together with learning alone; found one task, reviews"):
        plan_study(StudySettings(), ["task=[reviews]", *TINY], lambda words: composed_by_study(words, project), dict)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": []}, r"study.seeds: found \[\]"),
        ({"seeds": [1, 1]}, "has a value twice"),
        ({"variants": {}}, "study.variants: found none"),
        ({"variants": {"a b": "x=1"}}, "study.variants.a b: a name becomes part of a folder's name"),
        ({"variants": {"single": "x=1"}}, "any name but `single`"),
        ({"low_resource": []}, r"study.low_resource: found \[\], which cuts no training split"),
        ({"low_resource": ["all"]}, r"study.low_resource: found \[all\], which cuts no training split; allowed: sizes"),
        ({"low_resource_task": "a"}, "has no effect without study.low_resource"),
        ({"seeds": [-1]}, "study.seeds"),
        ({"low_resource": [100, "al"]}, "study.low_resource"),
        ({"budget": "tokens"}, "study.budget"),
        ({"seds": [1]}, "study.seds: no such key; did you mean seeds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_settings(StudySettings, settings, prefix="study.")


def test_variants_are_named_by_what_they_choose():
    found = StudySettings(variants=["weighting=pcgrad sharing=hard", "optimizer.lr=0.1", "weighting=equal", ""])
    assert found.named_variants() == {
        "pcgrad+hard": ("weighting=pcgrad", "sharing=hard"),
        "lr=0.1": ("optimizer.lr=0.1",),
        "equal": ("weighting=equal",),
        "joint": (),
    }
    assert StudySettings(variants=["a.x=1", "b.x=1"]).named_variants().keys() == {"x=1", "x=1-2"}
    listed = StudySettings(variants={"a": ["weighting=static", "weighting.weights={a: 1, b: 2}"]})
    assert listed.named_variants() == {"a": ("weighting=static", "weighting.weights={a: 1, b: 2}")}


def test_overrides_are_quoted_for_hydras_grammar():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    arguments = quote_texts(
        [
            "study.variants={equal: weighting=equal, both: [weighting=pcgrad, 'a.b={x: 1}'], it: \"a.c=it's\"}",
            "study.single=sharing=hard weighting=equal",
            "trainer.epochs=3",
        ],
        ("study.variants", "study.single"),
    )
    parsed = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(arguments)}
    assert parsed["study.variants"] == {
        "equal": "weighting=equal",
        "both": ["weighting=pcgrad", "a.b={x: 1}"],
        "it": "a.c=it's",
    }
    assert parsed["study.single"] == "sharing=hard weighting=equal"
    assert arguments[2] == "trainer.epochs=3"
    assert quote_texts(["study.variants=null"], ("study.variants",)) == ["study.variants=null"]
    with pytest.raises(UserError, match=r"study\.variants: found"):
        quote_texts(["study.variants={a: [x"], ("study.variants",))


def test_a_variant_that_changes_more_than_the_learning_together_is_noted(plan):
    found = plan(variants={"wide": "encoder.hidden_size=64", "equal": "weighting=equal"}, seeds=[1, 2])
    assert found.notes == [
        "wide also changes encoder: its difference to single-task training is not that of learning together alone."
    ]
    assert "one seed" in plan(seeds=[1]).notes[0]


def test_a_plan_is_read_back_as_it_was_written(plan, tmp_path):
    made = plan(seeds=[1, 2], low_resource=[8, "all"], low_resource_task="names", variants=["weighting=pcgrad"])
    write_plan(tmp_path, made)
    assert read_plan(tmp_path) == made
    assert is_same_study(tmp_path, made)
    assert not is_same_study(tmp_path, plan(seeds=[1]))


def test_a_folder_without_a_plan_or_with_a_broken_one_is_said(tmp_path):
    with pytest.raises(UserError, match=r"is not the folder of a study: it holds no plan\.json"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text('{"format_version": 1, "settings": {}}')
    with pytest.raises(UserError, match="is not what mtl writes"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text('{"format_version": 99}')
    with pytest.raises(UserError, match="format_version 99"):
        read_plan(tmp_path)


def test_groups_and_their_settings_are_left_out():
    words = ["sharing=mmoe", "sharing.num_experts=3", "weighting=equal", "trainer.epochs=2", "task=[a]"]
    assert without_groups(words, ("sharing", "weighting")) == ["trainer.epochs=2", "task=[a]"]


def test_names_of_runs_are_readable():
    assert RunKey("variant", "equal", 100, 1).job_name == "variant=equal,size=100,seed=1"
    assert RunKey("pair", "rte+snli", None, 2).job_name == "pair=rte+snli,seed=2"
    assert [key.job_name for key in needed_runs(StudySettings(seeds=[1]), ["a", "b"])] == [
        "single=a,seed=1", "single=b,seed=1", "variant=joint,seed=1"
    ]  # fmt: skip
