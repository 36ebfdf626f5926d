"""What a run ran on: enough to judge whether two runs can be compared. Environment variables are never recorded."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from mtl_cli import __version__
from mtl_cli.tracking.masking import mask_command

_GIT_SECONDS = 5


def environment_record(
    *, command: Sequence[str] | None = None, project_folder: str | Path | None = None
) -> dict[str, Any]:
    """Return packages, Python, hardware, threads, the user's git commit and the command line.

    Args:
        command: the words of the command line; None: this process's. Secrets are masked.
        project_folder: whose git commit to record; None: the current folder.
    """
    import torch  # not at the top: reading a run folder does without it

    folder = Path(project_folder) if project_folder is not None else Path.cwd()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "mtl_version": __version__,
        "command": mask_command(sys.argv if command is None else command),
        "working_folder": str(Path.cwd()),
        "git": _git(folder),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "cpu": _cpu(),
        "threads": {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()},
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """Name -> version of everything installed: any of them may explain a difference."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name, version = _name_and_version(distribution)
        if name and version:  # a half-removed package has neither
            found[name] = version
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str | None, str | None]:
    """Read the two fields alone: the library parses all of each package's README with them, which takes a second."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    header = text.partition("\n\n")[0]
    fields = dict(re.findall(r"^(Name|Version):\s*(\S.*)$", header, re.MULTILINE))
    return fields.get("Name"), fields.get("Version")


def _cpu() -> dict[str, Any]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu_model() -> str:
    """`platform.processor()` is empty or just the architecture on Linux; the kernel knows the name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    import torch

    try:
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError):  # a driver that PyTorch cannot use
        return []
    return [
        {"name": gpu.name, "memory_bytes": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}"}
        for gpu in properties
    ]


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it; None without git or outside a repository."""
    commit = _run_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _run_git(folder: Path, *arguments: str) -> str | None:
    # Without optional locks, `git status` leaves the index alone: a run must not get into the way of the user's git.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
