"""Words of a command line that are no overrides, made into some: folders, conditions, `--to wandb`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtl_cli.overrides import FLAGS_WITH_VALUE
from mtl_cli.quoting import quoted, quoted_list


def folders_as_setting(arguments: Sequence[str], key: str = "runs") -> list[str]:
    """Put plain words, which name folders, into one setting at the end: a b -> runs=['a','b'].

    A word that names an existing folder is one even where it holds an equals sign, as folders of sweeps do.
    """
    folders: list[str] = []
    others: list[str] = []
    for word, is_plain in _words(arguments):
        (folders if is_plain and (Path(word).is_dir() or "=" not in word) else others).append(word)
    return [*others, f"{key}={quoted_list(folders)}"] if folders else others


def conditions_as_setting(arguments: Sequence[str], key: str = "where") -> list[str]:
    """Gather all where=CONDITION and where=[CONDITION,...] in one list that Hydra can read: conditions hold < and >."""
    conditions, others = [], []
    for word, is_plain in _words(arguments):
        if is_plain and word.startswith(f"{key}="):
            conditions += split_conditions(word.removeprefix(f"{key}="))
        else:
            others.append(word)
    return [*others, f"{key}={quoted_list(conditions)}"] if conditions else others


def texts_as_they_are(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Quote the values of settings that hold names and paths, so that they may hold what Hydra gives a meaning to."""
    found = []
    for word, is_plain in _words(arguments):
        key, _, value = word.partition("=")
        is_text = is_plain and key in keys and value.lower() not in ("", "null") and _unquoted(value) == value
        found.append(f"{key}={quoted(value)}" if is_text else word)
    return found


def options_as_settings(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Turn `--to wandb` and `--to=wandb` into to=wandb, for these names."""
    found: list[str] = []
    waiting: str | None = None
    for word in arguments:
        name, equals, value = word.partition("=")
        if waiting is not None:
            found.append(f"{waiting}={word}")
            waiting = None
        elif name.startswith("--") and name[2:] in names:
            if equals:
                found.append(f"{name[2:]}={value}")
            else:
                waiting = name[2:]
        else:
            found.append(word)
    return [*found, f"{waiting}=null"] if waiting is not None else found


def composing_words(arguments: Sequence[str], own: Sequence[str]) -> list[str]:
    """Leave out assignments to a command's own keys (`of=...`, `bench.rounds=...`): what is left composes a run."""

    def is_own(word: str) -> bool:
        return word.partition("=")[0].lstrip("+~").partition(".")[0] in own

    return [word for word, is_plain in _words(arguments) if not (is_plain and is_own(word))]


def split_conditions(text: str) -> list[str]:
    """Cut [a=1,b=[x,y]] into a=1 and b=[x,y]; what is no list is one condition. Quotes around a condition go."""
    text = text.strip()
    parts = _split(text[1:-1]) if text.startswith("[") and text.endswith("]") else [text]
    bare = [_unquoted(part.strip()) for part in parts]
    return [part for part in bare if part]


def _split(text: str) -> list[str]:
    """Cut at commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[]":
            depth += 1 if character == "[" else -1
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _words(arguments: Sequence[str]) -> list[tuple[str, bool]]:
    """Each word, and whether it is neither a flag of Hydra's nor the value of one."""
    found = []
    follows_flag = False
    for word in arguments:
        found.append((word, not follows_flag and not word.startswith("-")))
        follows_flag = word in FLAGS_WITH_VALUE
    return found
