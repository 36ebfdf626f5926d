"""Means over runs that differ in nothing but the seed, and why others are not averaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mtl_cli.report.differing_settings import SEED, is_of_no_matter
from mtl_cli.report.group_labels import group_labels
from mtl_cli.report.run_records import RunRecord, differing_settings, same_but_for_seed
from mtl_cli.report.seed_averages import Average, mean_of, one_a_seed


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: what tells them from the other groups, in short.
        settings: the same as setting -> value; a setting that the group lacks is missing.
        runs: all of them, whatever their state.
        counted: those that are averaged: finished, each seed once.
        means: metric -> mean over `counted`.
        notes: why runs are not counted, values missing.
    """

    label: str
    settings: dict[str, Any]
    runs: list[RunRecord]
    counted: list[RunRecord]
    means: dict[str, Average]
    notes: list[str]


@dataclass(frozen=True)
class Refusal:
    """Groups that were typed alike but differ in fixed settings, so that no mean over all of them is formed.

    Attributes:
        typed: what they have in common: their name, or what was given on the command line; without what all runs have.
        labels: of the groups.
        differences: setting -> its values, in the order of the groups; None where a group lacks it.
    """

    typed: str
    labels: list[str]
    differences: dict[str, list[Any]] = field(default_factory=dict)


def seed_groups(runs: Sequence[RunRecord]) -> list[SeedGroup]:
    """Return the groups of `same_but_for_seed`, each with the means of its finished runs."""
    found = same_but_for_seed(runs)
    settings = [{key: json.loads(text) for key, text in pairs if text} for pairs in found]
    labels = group_labels(settings)
    if len(runs) == 1 and labels:
        labels = [runs[0].name]
    return [_group(*parts) for parts in zip(labels, settings, found.values(), strict=True)]


def _group(label: str, settings: dict[str, Any], runs: list[RunRecord]) -> SeedGroup:
    finished = [run for run in runs if run.status == "finished"]
    counted, repeated = one_a_seed(finished)
    notes = []
    if repeated:
        again = ", ".join(run.name for run in repeated)
        notes.append(f"not counted, since a newer run has the same seed: {again}")
    if len(runs) > len(finished):
        open_runs = [f"{run.name} ({run.status})" for run in runs if run.status != "finished"]
        notes.append(f"not counted, since not finished: {', '.join(open_runs)}")
    means: dict[str, Average] = {}
    for name in dict.fromkeys(name for run in counted for name in run.metrics):
        mean = mean_of([run.metrics[name] for run in counted if name in run.metrics])
        if mean is not None:
            means[name] = mean
        if (missing := len(counted) - (0 if mean is None else mean.n)) > 0:
            notes.append(f"{name}: {missing} of {len(counted)} runs have no finite value")
    return SeedGroup(label, settings, runs, counted, means, notes)


def refusals(groups: Sequence[SeedGroup]) -> list[Refusal]:
    """Return the groups that look like repetitions of one another and are not."""
    alike: dict[tuple[str, ...], list[SeedGroup]] = {}
    for group in groups:
        for typed in dict.fromkeys(_typed(run) for run in group.runs):
            alike.setdefault(typed, []).append(group)
    given = [set(map(_word, run.overrides)) for group in groups for run in group.runs if run.overrides]
    typed_by_all = set.intersection(*given) if given else set()
    found: dict[tuple[str, ...], Refusal] = {}
    for typed, several in alike.items():
        if len(several) > 1:
            labels = [group.label for group in several]
            runs = [group.runs[0] for group in several]
            keys = [key for key in differing_settings(runs) if key != SEED]
            differences = {key: [run.settings.get(key) for run in runs] for key in keys}
            said = ",".join(word for word in typed if word not in typed_by_all)
            found.setdefault(tuple(labels), Refusal(said or "mtl train", labels, differences))
    return list(found.values())


def _typed(run: RunRecord) -> tuple[str, ...]:
    """What a person called the run, the seed left out: the name of the job of a sweep, or the command line."""
    words = _words(run.path.name) if "=" in run.path.name else sorted(map(_word, run.overrides))
    keys = [word.lstrip("~").partition("=")[0] for word in words]
    return tuple(word for word, key in zip(words, keys, strict=True) if key != SEED and not is_of_no_matter(key))


def _word(override: str) -> str:
    return override.lstrip("+")


def _words(name: str) -> list[str]:
    """Split the name of a job at the commas between settings: "task=[a,b],seed=1" has two."""
    words: list[str] = []
    for part in name.split(","):
        if "=" in part or not words:
            words.append(part)
        else:
            words[-1] += f",{part}"
    return words
