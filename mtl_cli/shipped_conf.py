"""Where the shipped configuration lies, and which options its groups have. Imports nothing of ours."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_TARGET = re.compile(r"^_target_: *(\S+)", re.MULTILINE)


def conf_dir() -> Path:
    """The shipped configuration: inside the installed package, or beside it in a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf"


@cache
def options_by_target(group: str) -> dict[str, list[str]]:
    """Return which options of a config group name each class: {"mtl_cli.sharing.HardSharing": ["hard"], ...}."""
    found: dict[str, list[str]] = {}
    folder = conf_dir() / group
    for file in sorted(folder.rglob("*.yaml")):
        if match := _TARGET.search(file.read_text(encoding="utf-8")):
            found.setdefault(match[1], []).append(file.relative_to(folder).with_suffix("").as_posix())
    return found
