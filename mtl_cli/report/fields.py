"""What can be named of a run in a comparison: its settings, metrics and costs, in full or for short."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mtl_cli.errors import UserError
from mtl_cli.report.differing_settings import differing_settings
from mtl_cli.report.run_record import RunRecord
from mtl_cli.tracking.results import Results

Kind = Literal["identity", "setting", "cost", "metric"]

_IDENTITY: dict[str, Callable[[RunRecord], Any]] = {
    "name": lambda run: run.name,
    "group": lambda run: run.group,
    "status": lambda run: run.status,
    "problem": lambda run: run.problem,
    "created": lambda run: run.created or None,
    "path": lambda run: str(run.path),
}
_COSTS: dict[str, Callable[[Results], float]] = {
    "steps": lambda results: results.training.steps,
    "seconds": lambda results: results.training.seconds,
    "tokens": lambda results: results.training.tokens,
    "tokens_per_second": lambda results: results.training.tokens_per_second,
    "peak_memory_bytes": lambda results: results.training.peak_memory_bytes,
    "parameters": lambda results: results.parameters.total,
    "shared_parameters": lambda results: results.parameters.shared,
    "task_specific_parameters": lambda results: results.parameters.task_specific,
}
COST = ("parameters", "tokens", "seconds", "tokens_per_second")
"""What `cost` stands for among columns."""
SCORE = "validation/score"
_ALIASES = {"score": SCORE, "task": "tasks"}
_SPLITS = ("validation/", "test/")


def value_of(run: RunRecord, key: str) -> Any:
    """Return what a run has under a full name; None where it has nothing."""
    if key in _IDENTITY:
        return _IDENTITY[key](run)
    if key in _COSTS:
        # results.json counts them at the end of a run only.
        return _COSTS[key](run.results) if run.results is not None and run.results.training.steps else None
    if key.startswith(_SPLITS):
        return run.metrics.get(key)
    return run.settings.get(key)


def kind_of(key: str) -> Kind:
    """Return what a full name names."""
    if key in _IDENTITY:
        return "identity"
    if key in _COSTS:
        return "cost"
    return "metric" if key.startswith(_SPLITS) else "setting"


class Fields:
    """The names that some runs know."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self._differing = differing_settings(runs)
        self.settings = list(dict.fromkeys(key for run in runs for key in run.settings))
        self.metrics = list(dict.fromkeys([SCORE, *(key for run in runs for key in run.metrics)]))
        self.all = list(dict.fromkeys([*_IDENTITY, *_COSTS, *self.metrics, *self.settings]))

    def resolve(self, name: str, where: str) -> str:
        """Return the full name behind one that may be short: `lr` is optimizer.lr, `sst2/f1` validation/sst2/f1.

        Args:
            name: what was typed.
            where: the setting it was typed in, for messages.

        Raises:
            UserError: no run knows the name, or it may mean several things.
        """
        known = _ALIASES.get(name, name)
        if known in self.all:
            return known
        found = [key for key in self.settings if _is_end(name, key, ".")]
        if len(found) > 1:  # the one that a table would show
            found = [key for key in found if key in self._differing] or found
        measured = [key for key in self.metrics if _is_end(name, key, "/")]
        found += [key for key in measured if key.startswith(_SPLITS[0])] or measured
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{where}: {name!r} may be {', '.join(found[:6])}{', ...' * (len(found) > 6)}; name one")
        raise UserError(f"{where}: no run has {name!r}{self._nearest(name)}")

    def _nearest(self, name: str) -> str:
        short = {key.replace("/", ".").rpartition(".")[2]: key for key in reversed(self.all)}
        near = difflib.get_close_matches(name, [*_ALIASES, *self.all], n=2, cutoff=0.6)
        near += [short[part] for part in difflib.get_close_matches(name, short, n=2, cutoff=0.6)]
        if near:
            return f"; did you mean {' or '.join(dict.fromkeys(near))}?"
        return f"; there are {', '.join([*_IDENTITY, *_COSTS, *self.metrics[:6]])}, and the settings of the runs"


def _is_end(name: str, key: str, separator: str) -> bool:
    return key.endswith((f"{separator}{name}", f"{separator}{name}._target_"))


def short_labels(keys: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Return key -> the last parts of it that tell it from the others: optimizer.lr -> lr."""
    parts = {key: key.removesuffix("._target_").split(".") for key in keys}
    lengths = dict.fromkeys(parts, 1)
    while True:
        labels = {key: ".".join(parts[key][-length:]) for key, length in lengths.items()}
        used = [*labels.values(), *taken]
        grow = [key for key, label in labels.items() if used.count(label) > 1 and lengths[key] < len(parts[key])]
        if not grow:
            return labels
        for key in grow:
            lengths[key] += 1


def metric_labels(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> metric without its split, where all are of one split: validation/sst2/f1 -> sst2/f1."""
    splits = {key.partition("/")[0] for key in keys}
    plain = {key: key.partition("/")[2] if len(splits) == 1 else key for key in keys}
    return {key: "score" if key == SCORE else label for key, label in plain.items()}


def setting_text(value: Any) -> str:
    """Return a setting as a person would type it, in tables and on the page; of a class's path only the class."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("mtl_cli.") else value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(setting_text, value))}]"
    return json.dumps(value, default=str)
