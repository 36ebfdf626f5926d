"""Every command of the README does what it says; those that need a network are checked up to where they would load."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from compose import composed
from tiny_project import TINY

from mtl_cli.check_config import check_config
from mtl_cli.cli import COMMANDS as ALL_COMMANDS
from mtl_cli.cli import _main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[1:] for block in BLOCKS for line in block.splitlines() if line.startswith("mtl ")
]
EXAMPLE_RUN = "outputs/2026-01-31/12-00-00-000000"
# What makes the embedded default small enough for a test.
SMALL = [
    "trainer.max_steps=2",
    *(
        f"tasks.{task}.source.num_{split}=40"
        for task in ("sentiment", "entities", "inference")
        for split in ("train", "validation", "test")
    ),
    *TINY[1:],
]


@pytest.fixture(scope="module")
def embedded_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("readme") / "run"
    assert _main(["train", *SMALL, f"hydra.run.dir={run}"]) == 0
    return run


@pytest.fixture
def interrupted_run(embedded_run, tmp_path):
    """A run that was stopped after its last step: resuming scores and saves it."""
    run = tmp_path / "interrupted"
    shutil.copytree(embedded_run, run)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "status": "interrupted", "tasks": {}, "score": None}))
    return run


def test_the_readme_names_every_command():
    assert {command[0] for command in COMMANDS} == set(ALL_COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_works(command, embedded_run, interrupted_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if command[0] in ("compare", "sync"):
        shutil.copytree(embedded_run, tmp_path / "outputs" / "run")
        shutil.copytree(embedded_run, tmp_path / "multirun" / "run")
        assert _main(command) == 0
        assert (tmp_path / ("compare.html" if command[0] == "compare" else "multirun/run/tensorboard")).exists()
    elif command[0] == "search":
        arguments = [a for a in command if not a.startswith(("search.trials", "sharing"))]
        assert _main([*arguments, "search.trials=1", *SMALL]) == 0
    elif command[0] == "study":
        # In the place of the Hub's tasks two that are embedded; what it would run is worked out in full.
        arguments = [a.replace("glue/rte,snli", "embedded/sentiment,embedded/inference") for a in command]
        small = [word for word in SMALL if not word.startswith("tasks.entities")]
        assert _main([*arguments, "dry_run=true", *small]) == 0
    elif any(argument.startswith("sweep.resume=") for argument in command):
        folder = command[-1].removeprefix("sweep.resume=")
        assert _main(["train", "-m", "seed=1", *SMALL, f"hydra.sweep.dir={folder}"]) == 0
        assert _main(command) == 0
    elif any(argument.startswith("resume=") for argument in command):
        assert _main([a.replace(EXAMPLE_RUN, str(interrupted_run)) for a in command]) == 0
        assert json.loads((interrupted_run / "results.json").read_text())["status"] == "finished"
    elif command[0] == "bench":
        # The words that choose an encoder stay out: it is made small below.
        words = [word for word in command if not word.startswith("encoder=")]
        quick = ["bench.rounds=1", "bench.rows=8", "bench.force=true", "bench.memory=false"]
        assert _main([*words, *[word for word in SMALL if "max_steps" not in word], *quick]) == 0
    elif command == ["train"]:
        assert json.loads((embedded_run / "results.json").read_text())["status"] == "finished"
    elif command[0] == "train":
        check_as_far_as_loading(command[1:], tmp_path)
    else:
        (tmp_path / "texts.csv").write_text("text\nThe report was clear.\n")
        assert _main([a.replace(EXAMPLE_RUN, str(embedded_run)) for a in command]) == 0
        assert command[0] != "predict" or (tmp_path / "labelled.jsonl").exists()


def check_as_far_as_loading(arguments, folder):
    """Compose and check each job of a `mtl train` that would load from the Hub."""
    config_dir = None
    if "--config-dir" in arguments:
        place = arguments.index("--config-dir")
        config_dir = folder / arguments[place + 1]
        (config_dir / "task").mkdir(parents=True)
        yaml = next(b for b in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/add_a_task.md").read_text(), re.DOTALL))
        (config_dir / "task" / "my_reviews.yaml").write_text(yaml)
        arguments = arguments[:place] + arguments[place + 2 :]
    if arguments[0] == "-m":
        seeds = arguments[1].removeprefix("seed=").split(",")
        tasks = re.findall(r"\[[^\]]*\]", arguments[2])
        assert len(seeds) * len(tasks) == 6
        for seed in seeds:
            for task in tasks:
                check_config(composed(f"seed={seed}", f"task={task}"))
    else:
        check_config(composed(*arguments, config_dir=config_dir))


def test_the_python_of_the_readme_runs(embedded_run, capsys):
    (code,) = (block for block in BLOCKS if "load_model" in block)
    scope: dict[str, object] = {}
    lines = code.replace(EXAMPLE_RUN, str(embedded_run)).strip().splitlines()
    exec("\n".join([*lines[:-1], f"answer = {lines[-1]}"]), scope)
    (record,) = scope["answer"]
    assert record["prediction"] in ("negative", "neutral", "positive")


def test_every_file_that_the_readme_names_exists():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"scripts/\w+\.(?:sh|py)", README):
        assert (ROOT / name).exists(), name
