"""What differs among runs, and which of them may be averaged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl_cli.report.run_record import RunRecord

# Where a run was computed, what it left behind and how it was shown: not what it computed.
_OF_NO_MATTER = frozenset(
    {"cache_dir", "resume", "dry_run", "debug", "allow_targets", "logger", "loggers"}
    | {f"trainer.{name}" for name in ("device", "keep_checkpoints", "checkpoint_every_steps", "log_every_steps")}
)
_PARTS_OF_NO_MATTER = ("loggers.", "hydra.", "hydra/")
SEED = "seed"

SettingsKey = tuple[tuple[str, str], ...]
"""Pairs of a setting and its value as JSON: what tells a group of runs from the others."""


def is_of_no_matter(key: str) -> bool:
    """Whether a setting, or a word of the command line, names but the place, what is left behind or the dashboard."""
    return key in _OF_NO_MATTER or key.startswith(_PARTS_OF_NO_MATTER)


def differing_settings(runs: Iterable[RunRecord]) -> list[str]:
    """Return the settings whose values differ among the runs, in the order of the configuration.

    Left out are settings of the place and the dashboard, and those that follow from another one: where the runs have
    different classes of `sharing`, "sharing" says so, and a setting that all runs of the same class agree in adds
    nothing. Runs without a configuration (broken ones) do not count.
    """
    runs = [run for run in runs if run.settings]
    texts = {key: [value_as_json(run.settings, key) for run in runs] for key in _differing(runs)}
    choices = {key for key in texts if _is_choice(key, runs)}
    return [key for key in texts if not _follows(key, texts) and not (key in choices and _same_inside(key, texts))]


def same_but_for_seed(runs: Iterable[RunRecord]) -> dict[SettingsKey, list[RunRecord]]:
    """Group runs that differ in nothing but the seed; only these may be averaged.

    The key of a group says what it has of `differing_settings(runs)`, the seed left out. Runs without a configuration
    (broken ones) belong to no group.
    """
    runs = [run for run in runs if run.settings]
    # Of two options with the same settings, one may have been typed and the other meant: settings decide.
    deciding = [key for key in _differing(runs) if key != SEED and not _is_choice(key, runs)]
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(value_as_json(run.settings, key) for key in deciding), []).append(run)
    shown = [key for key in differing_settings(runs) if key != SEED]
    return {tuple((key, value_as_json(group[0].settings, key)) for key in shown): group for group in groups.values()}


def value_as_json(settings: Mapping[str, Any], key: str) -> str:
    """Return a setting as text that is equal for equal values (1 and 1.0 are); "" where it is missing."""
    if key not in settings:
        return ""
    value = settings[key]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    """All keys whose values differ, those of the place and the dashboard left out."""
    first, *others = [run.settings for run in runs] or [{}]
    keys: dict[str, None] = dict.fromkeys(first)
    for settings in others:
        keys.update(dict.fromkeys(settings))
    return [
        key
        for key in keys
        if not is_of_no_matter(key)
        # Values of one type are compared as they are, which is most of the time of reading many runs.
        and any(
            key not in first
            or key not in settings
            or (settings[key] != first[key] and value_as_json(settings, key) != value_as_json(first, key))
            for settings in others
        )
    ]


def _is_choice(key: str, runs: Sequence[RunRecord]) -> bool:
    """Whether this is the name of a chosen option, which settings below it spell out."""
    return any(f"{key}._target_" in run.settings for run in runs)


def _same_inside(node: str, texts: Mapping[str, Sequence[str]]) -> bool:
    return not any(key.startswith(f"{node}.") for key in texts)


def _follows(key: str, texts: Mapping[str, Sequence[str]]) -> bool:
    """Whether a setting follows from the chosen option or the class of a node that it lies in."""
    parts = key.split(".")
    nodes = [".".join(parts[:end]) for end in range(1, len(parts))]
    deciders = [decider for node in nodes for decider in (node, f"{node}._target_") if decider in texts]
    return any(decider != key and _is_function(texts[decider], texts[key]) for decider in deciders)


def _is_function(arguments: Sequence[str], values: Sequence[str]) -> bool:
    """Whether equal arguments always have equal values."""
    return len(set(arguments)) == len(set(zip(arguments, values, strict=True)))
