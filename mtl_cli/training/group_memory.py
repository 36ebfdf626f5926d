"""Memory that the control groups of this process leave it: what a container, or a cluster's job, may use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path


def bytes_left_in_groups(root: Path = Path("/")) -> float:
    """Return the least of limit minus use, of this process's control group and of all above it; infinity for no limit.

    Use leaves out files in memory that nobody has looked at lately: the kernel gives that memory back when asked. A
    limit holds for all groups below it. A job of SLURM, say, is several groups down, and each may have one. Groups of
    both versions are looked at, where they are mounted as systemd does it.

    Args:
        root: of the file system.
    """
    return min((limit - used for limit, used in _limits(root)), default=math.inf)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    for top, path, limit, used in _groups(root):
        # Of a container that does not know its place in the machine's groups, the topmost one is its own.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            try:  # without a limit it is the word max, or there is no file
                found = int((folder / limit).read_text("utf-8")), int((folder / used).read_text("utf-8"))
            except (OSError, ValueError):
                continue
            yield found[0], found[1] - _idle_files(folder)


def _idle_files(folder: Path) -> int:
    """Bytes of files in memory that nobody uses; of all groups below, too."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = dict(line.split(maxsplit=1) for line in lines if " " in line)
    # The first version's numbers without `total_` leave out the groups below.
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Where groups of memory are mounted, the path of this process's own one, and the names of its files."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield mounted, path, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            yield mounted / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes"
