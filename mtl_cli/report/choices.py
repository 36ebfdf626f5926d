"""Which option of each config group a run was made with, under a name that people know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_cli.shipped_conf import options_by_target

_CHOICE = re.compile(r"^\+{0,2}(?P<group>[A-Za-z_]\w*)=(?P<name>[\w./-]+)$")


def choices_of(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return group -> option for each part of a configuration that names a class, and "tasks" -> the tasks' names.

    The option is the one that was typed (`encoder=bert_base`); else the shipped one that names the class, where there
    is just one (`hard` for HardSharing); else the name of the class.
    """
    typed = {match["group"]: match["name"] for override in overrides if (match := _CHOICE.match(override))}
    replaced = {override.lstrip("+").partition("._target_=")[0] for override in overrides if "._target_=" in override}
    found: dict[str, Any] = {}
    for group, node in config.items():
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if isinstance(target, str):
            name = None if group in replaced else typed.get(group)
            found[group] = name or _name_of(group, target)
        elif group == "tasks" and isinstance(node, Mapping):
            found["tasks"] = [str(name) for name in node]
    return found


def _name_of(group: str, target: str) -> str:
    options = options_by_target(group).get(target, [])
    return options[0] if len(options) == 1 else class_name(target)


def class_name(target: str) -> str:
    """The class that a target names, in snake case: mtl_cli.encoders.HuggingFaceEncoder -> hugging_face_encoder."""
    name = target.rpartition(".")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
