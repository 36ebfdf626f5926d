import io

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.singleton import Singleton

from mtl_cli.cli import _main
from mtl_cli.launching.composing import compose_multirun, hydra_session, plain_config
from mtl_cli.listing import tasks_command
from mtl_cli.overrides import (
    compose_train,
    flags_first,
    force_values,
    groups_in,
    option_problems,
    users_files_first,
    value_of,
)
from mtl_cli.shipped_conf import conf_dir


@pytest.fixture
def conf(tmp_path):
    for name in ("encoder/bert_base", "encoder/minilm", "task/glue/sst2", "task/snli", "hydra/help/mtl"):
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "train.yaml").touch()
    return tmp_path


def test_groups_are_folders_with_the_paths_below_them_and_hydras_own_is_left_out(conf):
    assert groups_in([conf]) == {"encoder": ["bert_base", "minilm"], "task": ["glue/sst2", "snli"]}


def test_a_users_folder_adds_options_to_a_group(conf, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    (own / "task").mkdir()
    (own / "task" / "reviews.yaml").touch()
    assert groups_in([conf, own])["task"] == ["glue/sst2", "reviews", "snli"]


@pytest.mark.parametrize(
    ("given", "forced"),
    [
        ("trainer.epochs=3", "++trainer.epochs=3"),
        ("seed=1,2", "++seed=1,2"),
        ("tasks.sst2.max_train_examples=5", "++tasks.sst2.max_train_examples=5"),
        ("encoder.hidden_size=8", "++encoder.hidden_size=8"),
        ("encoder=minilm", "encoder=minilm"),
        ("task=[snli,glue/sst2]", "task=[snli,glue/sst2]"),
        ("encoder@other=minilm", "encoder@other=minilm"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("+new.key=1", "+new.key=1"),
        ("~trainer", "~trainer"),
        ("-m", "-m"),
    ],
)
def test_assignments_to_settings_are_forced_and_all_else_is_left_to_hydra(conf, given, forced):
    assert force_values([given], groups_in([conf])) == [forced]


def test_the_value_of_a_flag_is_no_assignment(conf):
    arguments = ["--config-dir", "a=b", "seed=1"]
    assert force_values(arguments, groups_in([conf])) == ["--config-dir", "a=b", "++seed=1"]


def test_all_unknown_options_are_named_with_the_nearest(conf):
    problems = option_problems(["encoder=minlm", "task=[sst2,snli],[sick]", "encoder=brt"], [conf], groups_in([conf]))
    assert problems == [
        "encoder=minlm: no such option; did you mean minilm?",
        "task=sst2: no such option; did you mean glue/sst2?",
        "task=sick: no such option; there are glue/sst2, snli",
        "encoder=brt: no such option; did you mean bert_base?",
    ]


def test_a_group_needs_a_name(conf):
    assert option_problems(["encoder=null"], [conf], groups_in([conf])) == [
        "encoder=null: found no name; there are bert_base, minilm"
    ]


def test_a_function_of_hydras_grammar_is_left_to_hydra(conf):
    assert option_problems(["encoder=choice(a,b)", "task=glob(*)"], [conf], groups_in([conf])) == []


def test_the_last_value_of_a_key_counts_and_null_is_none():
    assert value_of("resume", ["resume=a", "resume=b"]) == "b"
    assert value_of("resume", ["resume=null"]) is None
    assert value_of("resume", ["seed=1"]) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=1", "--config-dir", "d", "b=2"], ["--config-dir", "d", "a=1", "b=2"]),
        (["a=1", "--config-dir=d", "b=2", "-m", "c=1,2"], ["--config-dir=d", "-m", "a=1", "b=2", "c=1,2"]),
        (["a=1", "--info", "defaults", "b=2"], ["--info", "defaults", "a=1", "b=2"]),
        (["a=1", "--info", "b=2"], ["--info", "a=1", "b=2"]),
        (["a=1", "--cfg", "job"], ["--cfg", "job", "a=1"]),
        (["~a", "+b=-1"], ["~a", "+b=-1"]),
    ],
)
def test_flags_come_before_overrides_with_their_values(words, expected):
    assert flags_first(words) == expected


@pytest.fixture
def users_folder(tmp_path):
    """Files of the user's named like shipped ones."""
    (tmp_path / "task/glue").mkdir(parents=True)
    (tmp_path / "task/glue/sst2.yaml").write_text(
        "# @package tasks.sst2\n# My own sst2\n_target_: mtl_cli.tasks.SingleTextClassification\n"
        "source:\n  _target_: mtl_cli.data.FileSource\n  train: mine.csv\ntext: text\nlabel: label\n"
    )
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler/all_tasks.yaml").write_text("_target_: mtl_cli.sampling.AllTasks\nbatch_size: 77\n")
    return tmp_path


def is_the_user_s(config):
    assert config["tasks"]["sst2"]["source"]["train"] == "mine.csv"
    assert "path" not in config["tasks"]["sst2"]["source"]
    assert config["sampler"]["batch_size"] == 77
    assert config["tasks"]["rte"]["source"]["path"]  # shipped ones are there as ever
    return True


def test_a_user_s_file_is_taken_before_a_shipped_one_of_the_same_name(users_folder, capsys):
    words = ["task=[glue/sst2,glue/rte]"]
    assert _main(["train", "--config-dir", str(users_folder), *words, "--cfg", "job"]) == 0
    assert is_the_user_s(yaml.safe_load(capsys.readouterr().out))
    assert _main(["train", *words, f"--config-dir={users_folder}", "--cfg", "job"]) == 0
    assert is_the_user_s(yaml.safe_load(capsys.readouterr().out))
    # Without it nothing is left of it.
    assert _main(["train", *words, "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["sampler"]["batch_size"] != 77


def test_sweeps_and_studies_take_a_user_s_file_first_too(users_folder):
    words = ["task=[glue/sst2,glue/rte]"]
    with hydra_session(conf_dir(), users_folder) as hydra:
        assert is_the_user_s(plain_config(compose_multirun(hydra, "train", words)))
    with users_files_first(users_folder), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert is_the_user_s(compose_train(words, [conf_dir(), users_folder]))


def test_a_launcher_that_starts_with_new_plugins_in_this_process_changes_nothing(users_folder):
    with hydra_session(conf_dir(), users_folder):
        Singleton.set_state(Singleton.get_state())  # as hydra-joblib-launcher does before each job
    with hydra_session(conf_dir(), users_folder) as hydra:
        assert is_the_user_s(plain_config(compose_multirun(hydra, "train", ["task=[glue/sst2,glue/rte]"])))


def test_what_is_listed_is_the_user_s_file(users_folder):
    printed = io.StringIO()
    tasks_command(["task", "glue/sst2", "--config-dir", str(users_folder)], conf_dir(), printed)
    assert "My own sst2" in printed.getvalue()
