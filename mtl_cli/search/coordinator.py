"""Starts the workers of one session, passes on Ctrl-C and SIGTERM to them, and waits until they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mtl_cli.search.search_folder import SearchFolder
from mtl_cli.search.worker import EXIT_HOPELESS, WorkerOptions
from mtl_cli.stopping import STOPS_WITH_PARENT, StopRequest

_POLL_SECONDS = 0.1


class Session:
    """The workers that one `mtl search` starts on this machine."""

    def __init__(self, folder: SearchFolder, options: WorkerOptions, working_folder: Path) -> None:
        self._stop = StopRequest()
        self._folder = folder
        self._options = options
        self._working_folder = working_folder
        self._mourned: set[int] = set()

    @property
    def signal_number(self) -> int | None:
        """The signal that stopped the session."""
        return self._stop.signal_number

    def run(self) -> list[int]:
        """Run all workers to their end; return their exit codes. A second Ctrl-C ends them at once."""
        # A worker that dies leaves its trial to the others; the last of them waits for all trials to end.
        workers: list[subprocess.Popen[bytes]] = []
        try:
            with self._stop:
                for _ in range(self._options.num_workers):
                    workers.append(self._start())
                asked = False
                while any(worker.poll() is None for worker in workers):
                    if self._stop and not asked:
                        asked = True
                        print("stopping: the trials that run write checkpoints", file=sys.stderr, flush=True)
                        _ask_to_stop(workers)
                    self._say_who_was_killed(workers)
                    time.sleep(_POLL_SECONDS)
        except BaseException:  # their runs notice that they are alone, write checkpoints and end
            for worker in workers:
                worker.kill()
            raise
        finally:
            for worker in workers:
                worker.wait()
        self._say_who_was_killed(workers)
        return [worker.returncode for worker in workers]

    def _say_who_was_killed(self, workers: list[subprocess.Popen[bytes]]) -> None:
        for worker in workers:
            asked_for = self._stop and worker.returncode == -signal.SIGTERM  # it had not come so far as to answer
            if (worker.returncode or 0) < 0 and not asked_for and worker.pid not in self._mourned:
                self._mourned.add(worker.pid)
                name = signal.Signals(-worker.returncode).name
                print(
                    f"warning: a worker was killed by {name}; the others go on with its trial, or resuming does",
                    file=sys.stderr,
                    flush=True,
                )

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "mtl_cli.search.worker", str(self._folder.path), self._options.to_argument()],
            stdin=subprocess.DEVNULL,
            cwd=self._working_folder,
            env={**os.environ, STOPS_WITH_PARENT: str(os.getpid())},
            # Ctrl-C reaches this process alone, which passes on what it means.
            start_new_session=True,
        )


def _ask_to_stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signal.SIGTERM)


def is_hopeless(codes: list[int]) -> bool:
    """Whether the workers gave up because the first trials all failed."""
    return EXIT_HOPELESS in codes
