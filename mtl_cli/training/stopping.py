"""Ctrl-C and SIGTERM as a request that the loop answers at a safe point."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint. Not an `Exception`: a sweep must stop, too."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `signal_number`; a second one acts as it did before."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._former: dict[int, signal.Handlers | int | object] = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to the main thread alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)  # type: ignore[arg-type]
        self._former = {}
