"""Readable names for the jobs of a sweep, made of the overrides in which they differ."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from mtl_cli.tracking.masking import is_secret_name

_LONGEST = 120
_UNSAFE = re.compile(r"[^\w.+=,@-]+")


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Name each job by the overrides that not all jobs share: `sharing=hard,seed=1`.

    Of a key the last part stays where that is clear (`lr` of `optimizer.lr`), lists are joined by `+`, and of an
    option in a sub-folder the last part stays (`glue/rte` is `rte`) where that is clear. What a file name should not
    hold becomes a dash, long names end in a hash, and a name that comes twice gets a number. Secrets are left out.

    Args:
        jobs: the overrides of each job, `key=value`.
    """
    assigned = [dict(_parts(override) for override in job) for job in jobs]
    keys = list(dict.fromkeys(key for job in assigned for key in job if not is_secret_name(key)))
    differing = [key for key in keys if len({job.get(key) for job in assigned}) > 1]
    if not differing:
        # One job, or jobs that are all the same: what was asked for says most.
        differing = [key for key in keys if not key.startswith("hydra.")]
    short = _short_keys(differing)
    values = {value for job in assigned for value in job.values()}
    options = {option for value in values for option in _options(value)}
    shared_ends = _repeated([option.rpartition("/")[2] for option in options])
    names = []
    for job in assigned:
        said = [f"{short[key]}={_value(job[key], shared_ends)}" for key in differing if key in job]
        names.append(_safe(",".join(said)) or "run")
    return _unique(names)


def _parts(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Leave of each key its last parts, as many as tell it from the others."""
    short = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            end = ".".join(parts[-count:])
            if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
                break
        short[key] = end
    return short


def _options(value: str) -> list[str]:
    return [part.strip(" '\"") for part in value.strip("[]").split(",")]


def _repeated(names: Sequence[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def _value(value: str, shared_ends: set[str]) -> str:
    def short(option: str) -> str:
        end = option.rpartition("/")[2]
        return option if end in shared_ends or not end else end

    if value.startswith("[") and value.endswith("]"):
        return "+".join(map(short, _options(value)))
    return short(value.strip("'\""))


def _safe(name: str) -> str:
    safe = _UNSAFE.sub("-", name).strip("-.")
    if len(safe) > _LONGEST:
        safe = f"{safe[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


def _unique(names: list[str]) -> list[str]:
    taken: set[str] = set()
    unique = []
    for name in names:
        # Some file systems take Aa and aA for the same.
        candidate, number = name, 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique
