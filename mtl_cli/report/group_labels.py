"""Short names for groups of runs, made of the settings that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtl_cli.report.fields import setting_text, short_labels


def group_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label a group: values alone where they are words and say enough, `key=value` else; each is unique."""
    keys = list(dict.fromkeys(key for group in settings for key in group))
    named = short_labels(keys)
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
