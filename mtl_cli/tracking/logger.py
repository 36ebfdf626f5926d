"""What the trainer tells a dashboard, and nothing that it needs back."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtl_cli.tracking.results import Status


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logger needs to know of a run when it starts.

    Attributes:
        folder: the run folder; a logger writes only below it.
        name: what to call the run where the logger's own settings give no name.
        group: the sweep, study or search that the run belongs to, where the logger's own settings give no group.
        config: the resolved configuration as plain containers.
        tasks: names of the tasks.
        initial_step: the step of the checkpoint that the run continues from, 0 for a new run. Everything of later
            steps is logged again.
        replaces: whether what the dashboard may have of this run is to be replaced, not continued.
    """

    folder: Path
    name: str
    group: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    initial_step: int = 0
    replaces: bool = False


class RunLogger(ABC):  # noqa: B024 - every hook has a default: a logger implements what its dashboard can show
    """Base of all loggers. Each method may be left out, and may raise: `Loggers` sees to it that a run goes on.

    Names of metrics are those of metrics.jsonl: `train/loss/<task>`, `validation/<task>/accuracy`.
    """

    def start(self, run: RunInfo) -> None:  # noqa: B027
        """Open the dashboard's run; called once, before anything else."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:  # noqa: B027
        """Record values measured after `step` optimizer updates; several calls may share a step."""

    def log_confusion_matrix(self, task: str, split: str, labels: Sequence[str], matrix: np.ndarray) -> None:  # noqa: B027
        """Record counts, shape (C, C): row = label in the data, column = prediction."""

    def log_predictions(self, task: str, split: str, records: Iterable[Mapping[str, Any]]) -> None:  # noqa: B027
        """Record predictions as in predictions/<task>.<split>.jsonl; a logger takes as many as it shows."""

    def finish(self, summary: Mapping[str, Any], status: Status) -> None:  # noqa: B027
        """Record the final figures and close. Called once, also after an error or an interruption."""


class NoLogger(RunLogger):
    """Sends nothing anywhere; metrics.jsonl is written all the same."""


_LOWER_IS_BETTER = frozenset({"loss", "mse"})


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric (`validation/stsb/mse` or `mse`) is the better one."""
    return metric.rsplit("/", 1)[-1] in _LOWER_IS_BETTER


def is_better(metric: str, value: float, than: float | None) -> bool:
    """Whether `value` improves on `than` (None or NaN: any number does)."""
    if not np.isfinite(value):
        return False
    if than is None or np.isnan(than):
        return True
    return value < than if lower_is_better(metric) else value > than
