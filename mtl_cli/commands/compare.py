"""`mtl compare`: runs side by side, on the terminal, as a page of HTML, or in a file."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from mtl_cli.check_config import check_settings
from mtl_cli.errors import UserError
from mtl_cli.report.columns import ComparisonSettings
from mtl_cli.report.comparison import Comparison, compare_runs
from mtl_cli.report.jobs_not_begun import jobs_not_begun
from mtl_cli.report.run_records import RunRecord, read_runs
from mtl_cli.report.table_formats import as_csv, as_json, as_latex, as_markdown, printable
from mtl_cli.report.terminal_table import terminal_table
from mtl_cli.tracking.json_files import write_text

_USUAL_FOLDERS = ("outputs", "multirun")
_USUAL_PAGE = "compare.html"
_ROWS_ON_A_TERMINAL = 50
_MOST_PROBLEMS = 5
_FORMATS: dict[str, Callable[[Comparison], str]] = {
    "csv": as_csv,
    "json": as_json,
    "markdown": as_markdown,
    "latex": as_latex,
}


@dataclass(kw_only=True)
class CompareSettings(ComparisonSettings):
    """Settings of `mtl compare`, those of the comparison included.

    Args:
        runs: run folders, or folders with runs in them; None: outputs and multirun.
        format: table is for a terminal.
        output: the file to write to; None: the terminal.
        html: the page to write; auto: compare.html where a table is shown on the terminal; None: no page.
        baseline: name of the run that the page compares the others to.
        debug: show the traceback of an error.
    """

    runs: str | list[str] | None = None
    format: Literal["table", "csv", "json", "markdown", "latex"] = "table"
    output: str | None = None
    html: str | None = "auto"
    baseline: str | None = None
    debug: bool = False


def compare(config: Mapping[str, Any]) -> int:
    """Show runs side by side as `config` (conf/compare.yaml) says; return the exit code."""
    settings = check_settings(CompareSettings, config)
    folders = folders_of(settings.runs)
    output, html = _file("output", settings.output), _page_file(settings)
    runs = runs_in(folders)
    if settings.format == "table" and settings.limit is None and settings.output is None:
        settings = replace(settings, limit=_ROWS_ON_A_TERMINAL)
    comparison = compare_runs(runs, settings)
    if html is not None:
        _write("html", html, _page(comparison, _named(settings.baseline, comparison.runs)))
    if settings.format == "table":
        text = "" if output is None else _as_text(comparison, runs)
        if output is None:
            _show(Console(highlight=False, soft_wrap=True), comparison, runs)
    else:
        text = _FORMATS[settings.format](comparison)
        for line in _notes(comparison):  # apart from what another program reads
            print(line, file=sys.stderr)
        if output is None:
            sys.stdout.write(text)
    if output is not None:
        _write("output", output, text)
        print(output)
    if html is not None:
        print(html, file=sys.stdout if settings.format == "table" or output is not None else sys.stderr)
    return 0


def folders_of(runs: str | list[str] | None) -> list[Path]:
    """Return the folders that were named, or the usual ones.

    Raises:
        UserError: there is no such folder.
    """
    if runs is None or runs == []:
        found = [Path(name) for name in _USUAL_FOLDERS if Path(name).is_dir()]
        if not found:
            raise UserError(
                f"runs: no folder was named, and {Path.cwd()} has no {' and no '.join(_USUAL_FOLDERS)}; "
                "name some, such as `mtl compare my_runs`"
            )
        return found
    paths = [Path(name) for name in ([runs] if isinstance(runs, str) else runs)]
    missing = [
        f"runs: {str(path)!r} {'is a file, not a folder' if path.exists() else 'does not exist'}"
        for path in paths
        if not path.is_dir()
    ]
    if missing:
        raise UserError("\n".join([*missing, f"(looked from {Path.cwd()})"]))
    return paths


def runs_in(folders: Sequence[Path]) -> list[RunRecord]:
    """Read all runs in or below some folders.

    Raises:
        UserError: there are none.
    """
    runs = read_runs(folders)
    if not runs:
        raise UserError(
            f"runs: no run in or below {', '.join(map(str, folders))}; the folder of a run holds config.yaml, "
            "environment.json and results.json (docs/run_folder.md)"
        )
    return runs


def _file(key: str, name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if path.is_dir():
        raise UserError(f"{key}: found {name!r}, which is a folder; give the name of a file")
    return path


def _page_file(settings: CompareSettings) -> Path | None:
    if settings.html == "auto":
        return Path(_USUAL_PAGE) if settings.format == "table" and settings.output is None else None
    return _file("html", settings.html)


def _page(comparison: Comparison, baseline: RunRecord | None) -> str:
    from mtl_cli.report.compare_page import compare_page

    return compare_page(comparison.runs, baseline=baseline)


def _named(name: str | None, runs: Sequence[RunRecord]) -> RunRecord | None:
    if name is None:
        return None
    found = [run for run in runs if name in (run.name, str(run.path)) or Path(name).resolve() == run.path.resolve()]
    if not found:
        some = ", ".join(run.name for run in runs[:5]) + ", ..." * (len(runs) > 5)
        raise UserError(f"baseline: no run {name!r} among those compared; they are {some}")
    return found[0]


def _write(key: str, file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise UserError(f"{key}: {file} cannot be written ({error.strerror}); choose another with {key}=") from error


def _as_text(comparison: Comparison, runs: Sequence[RunRecord]) -> str:
    stream = io.StringIO()
    _show(Console(file=stream, highlight=False, soft_wrap=True, force_terminal=False), comparison, runs)
    return stream.getvalue()


def _show(console: Console, comparison: Comparison, runs: Sequence[RunRecord]) -> None:
    """The table, and below it what a reader should know."""
    width = console.width if console.is_terminal else None
    colours = console.is_terminal and not console.no_color
    table, left_out = terminal_table(comparison, width, colours)
    console.width = max(console.width, 10_000 if width is None else width)
    console.print(table)
    console.print()
    if left_out:
        console.print(Text(f"no room for {', '.join(left_out)} (columns=[...] chooses, format=csv has all)"))
    for line in _notes(comparison):
        console.print(Text(line))
    console.print(Text(_summary(comparison, runs)))


def _notes(comparison: Comparison) -> list[str]:
    notes = [*comparison.notes, *map(printable, jobs_not_begun(comparison.runs))]
    if comparison.num_left_out:
        number, shown = comparison.num_left_out, len(comparison.rows)
        rows = "rows are" if number > 1 else "row is"
        notes.append(f"{number} more {rows} not shown (limit={shown}; where= chooses among them)")
    if any(key.startswith("test/") for key in [*(column.key for column in comparison.columns), *comparison.chosen_by]):
        notes.append("test scores are for reporting: what is chosen by them is not as good as they say")
    bad = [run for run in comparison.runs if run.problem is not None]
    notes += [f"{run.status}: {printable(run.name)}: {printable(run.problem or '')}" for run in bad[:_MOST_PROBLEMS]]
    if len(bad) > _MOST_PROBLEMS:
        notes.append(f"... and {len(bad) - _MOST_PROBLEMS} more failed or broken (where='status=[failed,broken]')")
    return notes


def _summary(comparison: Comparison, runs: Sequence[RunRecord]) -> str:
    """How many runs there are, in which state, and how many the conditions left out."""
    statuses = Counter(run.status for run in comparison.runs)
    states = ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    number = len(comparison.runs)
    text = f"{number} run{'s' * (number != 1)}: {states}"
    if left_out := len(runs) - number:
        text += f"; {left_out} others left out"
    splits = dict.fromkeys(column.key.partition("/")[0] for column in comparison.columns if column.kind == "metric")
    return f"{text}. Metrics are of {' and '.join(splits)}." if splits else text
