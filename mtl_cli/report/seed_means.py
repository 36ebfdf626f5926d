"""Means over runs that differ in nothing but the seed, and why others are not averaged."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from mtl_cli.report.group_labels import group_labels
from mtl_cli.report.run_records import RunRecord, differing_settings, same_but_for_seed

LEVEL = 0.95


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds and its interval.

    Attributes:
        mean: arithmetic mean.
        low: lower end of the interval for the mean; None with one seed, of which no spread is known.
        high: its upper end.
        n: seeds that had a value.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Return the mean of n values and the 95 % interval of Student (1908): mean ± t(0.975, n - 1) s / √n.

    s is the sample standard deviation (divisor n - 1). The interval takes the seeds' scores as independent and about
    normally distributed, which with few seeds is an assumption, not an observation.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"a mean needs finite values, found {list(values)}")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return SeedMean(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return SeedMean(mean, mean - half, mean + half, n)


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
    means: dict[str, SeedMean]
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
    # What was run twice with one seed is no second draw: on one machine the two are equal to the bit.
    newest = {seed_of(run): run for run in sorted(finished, key=lambda run: run.created)}
    counted = [run for run in finished if newest[seed_of(run)] is run]
    notes = []
    if len(finished) > len(counted):
        again = [run.name for run in finished if newest[seed_of(run)] is not run]
        notes.append(f"not counted, since a newer run has the same seed: {', '.join(again)}")
    if len(runs) > len(finished):
        open_runs = [f"{run.name} ({run.status})" for run in runs if run.status != "finished"]
        notes.append(f"not counted, since not finished: {', '.join(open_runs)}")
    means: dict[str, SeedMean] = {}
    for name in dict.fromkeys(name for run in counted for name in run.metrics):
        values = [run.metrics[name] for run in counted if math.isfinite(run.metrics.get(name, math.nan))]
        if values:
            means[name] = seed_mean(values)
        if len(values) < len(counted):
            notes.append(f"{name}: {len(counted) - len(values)} of {len(counted)} runs have no finite value")
    return SeedGroup(label, settings, runs, counted, means, notes)


def seed_of(run: RunRecord) -> str:
    """Return the seed as text; runs that name none count as one each."""
    return json.dumps(run.settings.get("seed", f"of {run.path}"), default=str)


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
            keys = [key for key in differing_settings(runs) if key != "seed"]
            differences = {key: [run.settings.get(key) for run in runs] for key in keys}
            said = ",".join(word for word in typed if word not in typed_by_all)
            found.setdefault(tuple(labels), Refusal(said or "mtl train", labels, differences))
    return list(found.values())


def _typed(run: RunRecord) -> tuple[str, ...]:
    """What a person called the run, the seed left out: the name of the job of a sweep, or the command line."""
    words = _words(run.path.name) if "=" in run.path.name else sorted(map(_word, run.overrides))
    of_no_matter = ("seed=", "hydra.", "logger=", "loggers.", "cache_dir=")
    return tuple(word for word in words if not word.startswith(of_no_matter))


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
