"""Words that are no overrides: what they become, and that Hydra gives back what was meant."""

import pytest
from compose import composed

from mtl_cli.plain_words import (
    conditions_as_setting,
    folders_as_setting,
    options_as_settings,
    quoted_list,
    split_conditions,
    texts_as_they_are,
)


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "a,b",
        "a[1]",
        "sharing=hard,seed=1",
        "it's",
        'a"b',
        "back\\slash",
        "end\\",
        "q\\'q",
        "${seed}",
        "\\${seed}",
        "\\\\${x}",
        "${",
        "$x",
        "{a: b}",
        "#c",
        "null",
        "1e3",
        "score>=0.8",
        " blank ",
        "ünï",
    ],
)
def test_any_text_comes_through_hydra_as_it_is(text):
    assert composed(f"runs={quoted_list([text, 'other'])}", command="compare")["runs"] == [text, "other"]


def test_plain_words_are_folders_wherever_they_stand():
    words = ["outputs", "sort=lr", "a b", "--config-dir", "conf", "-m", "format=csv"]
    assert folders_as_setting(words) == [
        "sort=lr",
        "--config-dir",
        "conf",
        "-m",
        "format=csv",
        "runs=['outputs','a b']",
    ]
    assert folders_as_setting(["sort=lr"]) == ["sort=lr"]


def test_a_word_that_names_a_folder_is_one_even_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sharing=hard,seed=1").mkdir()
    words = ["sharing=hard,seed=1", "sharing=hard,seed=2", "--cfg", "job"]
    assert folders_as_setting(words) == ["sharing=hard,seed=2", "--cfg", "job", "runs=['sharing=hard,seed=1']"]


def test_conditions_of_several_words_are_gathered():
    words = ["where=score>0.8", "sort=lr", "where=[a=1,'b<2']"]
    assert conditions_as_setting(words) == ["sort=lr", "where=['score>0.8','a=1','b<2']"]
    assert composed(*conditions_as_setting(words), command="compare")["where"] == ["score>0.8", "a=1", "b<2"]
    assert conditions_as_setting(["where=[]"]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sharing=hard", ["sharing=hard"]),
        ("sharing=[hard,mmoe]", ["sharing=[hard,mmoe]"]),
        ("[sharing=[hard,mmoe], score>0.8]", ["sharing=[hard,mmoe]", "score>0.8"]),
        ("""["name~a,b",'x=1']""", ["name~a,b", "x=1"]),
        ("'score>0.8'", ["score>0.8"]),
        ("[]", []),
        ("", []),
    ],
)
def test_a_list_of_conditions_is_cut_at_its_own_commas(text, expected):
    assert split_conditions(text) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runs", "--to", "wandb", "again=true"], ["runs", "to=wandb", "again=true"]),
        (["--to=wandb"], ["to=wandb"]),
        (["runs", "--to"], ["runs", "to=null"]),
        (["--cfg", "job"], ["--cfg", "job"]),
    ],
)
def test_an_option_with_dashes_is_a_setting(words, expected):
    assert options_as_settings(words, ["to"]) == expected


def test_names_and_paths_need_no_quotes():
    words = ["output=a=b, c.csv", "html=null", "baseline='x=1'", "sort=lr", "output="]
    quoted = ["output='a=b, c.csv'", "html=null", "baseline='x=1'", "sort=lr", "output="]
    assert texts_as_they_are(words, ["output", "html", "baseline"]) == quoted
    config = composed(*quoted[:4], command="compare")
    assert (config["output"], config["html"], config["baseline"]) == ("a=b, c.csv", None, "x=1")
