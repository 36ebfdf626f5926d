import json
import os
import platform
import subprocess
import sys

import numpy
import pytest
import torch

from mtl_cli.tracking import environment, environment_record

SECRET = "0123456789abcdef0123456789abcdef01234567"


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def record():
    return environment_record()


def test_packages_python_and_threads_are_those_of_this_process(record):
    assert record["packages"]["torch"] == torch.__version__
    assert record["packages"]["numpy"] == numpy.__version__
    assert record["python"]["version"] == platform.python_version()
    assert record["threads"]["intra_op"] == torch.get_num_threads()
    assert record["memory_bytes"] > 2**28
    assert 1 <= record["cpu"]["usable_cores"] <= record["cpu"]["logical_cores"]
    assert record["cpu"]["model"]
    assert len(record["gpus"]) == torch.cuda.device_count()


def test_the_record_is_json(record):
    assert json.loads(json.dumps(record)) == record


def test_commit_and_changes_of_the_users_repository_are_recorded(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "m")
    (tmp_path / "outputs").mkdir()  # untracked files are no change
    (tmp_path / "outputs" / "x").write_text("1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment_record(project_folder=tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert environment_record(project_folder=tmp_path / "outputs")["git"] == {"commit": commit, "dirty": True}


def test_a_folder_without_a_repository_or_a_machine_without_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment_record(project_folder=tmp_path)["git"] is None
    assert environment_record(project_folder=tmp_path / "missing")["git"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment_record()["git"] is None


def test_a_git_that_hangs_is_given_up(tmp_path, monkeypatch):
    fake = tmp_path / "git"
    fake.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(environment, "_GIT_SECONDS", 0.2)
    assert environment_record()["git"] is None


def test_no_environment_variable_and_no_secret_is_recorded(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("SOME_HARMLESS_NAME", "some-harmless-value")
    record = environment_record(command=["mtl", "train", "+a.api_key=abcdef", f"notes={SECRET}", "seed=1"])
    assert record["command"] == ["mtl", "train", "+a.api_key=***", "notes=***", "seed=1"]
    assert SECRET not in json.dumps(record)
    assert "some-harmless-value" not in json.dumps(record)
