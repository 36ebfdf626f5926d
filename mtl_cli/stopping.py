"""Ctrl-C and SIGTERM as a request that the loop answers at a safe point."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType

STOPS_WITH_PARENT = "MTL_STOPS_WITH_PARENT"
"""Set, by whoever starts a run in a process of its own and looks after it, to its process id."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint. Not an `Exception`: a sweep must stop, too."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `signal_number`; a second one acts as it did before.

    So do SIGUSR1 and SIGUSR2, by which a cluster warns of a job's end, unless somebody else has an answer to them.

    In a process that another one looks after (STOPS_WITH_PARENT) further ones are ignored: no person is impatient
    there, and both the other process and the system, when that one dies, may ask. Of several processes of one run
    (torchrun), further ones but SIGINT are ignored: a cluster and torchrun each pass on the same request.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._patient = STOPS_WITH_PARENT in os.environ
        self._one_of_several = os.environ.get("WORLD_SIZE", "1") != "1"
        self._former: dict[int, signal.Handlers | int | object] = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to the main thread alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)
            for name in ("SIGUSR1", "SIGUSR2"):
                warning = getattr(signal, name, None)
                if warning is not None and signal.getsignal(warning) is signal.SIG_DFL:
                    self._former[warning] = signal.signal(warning, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, former in self._former.items():
            ignores_all_but = (signal.SIGINT,) if self._one_of_several and not self._patient else ()
            ignore = (self._patient or self._one_of_several) and number not in ignores_all_but
            ignore = ignore and self.signal_number is not None
            signal.signal(number, signal.SIG_IGN if ignore else former)  # type: ignore[arg-type]
        self._former = {}


def stop_with_parent() -> None:
    """In a run that another process looks after: stop when that process dies, as if it had asked.

    The system sends SIGTERM then, where it can (Linux). The first SIGTERM interrupts whatever is going on
    (`StopRequest` turns it into a request while it is entered), and further ones are ignored. Signals of a cluster
    (SIGUSR1, SIGUSR2) are for the other process.
    """
    parent = os.environ.get(STOPS_WITH_PARENT)
    if parent is None:
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, interrupt)
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before
            os.kill(os.getpid(), signal.SIGTERM)
