"""Any number of loggers at once, none of which can stop a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from mtl_cli.tracking.logger import RunInfo, RunLogger
from mtl_cli.tracking.masking import mask_text
from mtl_cli.tracking.results import Status

_log = logging.getLogger(__name__)

_MOST_PREDICTIONS = 1000


class Loggers(RunLogger):
    """Passes every call on to each logger. One that raises is switched off, with one warning that says why.

    A dashboard is worth less than the run it shows; what it would have shown is in the run folder.
    """

    def __init__(self, loggers: Iterable[RunLogger] = ()) -> None:
        self._active = list(loggers)
        self._failed: list[RunLogger] = []

    @property
    def active(self) -> tuple[RunLogger, ...]:
        """The loggers that still work."""
        return tuple(self._active)

    def start(self, run: RunInfo) -> None:
        """Start every logger."""
        self._each("start", lambda logger: logger.start(run))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values measured after `step` updates."""
        self._each("log", lambda logger: logger.log(metrics, step))

    def log_confusion_matrix(self, task: str, split: str, labels: Sequence[str], matrix: np.ndarray) -> None:
        """Record counts, shape (C, C): row = label in the data, column = prediction."""
        self._each("log_confusion_matrix", lambda logger: logger.log_confusion_matrix(task, split, labels, matrix))

    def log_predictions(self, task: str, split: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Record predictions; the first 1,000 are offered, since an iterator serves only one logger."""
        if self._active:
            shown = list(islice(records, _MOST_PREDICTIONS))
            self._each("log_predictions", lambda logger: logger.log_predictions(task, split, shown))

    def finish(self, summary: Mapping[str, Any], status: Status) -> None:
        """Close every logger, also those that were switched off: they may hold files or processes."""
        self._each("finish", lambda logger: logger.finish(summary, status))
        for logger in self._failed:
            with suppress(Exception):
                logger.finish(summary, status)
        self._active.clear()
        self._failed.clear()

    def _each(self, action: str, call: Callable[[RunLogger], None]) -> None:
        for logger in tuple(self._active):
            try:
                call(logger)
            except Exception as error:  # whatever a dashboard's library raises
                self._active.remove(logger)
                if action != "finish":
                    self._failed.append(logger)
                reason = mask_text(str(error).strip() or "no message")
                _log.warning(
                    "%s is switched off for this run: %s failed with %s: %s. Everything it would have shown is in the "
                    "run folder.",
                    type(logger).__name__,
                    action,
                    type(error).__name__,
                    reason,
                )
                _log.debug("The error in full:", exc_info=error)
