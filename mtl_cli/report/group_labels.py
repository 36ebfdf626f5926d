"""Short names for groups of runs, made of the settings that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def group_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label a group: values alone where they are words and say enough, `key=value` else; each is unique."""
    keys = list(dict.fromkeys(key for group in settings for key in group))
    named = {key: short_key(key, keys) for key in keys}
    short = [_label(group, keys, named, bare_words=True) for group in settings]
    if len(set(short)) < len(short):
        short = [_label(group, keys, named, bare_words=False) for group in settings]
    return short


def _label(group: Mapping[str, Any], keys: Sequence[str], named: Mapping[str, str], bare_words: bool) -> str:
    parts = []
    for key in keys:
        if key in group:
            value = setting_text(group[key])
            is_word = bare_words and "." not in key and isinstance(group[key], str)
            parts.append(value if is_word else f"{named[key]}={value}")
        elif not bare_words:
            parts.append(f"{named[key]} not set")
    return ", ".join(parts) or "all runs"


def short_key(key: str, among: Sequence[str]) -> str:
    """Return the shortest end of a dotted key that no other one of `among` has: optimizer.lr -> lr."""
    parts = key.removesuffix("._target_").split(".")
    others = [other.removesuffix("._target_").split(".") for other in among if other != key]
    for length in range(1, len(parts) + 1):
        if all(other[-length:] != parts[-length:] for other in others):
            return ".".join(parts[-length:])
    return key


def setting_text(value: Any) -> str:
    """Return a setting as a person would type it; of a class's path only the class."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("mtl_cli.") else value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{','.join(map(setting_text, value))}]"
    return json.dumps(value, default=str)
