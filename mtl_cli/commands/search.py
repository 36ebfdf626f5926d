"""`mtl search`: try values of settings, learn from each trial which to try next, and say which were best."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mtl_cli.errors import UserError
from mtl_cli.search.claims import FAILURES_IN_A_ROW, max_trials
from mtl_cli.search.coordinator import Session, is_hopeless
from mtl_cli.search.results import BEST_FILE, PAGE_FILE, TRIALS_FILE, best_text, rich_table, write_results
from mtl_cli.search.search_folder import Plan, SearchFolder
from mtl_cli.search.storage import begin_study, open_storage, open_study
from mtl_cli.search.trials import Trial, trials_of
from mtl_cli.search.worker import WorkerOptions

_WIDTH_OF_FILES = 160


def search(plan: Plan, path: Path) -> int:
    """Search as the plan says, in a new folder; return the exit code."""
    folder = SearchFolder(path)
    if folder.plan_file.exists():
        raise UserError(
            f"{path} holds a search already. Go on with it by search.resume={path}, or choose another folder."
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_plan(plan)
    folder.write_jobs(plan, [])
    begin_study(open_storage(folder), plan)
    return _work(folder, plan, _shown(path))


def resume_search(path: Path, changes: Mapping[str, Any]) -> int:
    """Go on with a search, or help with one that goes on; return the exit code.

    Args:
        path: its folder.
        changes: of its settings: trials, workers, timeout_seconds.
    """
    folder = SearchFolder(path)
    plan = folder.read_plan()
    with folder.claiming():
        plan = replace(plan, settings=replace(plan.settings, **changes))
        folder.write_plan(plan)
    return _work(folder, plan, _shown(path))


def _work(folder: SearchFolder, plan: Plan, shown_path: Path) -> int:
    storage = open_storage(folder)
    before = trials_of(open_study(storage), plan)
    _say_what_begins(plan, before, shown_path)
    timeout = plan.settings.timeout_seconds
    options = WorkerOptions(
        num_workers=plan.settings.workers,
        since=len(before),
        deadline=None if timeout is None else time.time() + timeout,
    )
    session = Session(folder, options, _working_folder(plan))
    codes = session.run()
    plan = folder.read_plan()  # whoever helped may have asked for more trials
    trials = write_results(folder, plan, storage, at_the_end=True)
    if is_hopeless(codes):
        errors = [trial.error for trial in trials[len(before) :] if trial.error]
        raise UserError(
            f"the first {FAILURES_IN_A_ROW} trials have all failed, so that the search was stopped. {errors[0]} "
            f"(see console.txt in {folder.trial_folder(len(before))})"
        )
    _show(trials, plan)
    return _end(trials, plan, shown_path, codes, session.signal_number)


def _shown(path: Path) -> Path:
    """A path as a person would type it from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _working_folder(plan: Plan) -> Path:
    """Relative paths of the overrides count from where the search was started."""
    folder = Path(plan.working_folder)
    if folder.is_dir():
        return folder
    print(
        f"warning: the search was started in {folder}, which is not there; relative paths count from here", flush=True
    )
    return Path.cwd()


def _say_what_begins(plan: Plan, before: list[Trial], path: Path) -> None:
    settings = plan.settings
    number = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
    print(f"search in {path}: {max_trials(plan)} trials, {number}, {settings.sampler}, pruner {settings.chosen_pruner}")
    if before:
        ended = sum(trial.state != "unfinished" for trial in before)
        print(f"trials so far: {ended} have ended, {len(before) - ended} go on, here or where they are at work")
    sys.stdout.flush()


def _show(trials: list[Trial], plan: Plan) -> None:
    print()
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    console.print(rich_table(trials, plan))
    several = len(plan.settings.objectives) > 1
    print("\nthe Pareto front, to paste:" if several else "\nthe best trial, to paste:")
    print(best_text(trials, plan))


def _end(trials: list[Trial], plan: Plan, path: Path, codes: list[int], signal_number: int | None) -> int:
    """Say how it ended and what to type next; return the exit code."""
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed:
        print(f"{len(failed)} of {len(trials)} trials failed; {failed[0].name}: {failed[0].error}")
    finished = any(trial.state == "finished" for trial in trials)
    left = max_trials(plan) - sum(trial.state != "unfinished" for trial in trials)
    if left > 0:
        print(f"{left} trials are left; go on with: mtl search search.resume={shlex.quote(str(path))}")
    if finished:
        shown = [TRIALS_FILE, BEST_FILE, *([PAGE_FILE] if plan.settings.page else [])]
        print(f"results: {', '.join(str(path / name) for name in shown)}")
        print(f"compare: mtl compare {shlex.quote(str(path))}")
    print(path, flush=True)
    if signal_number is not None:
        return 128 + int(signal.Signals(signal_number))
    return 0 if finished and not any(codes) else 1
