"""What a sweep shows: a line when a job starts and ends, and a table when all have."""

from __future__ import annotations

import shlex
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.table import Table

from mtl_cli.sweeps.job import Job, JobOutcome, job_outcome
from mtl_cli.sweeps.sweep_folder import SweepFolder
from mtl_cli.tracking.masking import mask_text
from mtl_cli.tracking.run_folder import RunFolder

_STYLES = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "yellow", "not started": "dim"}


class JobWatch:
    """Watches the run folders of the jobs that go on, whatever process or machine trains them.

    Args:
        errors: what is known of jobs that failed before they began.
        announce: print a line when a job starts or ends; not where jobs print for themselves.
    """

    def __init__(
        self, sweep: SweepFolder, errors: dict[str, str], *, announce: bool, poll_seconds: float = 1.0
    ) -> None:
        self._sweep = sweep
        self._errors = errors
        self._announce = announce
        self._poll_seconds = poll_seconds
        self._jobs: Sequence[Job] = ()
        self._seen: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> JobWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            self._look()

    def begin(self, jobs: Sequence[Job]) -> None:
        """Say what is going to be run, and watch it."""
        self._jobs = jobs
        outcomes = self._sweep.outcomes()
        done = sum(outcome.status == "finished" for outcome in outcomes)
        resumed = sum(outcome.can_be_resumed for outcome in outcomes)
        print(f"{len(self._sweep.jobs)} jobs in {self._sweep.path}", end="")
        print(f": {done} finished, {resumed} to go on with" if done or resumed else "", flush=True)
        for name, problem in self._errors.items():
            print(f"  {name} cannot run: {mask_text(problem)}", flush=True)
        # A run that goes on says "interrupted" or "running" until it has written anew: its start is not seen from here.
        self._seen = {o.job.name: o.status if o.status == "finished" else "" for o in outcomes}
        if self._announce:
            self._thread.start()

    def wait_for_running(self, seconds: float = 120.0) -> None:
        """Wait until no process trains in any of the folders, so that what is said of them is the last word."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(
            RunFolder(self._sweep.folder_of(job)).is_in_use() for job in self._jobs
        ):
            time.sleep(0.2)

    def _watch(self) -> None:
        while not self._over.wait(self._poll_seconds):
            self._look()

    def _look(self) -> None:
        for job in self._jobs:
            folder = self._sweep.folder_of(job)
            if self._seen.get(job.name) in ("finished", "failed"):
                continue
            outcome = job_outcome(job, folder)
            in_use = RunFolder(folder).is_in_use()
            state = "running" if in_use else outcome.status
            # What an earlier launch has left says nothing of this one; to be finished is new, however short it took.
            is_old = not in_use and not self._seen[job.name] and state != "finished"
            if state in (self._seen[job.name], "not started") or is_old:
                continue
            self._seen[job.name] = state
            print(self._line(outcome, state), flush=True)

    def _line(self, outcome: JobOutcome, state: str) -> str:
        ended = sum(status in ("finished", "failed") for status in self._seen.values())
        count = f"[{ended}/{len(self._sweep.jobs)}]"
        if state == "running":
            return f"{count} started   {outcome.job.name}"
        if state == "finished":
            score = "" if outcome.score is None else f"  score {outcome.score:.4f}"
            return f"{count} finished  {outcome.job.name}{score}  {outcome.seconds:,.0f} s"
        return f"{count} {state}  {outcome.job.name}  {mask_text(outcome.error or '')}".rstrip()


def outcome_table(outcomes: Sequence[JobOutcome]) -> Table:
    """Return a table of all jobs: status, score and time."""
    table = Table()
    table.add_column("job", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(
            outcome.job.name,
            f"[{_STYLES[outcome.status]}]{'finished before' if outcome.skipped else outcome.status}[/]",
            "" if outcome.score is None else f"{outcome.score:.4f}",
            f"{outcome.seconds:,.0f}" if outcome.seconds else "",
        )
    return table


def closing_lines(sweep: SweepFolder, outcomes: Sequence[JobOutcome]) -> list[str]:
    """Say how many jobs came to which end, and what to type next."""
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    said = [f"{counts[status]} {status}" for status in _STYLES if counts[status]]
    if skipped:
        said[0] += f" ({skipped} of them before)"
    lines = [f"{len(outcomes)} jobs: {', '.join(said)}"]
    failed: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.status == "failed":
            failed.setdefault(outcome.error or "no message", []).append(outcome.job.name)
    for error, names in failed.items():
        lines += [f"failed: {'; '.join(names)}", f"  {mask_text(error)}"]
    if counts["finished"] < len(outcomes):
        lines.append(f"go on with: mtl train -m sweep.resume={shlex.quote(str(sweep.path))}")
    if counts["finished"]:
        lines.append(f"compare:    mtl compare {shlex.quote(str(sweep.path))}")
    lines.append(str(sweep.path))
    return lines


def exit_code(outcomes: Sequence[JobOutcome], interrupted: KeyboardInterrupt | None) -> int:
    """Return 0 where every job is finished, 1 where one failed, and a signal's code after one."""
    if interrupted is not None:
        return int(getattr(interrupted, "exit_code", 130))
    return 0 if all(outcome.status == "finished" for outcome in outcomes) else 1
