"""What a search has found: trials.csv, best.txt, search.html, and the table for a terminal."""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from mtl_cli.search.search_folder import Plan, SearchFolder
from mtl_cli.search.settings import directions
from mtl_cli.search.trials import Trial, best_trials, scores, trials_of
from mtl_cli.sweeps import sweep_name
from mtl_cli.tracking.json_files import write_text

if TYPE_CHECKING:
    import optuna

TRIALS_FILE, BEST_FILE, PAGE_FILE = "trials.csv", "best.txt", "search.html"
_SHORTEST_PAGE_SECONDS = 30.0
_ROWS_SHOWN = 10


def write_results(
    folder: SearchFolder, plan: Plan, storage: optuna.storages.BaseStorage, *, at_the_end: bool = False
) -> list[Trial]:
    """Write all result files and return the trials. Between trials the page is drawn every half minute at most."""
    from mtl_cli.search.storage import open_study

    with folder.claiming():
        trials = trials_of(open_study(storage), plan)
        write_text(folder.path / TRIALS_FILE, trials_table(trials, plan))
        write_text(folder.path / BEST_FILE, best_text(trials, plan))
        page = folder.path / PAGE_FILE
        if plan.settings.page and (
            at_the_end or not page.exists() or time.time() - page.stat().st_mtime > _SHORTEST_PAGE_SECONDS
        ):
            from mtl_cli.search.page import search_page

            write_text(page, search_page(trials, plan, f"search {sweep_name(folder.path)}"))
    return trials


def command_line(trial: Trial, plan: Plan) -> str:
    """Return the words that train this trial again, quoted for a shell."""
    return shlex.join(["mtl", "train", *plan.config_arguments, *trial.overrides])


def best_text(trials: Sequence[Trial], plan: Plan) -> str:
    """Return the command of the best trial, or of each on the Pareto front, below a comment with its scores."""
    best = best_trials(trials, plan.settings.objectives)
    if not best:
        return "# no trial has finished yet\n"
    return "".join(
        f"# {trial.name}: {scores(trial, plan.settings.objectives)}\n{command_line(trial, plan)}\n" for trial in best
    )


def trials_table(trials: Sequence[Trial], plan: Plan) -> str:
    """Return all trials as CSV: a row each, in the order in which they began."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    objectives = plan.settings.objectives
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", *objectives, *keys, "evaluations", "pruned_at_step", "seconds", "error"])
    for trial in trials:
        writer.writerow(
            [
                trial.name,
                trial.state,
                *(trial.values or [""] * len(objectives)),
                *(trial.settings.get(key, "") for key in keys),
                len(trial.evaluations) if len(objectives) == 1 else "",
                "" if trial.pruned_at_step is None else trial.pruned_at_step,
                "" if trial.seconds is None else f"{trial.seconds:.1f}",
                trial.error or "",
            ]
        )
    return stream.getvalue()


def in_order(trials: Sequence[Trial], objectives: list[str]) -> list[Trial]:
    """Sort trials: the best, the other finished ones by the first objective, pruned, unfinished, failed ones."""
    best = {trial.number: place for place, trial in enumerate(best_trials(trials, objectives))}
    sign = 1.0 if directions(objectives)[0] == "minimize" else -1.0
    states = {"finished": 0, "pruned": 1, "unfinished": 2, "failed": 3}

    def key(trial: Trial) -> tuple[float, float, float, int]:
        if trial.values is not None:
            return (0, best.get(trial.number, len(best)), sign * trial.values[0], trial.number)
        last = list(trial.evaluations.values())[-1] if trial.evaluations else 0.0
        return (states[trial.state], 0, sign * last, trial.number)

    return sorted(trials, key=key)


def rich_table(trials: Sequence[Trial], plan: Plan) -> Table:
    """Return the best trials, and how many there are besides."""
    objectives = plan.settings.objectives
    shown = in_order(trials, objectives)[:_ROWS_SHOWN]
    keys = list(dict.fromkeys(key for trial in shown for key in trial.settings))
    best = {trial.number for trial in best_trials(trials, objectives)}
    more = len(trials) - len(shown)
    table = Table(caption=f"{more} more in {TRIALS_FILE}" if more > 0 else None, caption_justify="left")
    table.add_column("trial", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for objective in objectives:
        table.add_column(objective, justify="right", no_wrap=True)
    for heading in short_names(keys):
        table.add_column(heading, overflow="fold")
    for trial in shown:
        table.add_row(
            trial.name,
            trial.state,
            *values_said(trial, objectives),
            *(_short(trial.settings.get(key, "")) for key in keys),
            style="bold green" if trial.number in best else "dim" if trial.state != "finished" else None,
        )
    return table


def values_said(trial: Trial, objectives: list[str]) -> list[str]:
    """Return the objectives of a trial in words; of a pruned one the last evaluation, in brackets."""
    if trial.values is not None:
        return [f"{value:.4f}" for value in trial.values]
    last = list(trial.evaluations.values())[-1:] if len(objectives) == 1 else []
    return [f"({last[0]:.4f})"] if last else [""] * len(objectives)


def short_names(keys: Sequence[str]) -> list[str]:
    """Return of each dotted key as many of its last parts as tell it from the others: lr for optimizer.lr."""

    def end(key: str, count: int) -> str:
        return ".".join(key.split(".")[-count:])

    names = []
    for key in keys:
        counts = range(1, key.count(".") + 2)
        names.append(next((end(key, n) for n in counts if sum(end(k, n) == end(key, n) for k in keys) == 1), key))
    return names


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
