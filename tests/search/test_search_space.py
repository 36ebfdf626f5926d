"""A command line, and YAML, in Hydra's sweep syntax."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from mtl_cli.check_config import ConfigError
from mtl_cli.cli import conf_dir
from mtl_cli.errors import UserError
from mtl_cli.launching import Words
from mtl_cli.search.settings import SearchSettings
from mtl_cli.search.space import Choice, Float, Integer, Simplex
from mtl_cli.search_space import advice, plan_search, read_dimension, resuming, sort_overrides

GROUPS = {"sharing": ["cross_stitch", "hard", "hierarchical"]}


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("interval(1e-5,1e-3)", Float(1e-5, 1e-3)),
        ("tag(log, interval(1e-5,1e-3))", Float(1e-5, 1e-3, log=True)),
        ("interval(1,8)", Float(1.0, 8.0)),
        ("int(interval(1,8))", Integer(1, 8)),
        ("tag(log,int(interval(1,8)))", Integer(1, 8, log=True)),
        ("range(1,9,2)", Integer(1, 7, step=2)),  # as elsewhere in Hydra, without the end
        ("range(9,1,-4)", Integer(5, 9, step=4)),
        ("range(4)", Integer(0, 3)),
        ("tag(log,range(1,65))", Integer(1, 64, log=True)),
        ("range(0.1,0.5,0.1)", Float(0.1, 0.4, step=0.1)),
        ("range(2,3)", Choice(("2",))),
        ("choice(a,b,c)", Choice(("a", "b", "c"))),
        ("a,b", Choice(("a", "b"))),
        ("[a],[a,b]", Choice(("[a]", "[a,b]"))),
        ("null,1,true,1.5", Choice(("null", "1", "True", "1.5"))),
        ("'x y',b", Choice(("'x y'", "b"))),
        ("choice({a:1},{b:2})", Choice(("{a:1}", "{b:2}"))),
        (["a", None, 2, [1, "b c"]], Choice(("a", "null", "2", "[1,b\\ c]"))),
        ("simplex", None),
    ],
)
def test_sweep_syntax_becomes_a_dimension(text, dimension):
    assert read_dimension("x", text, {}) == dimension


def test_glob_names_options_of_a_group():
    assert read_dimension("sharing", "glob(h*)", GROUPS) == Choice(("hard", "hierarchical"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("interval(1,0)", r"x: found the bounds 1.0 and 0.0"),
        ("interval(0,1", "x=interval"),
        ("interval(a,b)", "x=interval.* mismatch type argument start"),
        ("tag(lin,interval(0,1))", "x: found the tag 'lin', allowed: log"),
        ("tag(log,choice(1,2))", "around choices"),
        ("tag(log,range(0.5,2.5))", "with fractions"),
        ("range(3,3)", "holds no value"),
        ("glob(zzz*)", "fits no option of a group 'x'"),
        ("5", "x: found '5', which is one value"),
        (0.5, r"x: found 0.5, needs something to search.*is given as x=0.5"),
    ],
)
def test_what_is_no_range_of_values_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        read_dimension("x", value, {})


def test_a_plain_interval_over_magnitudes_is_advised_against():
    assert advice("lr", Float(1e-5, 1e-3)) is not None
    assert "lr=tag(log,interval(1e-05,0.001))" in str(advice("lr", Float(1e-5, 1e-3)))
    assert advice("lr", Float(1e-5, 9e-4)) is None
    assert advice("lr", Float(1e-5, 1e-3, log=True)) is None
    assert advice("x", Float(0.0, 1.0)) is None


def words(*overrides, config_dir=None):
    return Words(list(overrides), config_dir)


def sorted_words(*overrides):
    return sort_overrides(list(overrides), words(*overrides))


def test_overrides_are_sorted_into_searched_fixed_and_the_searchs_own():
    found = sorted_words(
        "seed=3", "++optimizer.lr=interval(0,1)", "search.trials=4", "hydra.run.dir=x", "w=simplex", "task=[a,b]"
    )
    assert found.swept == {"optimizer.lr": "interval(0,1)", "w": "simplex"}
    assert found.fixed == ["seed=3", "task=[a,b]"]
    assert found.own == ["search.trials=4", "hydra.run.dir=x"]


def test_overrides_that_cannot_be_read_are_refused_together():
    with pytest.raises(ConfigError) as error:
        sort_overrides(["-m"], words("a=interval(", "b=foo(1)"))
    assert len(error.value.problems) == 3


def planned(tmp_path, *overrides, config_dir=None, **node):
    given = words(*overrides, config_dir=config_dir)
    return plan_search(given, sort_overrides([], given), node, conf_dir(), tmp_path / "search")


def test_a_plan_holds_the_tasks_of_a_simplex_and_what_is_fixed(tmp_path):
    plan = planned(
        tmp_path,
        "weighting=static",
        "weighting.task_weights=simplex",
        "sharing=hard,cross_stitch",
        "task=[embedded/sentiment,embedded/entities]",
    )
    assert plan.space.dimensions["weighting.task_weights"] == Simplex(("sentiment", "entities"))
    assert plan.fixed == ("weighting=static", "task=[embedded/sentiment,embedded/entities]")
    assert plan.working_folder == str(Path.cwd())


def test_the_space_of_a_yaml_counts_where_the_command_line_says_nothing(tmp_path):
    plan = planned(
        tmp_path,
        "encoder.dropout=0.1",
        "optimizer.lr=choice(0.1,0.2)",
        space={"optimizer": {"lr": "interval(0,1)"}, "encoder.dropout": "interval(0,0.3)", "seed": [1, 2]},
    )
    assert plan.space.dimensions == {"optimizer.lr": Choice(("0.1", "0.2")), "seed": Choice(("1", "2"))}
    assert plan.fixed == ("encoder.dropout=0.1",)


def test_a_single_objective_chooses_the_best_checkpoint(tmp_path):
    plan = planned(tmp_path, "seed=1,2", objectives=["sentiment/accuracy"])
    assert plan.fixed == ("trainer.best_metric=sentiment/accuracy",)
    plan = planned(tmp_path, "seed=1,2", "trainer.best_metric=score", objectives=["sentiment/accuracy"])
    assert plan.fixed == ("trainer.best_metric=score",)
    assert planned(tmp_path, "seed=1,2").fixed == ()


def test_everything_wrong_is_said_at_once_before_a_trial_and_the_folder_is_taken_back(tmp_path):
    (tmp_path / "search").mkdir()
    with pytest.raises(ConfigError) as error:
        planned(
            tmp_path,
            "optimizer.lr=interval(1,0)",
            "encoder.dropout=interval(0.5,1.5)",
            "sharing=hard,hrad",
            "optimzer.lr=1,2",
            trials=0,
            sampler="tpee",
        )
    said = "\n".join(error.value.problems)
    for expected in (
        "search.trials: found 0",
        "search.sampler: found 'tpee'",
        "optimizer.lr: found the bounds 1.0 and 0.0",
        "encoder.dropout=1.5: encoder.dropout: found 1.5",
        "sharing=hrad: no such option; did you mean hard?",
        "optimzer: no such key; did you mean optimizer?",
    ):
        assert expected in said
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("overrides", "node", "message"),
    [
        ((), {}, "search.space: found nothing to search"),
        (("seed=1,2",), {"objectives": ["sentiment/f1"]}, r"search.objectives: found 'sentiment/f1', allowed: score"),
        (("seed=1,2",), {"objectives": []}, "search.objectives: found none"),
        (
            ("seed=1,2",),
            {"objectives": ["score", "sentiment/loss"], "pruner": "median"},
            "search.pruner: found 'median' with 2 objectives",
        ),
        (("optimizer.lr=interval(0.1,1)",), {"sampler": "grid"}, "optimizer.lr can take any value"),
        (("weighting.task_weights=simplex", "task=[snli],[snli,wnut17]"), {}, "task is searched, too"),
        (("weighting.task_weights=simplex", "seed=1,2"), {}, "weighting.task_weights: Equal has no such setting"),
        (("resume=x", "seed=1,2"), {}, "resume: is for one run"),
        (("seed=1,2", "loggers.wandb.api_key=abc"), {}, "found a secret"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, overrides, node, message):
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, *overrides, **node)


def test_a_resumed_search_takes_only_settings_that_may_change():
    folder, changes = resuming(
        words("search.resume=a/b", "search.trials=30", "debug=true"), {"resume": "a/b", "trials": 30, "workers": 1}
    )
    assert folder == Path("a/b")
    assert changes == {"trials": 30}
    with pytest.raises(UserError, match=r"leave out seed, search.sampler \(what may be given: search.trials, "):
        resuming(words("search.resume=a", "seed=1", "search.sampler=gp"), {"resume": "a"})


def test_the_shipped_yaml_has_the_defaults_of_the_settings():
    shipped = yaml.safe_load((conf_dir() / "search" / "default.yaml").read_text())
    assert SearchSettings(**shipped) == SearchSettings()
    assert list(shipped) == [field.name for field in dataclasses.fields(SearchSettings)]


def test_items_of_a_yaml_list_mean_on_the_command_line_what_they_mean_in_the_list():
    dimension = read_dimension("key", ["plain", "it's", "1", 1, "a,b", "null", None, True], {})
    assert dimension == Choice(("plain", "'it\\'s'", "'1'", "1", "'a,b'", "'null'", "null", "True"))


def test_a_launcher_is_refused_because_a_search_runs_its_trials_itself():
    with pytest.raises(ConfigError, match=r"search.workers=2"):
        sort_overrides(["hydra/launcher=parallel"], Words(["hydra/launcher=parallel", "seed=1,2"]))
