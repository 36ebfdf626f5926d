"""A job in a process of its own: what stops it stops no other job, and its memory is given back when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from mtl_cli.quoting import quoted
from mtl_cli.stopping import STOPS_WITH_PARENT
from mtl_cli.sweeps.job import Job, JobOutcome, job_outcome
from mtl_cli.tracking.run_folder import RunFolder

_CONSOLE = "console.txt"


def run_job_process(
    job: Job,
    folder: Path,
    *,
    config_arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    console: Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    poll_seconds: float = 0.2,
) -> JobOutcome:
    """Run `mtl train` for one job in a process of its own and wait for it.

    A folder that holds an unfinished run is resumed, a finished one is not run again. Whatever ends the wait early (an
    exception, Ctrl-C, a signal's handler) asks the process to stop first: training writes a checkpoint and ends. So do
    the signals by which a cluster warns (SIGUSR1, SIGUSR2): whoever handles them, and sends the job back into the
    queue, hears of them once the checkpoint is written.

    Args:
        job: what to train.
        folder: the run folder.
        config_arguments: words of the command line for all jobs, such as --config-dir DIR.
        environment: variables to set besides those of this process.
        console: where the job's output goes, appended; None: console.txt in the run folder.
        should_stop: asked again and again; once it says yes, the process is asked to stop.
        poll_seconds: how often it is asked.
    """
    before = job_outcome(job, folder)
    if before.status == "finished":
        return before
    if before.can_be_resumed:
        # A run's own configuration may not allow what it runs: that is said on the command line, each time.
        allowed = [override for override in job.overrides if override.startswith("allow_targets=")]
        arguments = [f"resume={quoted(str(folder))}", *allowed]
    else:
        arguments = [*config_arguments, *job.overrides, f"hydra.run.dir={quoted(str(folder))}"]
    console = folder / _CONSOLE if console is None else console
    console.parent.mkdir(parents=True, exist_ok=True)
    written_before = console.stat().st_size if console.exists() else 0
    with (
        console.open("ab") as stream,
        _started(arguments, environment, stream) as process,
        _warnings_received() as received,
    ):
        while process.poll() is None:
            if should_stop is not None and should_stop():
                _ask_to_stop(process)
                should_stop = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(poll_seconds)
            if received:
                _ask_to_stop(process)
                process.wait()
                number, handler = received.pop()
                handler(number, None)
    error = _error_of(process.returncode, console, written_before)
    if error is not None:
        _write_down(error, folder)
    return job_outcome(job, folder, error)


_Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def _warnings_received() -> Iterator[list[tuple[int, _Handler]]]:
    """Keep the signals by which a cluster warns, with the handlers that wait for them, until they are asked for."""
    received: list[tuple[int, _Handler]] = []
    former: dict[int, _Handler] = {}

    def receive(number: int, frame: FrameType | None) -> None:
        received.append((number, former[number]))

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGUSR1", "SIGUSR2"):
            number = getattr(signal, name, None)
            handler = signal.getsignal(number) if number is not None else None
            if number is not None and callable(handler):
                former[number] = handler
                signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _started(
    arguments: Sequence[str], environment: Mapping[str, str] | None, console: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A job's process, which is over when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mtl_cli", "train", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {}), STOPS_WITH_PARENT: str(os.getpid())},
        # A terminal's Ctrl-C and a cluster's signals reach whoever waits here, who passes on what they mean.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _ask_to_stop(process)
            process.wait()


def _write_down(error: str, folder: Path) -> None:
    """Say in results.json what ended a run that could not say so itself, such as one that was killed."""
    run = RunFolder(folder)
    if not run.results_file.is_file():
        return
    results = run.read_results()
    if results.status == "running":
        results.status, results.error = "failed", error
        run.write_results(results)


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)


def _error_of(code: int, console: Path, written_before: int) -> str | None:
    """Say what ended a process that neither finished nor was asked to stop."""
    if code in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM):
        return None
    with console.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(written_before)
        said = [line.strip() for line in stream if line.strip()]
    errors = [i for i, line in enumerate(said) if line.startswith("error: ")]
    if errors:
        # Of an error in several lines, such as those of a configuration, the first cause says most.
        lines = [line.removeprefix("error: ").lstrip("- ") for line in said[errors[-1] : errors[-1] + 2]]
        return " ".join(lines) if lines[0].endswith(":") else lines[0]
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": out of memory?" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit code {code}" + (f": {said[-1]}" if said else "")
