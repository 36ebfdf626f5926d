import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SETUP = ROOT / "scripts" / "setup_env.sh"
SCRIPTS = [SETUP, ROOT / "scripts" / "quickstart.sh", ROOT / "scripts" / "test.sh", ROOT / ".ci" / "run"]


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in lines}


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail; source '{SETUP}'; {command}"
    path = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=path | environment, check=False)


def fake_python(folder: Path) -> Path:
    """A folder that passes for a virtual environment and writes down what pip is asked for."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'if [[ "$1 $2 ${{3:-}}" == "-m pip install" ]]; then echo "${{@: -1}}" >>"{folder}/asked"; fi\n'
        # The fingerprint: a program on standard input.
        'if [[ "$1" == - ]]; then echo "${FINGERPRINT:-one}"; fi\n'
    )
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_constraints_pin_every_dependency_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    pinned = pins()
    for requirement in map(Requirement, wanted):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is pinned to {version}"


def test_constraints_hold_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_an_environment_is_installed_once_for_the_same_files_and_extras(tmp_path: Path) -> None:
    venv = fake_python(tmp_path / "venv")
    for command, fingerprint in [
        ("set_up_environment", "one"),  # nothing there: installs
        ("set_up_environment", "one"),
        ("set_up_environment dev bundled", "one"),  # extras are new: installs
        ("set_up_environment", "one"),
        ("set_up_environment bundled", "one"),
        ("set_up_environment", "two"),  # pyproject.toml or constraints.txt changed: installs, keeping the extras
    ]:
        done = run(command, MTL_VENV=str(venv), FINGERPRINT=fingerprint)
        assert done.returncode == 0, done.stderr
    assert (venv / "asked").read_text().splitlines() == [str(ROOT), f"{ROOT}[dev,bundled]", f"{ROOT}[dev,bundled]"]


def test_a_failed_installation_is_tried_again(tmp_path: Path) -> None:
    venv = fake_python(tmp_path / "venv")
    run("set_up_environment", MTL_VENV=str(venv))
    python = venv / "bin" / "python"
    works = python.read_text()
    python.write_text(works + 'if [[ "$3" == install ]]; then exit 1; fi\n')
    assert run("set_up_environment", MTL_VENV=str(venv), FINGERPRINT="two").returncode != 0
    python.write_text(works)
    assert run("set_up_environment", MTL_VENV=str(venv), FINGERPRINT="two").returncode == 0
    assert len((venv / "asked").read_text().splitlines()) == 3


def test_a_folder_that_is_no_environment_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    done = run("set_up_environment", MTL_VENV=str(tmp_path))
    assert done.returncode != 0
    assert "holds no working Python with pip" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_python_that_is_named_but_too_old_or_absent_is_refused(tmp_path: Path) -> None:
    done = run("set_up_environment", PYTHON="/nowhere/python3.9", MTL_VENV=str(tmp_path / "venv"))
    assert done.returncode != 0
    assert "PYTHON=/nowhere/python3.9 is no Python of version 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()
