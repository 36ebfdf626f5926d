import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_cli.errors import UserError
from mtl_cli.listing import list_options, print_options, tasks_command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write(folder: Path, name: str, text: str) -> None:
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    conf = tmp_path / "conf"
    write(conf, "train", "# The command itself, no option.\n")
    write(conf, "encoder/minilm", "# A small encoder.\n_target_: x\n")
    write(conf, "task/snli", "# @package tasks.snli\n# SNLI: sentence pairs.\n# A second line.\n_target_: x\n")
    write(conf, "task/glue/sst2", "# @package tasks.sst2\n\n# SST-2: films, judged.\n_target_: x\n")
    write(conf, "task/glue/rte", "# @package tasks.rte\n# RTE: NLI from news.\n_target_: x\n")
    write(conf, "zoo/none", "_target_: x  # not a description\n# nor is this\n")
    write(conf, "hydra/help/mtl", "# Hydra's own settings are no options.\n")
    return conf


def found(*arguments: object, **keywords: object) -> list[tuple[str, str, str]]:
    return [(option.group, option.name, option.description) for option in list_options(*arguments, **keywords)]  # type: ignore[arg-type]


def test_options_come_by_group_with_the_first_comment_that_is_no_directive(shipped: Path) -> None:
    assert found([shipped]) == [
        ("task", "snli", "SNLI: sentence pairs."),
        ("task", "glue/rte", "RTE: NLI from news."),
        ("task", "glue/sst2", "SST-2: films, judged."),
        ("encoder", "minilm", "A small encoder."),
        ("zoo", "none", ""),
    ]


def test_a_group_and_words_narrow_the_list(shipped: Path) -> None:
    assert found([shipped], group="encoder") == [("encoder", "minilm", "A small encoder.")]
    # "nli" stands in the name of one and, in capitals, in the description of the other.
    assert [name for _, name, _ in found([shipped], group="task", word="nli")] == ["snli", "glue/rte"]
    assert [name for _, name, _ in found([shipped], word="NLI news")] == ["glue/rte"]
    assert found([shipped], group="encoder", word="nli") == []


def test_of_two_options_of_one_name_the_first_folder_counts(shipped: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write(mine, "encoder/minilm", "# Mine, hidden by the shipped one.\n")
    write(mine, "task/reviews", "# My reviews.\n")
    names = {option.name: option for option in list_options([shipped, mine])}
    assert names["minilm"].description == "A small encoder."
    assert names["reviews"].file == mine / "task" / "reviews.yaml"


def test_a_pipe_gets_one_aligned_line_an_option(shipped: Path) -> None:
    stream = io.StringIO()
    print_options(list_options([shipped]), stream=stream)
    assert stream.getvalue().splitlines() == [
        "task=snli       SNLI: sentence pairs.",
        "task=glue/rte   RTE: NLI from news.",
        "task=glue/sst2  SST-2: films, judged.",
        "encoder=minilm  A small encoder.",
        "zoo=none",
    ]


def test_a_terminal_gets_a_titled_table_a_group(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    write(shipped, "task/markup", "# [bold]as written[/bold], " + "long " * 30)
    stream = Terminal()
    print_options(list_options([shipped]), stream=stream)
    lines = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 60
    assert any("[bold]as written[/bold]" in line for line in lines)
    titles = [line.strip() for line in lines if line and "=" not in line and not line.startswith(" ")]
    assert titles == ["task", "encoder", "zoo"]


def test_json_holds_every_field(shipped: Path) -> None:
    stream = io.StringIO()
    print_options(list_options([shipped], group="encoder"), "json", stream)
    assert json.loads(stream.getvalue()) == [
        {
            "group": "encoder",
            "name": "minilm",
            "description": "A small encoder.",
            "file": str(shipped / "encoder" / "minilm.yaml"),
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["snli", "glue/rte", "glue/sst2", "minilm", "none"]),
        (["encoder"], ["minilm"]),
        (["task", "nli"], ["snli", "glue/rte"]),
        (["nli"], ["snli", "glue/rte"]),
        (["task", "nli", "news"], ["glue/rte"]),
        (["--config-dir", "mine", "reviews"], ["reviews"]),
        (["reviews", "--config-dir=mine"], ["reviews"]),
    ],
)
def test_the_command_takes_a_group_words_and_a_folder(
    shipped: Path, arguments: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shipped.parent)
    write(shipped.parent / "mine", "task/reviews", "# My reviews of books.\n")
    stream = io.StringIO()
    tasks_command([*arguments, "format=json"], shipped, stream)
    assert [record["name"] for record in json.loads(stream.getvalue())] == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=xml"], "`format` is one of text, json. Found `xml`"),
        (["--verbose"], "does not know `--verbose`"),
        (["--config-dir", "absent"], "needs a folder that exists. Found `absent`"),
        (["--config-dir"], "needs a folder that exists. Found ``"),
        (["task", "chess"], "Nothing in the group `task` fits `chess`. The groups are: task, encoder, zoo."),
    ],
)
def test_what_the_command_cannot_do_is_said(shipped: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tasks_command(arguments, shipped, io.StringIO())


def test_help_says_how_to_ask(shipped: Path) -> None:
    stream = io.StringIO()
    tasks_command(["--help"], shipped, stream)
    assert stream.getvalue().startswith("Usage: mtl tasks [GROUP] [WORD ...]")


def test_a_reader_that_stops_early_is_no_error() -> None:
    # A pipe whose reader is gone before anything is written.
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    done = subprocess.run(
        [sys.executable, "-m", "mtl_cli", "tasks"], stdout=writing_end, stderr=subprocess.PIPE, text=True
    )
    os.close(writing_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_listing_imports_neither_torch_nor_hydra_nor_omegaconf() -> None:
    code = (
        "import io, pathlib, sys; from mtl_cli.listing import tasks_command;"
        "tasks_command([], pathlib.Path(sys.argv[1]), io.StringIO());"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    conf = Path(__file__).parents[1] / "conf"
    done = subprocess.run([sys.executable, "-c", code, str(conf)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_shipped_option_says_what_it_is() -> None:
    options = list_options([Path(__file__).parents[1] / "conf"])
    assert options
    assert [str(option.file) for option in options if not option.description] == []
