"""Locks that end with the process that holds them, and how one tells from afar whether a process still lives."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

SILENCE_SECONDS = 120.0
"""A worker of another machine that has given no sign of life for so long is taken for dead."""

_HEARTBEAT_SECONDS = 10.0


class JournalLock:
    """What Optuna's journal asks for before it writes. Its own locks outlive a killed process by half a minute."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Let go."""
        self._lock.release()


class TrialLock:
    """Held by the worker that runs a trial: a locked file that names the machine and is touched as a sign of life.

    On one machine the system tells who holds it: a killed worker lets go at once. A worker of another machine counts as
    living while its signs of life come, by the clock of the file system that both see.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)
        self._machine_file = path.with_suffix(".machine")
        self._last_sign = 0.0

    def acquire(self) -> bool:
        """Take the lock unless a living process has it; say whether it was taken."""
        if self._held_elsewhere():
            return False
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        self._machine_file.write_text(this_machine(), encoding="utf-8")
        return True

    def sign_of_life(self) -> None:
        """Touch the file, every ten seconds at most."""
        now = time.monotonic()
        if now - self._last_sign > _HEARTBEAT_SECONDS:
            self._last_sign = now
            os.utime(self._machine_file)

    def release(self) -> None:
        """Let go."""
        self._machine_file.unlink(missing_ok=True)
        self._lock.release()

    def _held_elsewhere(self) -> bool:
        try:
            machine = self._machine_file.read_text(encoding="utf-8")
            last_sign = self._machine_file.stat().st_mtime
        except FileNotFoundError:
            return False
        return machine != this_machine() and _now_on(self._path.parent) - last_sign < SILENCE_SECONDS


def this_machine() -> str:
    """Name this machine, and which of its starts this is where the system says so."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}".strip()


def _now_on(folder: Path) -> float:
    """The time by the clock of the folder's file system."""
    probe = folder / f".clock-{socket.gethostname()}-{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
