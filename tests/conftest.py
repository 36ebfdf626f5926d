"""Fixtures of several folders."""

from __future__ import annotations

import os

# Before any test imports a library that reads them: no network, no account, no colours in what is compared.
os.environ.update(
    {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "NO_COLOR": "1"}
)
for name in ("WANDB_API_KEY", "WANDB_DIR"):
    os.environ.pop(name, None)

import importlib  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the data sets' own, so that tests neither see nor fill the user's."""
    folder = tmp_path_factory.mktemp("cache")
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration folder of a small user's project."""
    import tiny_project

    return tiny_project.write(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished_run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on tasks of all four types; tests read it and leave it as it is."""
    import tiny_project

    from mtl_cli.cli import _main

    run = tmp_path_factory.mktemp("runs") / "finished"
    tasks = "task=[reviews,pairs,scores,names]"
    assert _main(["train", "--config-dir", str(project), *tiny_project.TINY, tasks, f"hydra.run.dir={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of scripts/ by its name; scripts import each other likewise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "scripts")
        yield importlib.import_module


@pytest.fixture
def tiny_benchmark(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a benchmark of scripts/ by its name, on an encoder of two small blocks."""
    from encoders import tiny_encoders

    def load(name: str) -> ModuleType:
        monkeypatch.setattr(script("bench_steps"), "make_encoder", tiny_encoders.for_benchmarks)
        module = script(name)
        monkeypatch.setattr(module, "keep_freed_memory", lambda: True)  # it holds for the rest of the process
        return module

    return load
