"""A clock of the baselines' epochs, which also counts what their batches hold."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from mtl_cli.bench.protocol import Measured, wait_for


class EpochClock:
    """Adds up the time of several epochs, and what their batches hold.

    Attributes:
        seconds: wall time between each `begin` and `end`.
        tokens: real tokens.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Begin at zero."""
        self.seconds = self._cpu_seconds = 0.0
        self.tokens = self._slots = self._rows = self._squares = 0

    def begin(self) -> None:
        """Start, once the device is idle."""
        wait_for(self.device)
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def end(self) -> None:
        """Stop, once the device is idle."""
        wait_for(self.device)
        self.seconds += time.perf_counter() - self._wall
        self._cpu_seconds += time.thread_time() - self._cpu

    def count(self, lengths: Sequence[int], slots: int) -> None:
        """Add a batch: the tokens of its rows, and the slots with padding."""
        self.tokens += sum(lengths)
        self._slots += slots
        self._rows += len(lengths)
        self._squares += sum(length * length for length in lengths)

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention: padded rows have it in both alike."""
        empty = 1 - self.tokens / max(self._slots, 1)
        return empty, empty

    def measured(self, updates: int) -> Measured:
        """Return all of it."""
        return Measured(self.seconds, self.tokens, self._cpu_seconds, self._rows, self._squares, updates)
