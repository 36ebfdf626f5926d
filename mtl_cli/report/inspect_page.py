"""The page of one run: what it was, how it scored, and what its sharing and its gradients did.

It is one file of HTML that needs nothing else. All that comes from the run folder, which may be somebody else's, is
escaped, and the page forbids itself to load or run anything.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mtl_cli.errors import UserError
from mtl_cli.report import heat_maps, line_charts
from mtl_cli.report.heat_maps import cosine_section, matrix_section
from mtl_cli.report.line_charts import line_chart
from mtl_cli.report.measured import (
    Curve,
    Matrix,
    cosines_over_training,
    curve_of,
    curves_of,
    learnt_matrices,
    names_below,
)
from mtl_cli.tracking import heat_map
from mtl_cli.tracking.metrics_file import read_metrics
from mtl_cli.tracking.results import Results
from mtl_cli.tracking.results_table import table_rows, training_line
from mtl_cli.tracking.run_folder import RunFolder

_STYLE = (
    """
:root { color-scheme: light; }
body { margin: 24px auto; max-width: 1100px; padding: 0 16px; background: #fff; color: #111; font: 14px sans-serif; }
h1 { font-size: 20px; overflow-wrap: anywhere; }
h2 { font-size: 16px; border-bottom: 1px solid #ccc; padding-bottom: 4px; margin-top: 32px; }
table.plain { border-collapse: collapse; }
.plain td, .plain th { text-align: left; vertical-align: top; padding: 2px 16px 2px 0; font-weight: normal; }
.plain thead th { border-bottom: 1px solid #ccc; }
.plain .number { text-align: right; font-variant-numeric: tabular-nums; }
.note { background: #fff4d6; border-left: 4px solid #b58900; padding: 6px 10px; }
"""
    + heat_map.STYLE
    + heat_maps.STYLE
    + line_charts.STYLE
)

_NODES = ("encoder", "sharing", "weighting", "sampler", "optimizer", "schedule", "trainer")
_STATUS = {
    "running": "running, or killed",
    "interrupted": "interrupted; it can be resumed",
    "finished": "finished",
    "failed": "failed",
}


@dataclass(frozen=True)
class _Run:
    """What the page is made of."""

    folder: RunFolder
    config: Mapping[str, Any]
    overrides: Sequence[str]
    results: Results
    records: Sequence[Mapping[str, Any]]

    @property
    def tasks(self) -> list[str]:
        return list(_mapping(self.config.get("tasks")))


def inspect_page(folder: RunFolder) -> str:
    """Return the page of a run, finished or not.

    Raises:
        UserError: a file of the folder is missing or not what mtl writes.
    """
    run = _read(folder)
    matrices = learnt_matrices(run.results.sharing, run.records, str(folder.results_file))
    name = html.escape(folder.path.resolve().name)
    sections = [
        ("", _status(run)),
        ("Settings", _settings(run)),
        ("Scores", _scores(run)),
        ("What the sharing strategy has learnt", _learnt(run, matrices)),
        ("Gradients of the tasks", _gradients(run)),
        ("Weights of the losses", _weights(run)),
        ("Losses and penalties", _losses(run)),
    ]
    body = "\n".join(f"<section>{f'<h2>{title}</h2>' if title else ''}\n{text}\n</section>" for title, text in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        # Whatever got in: nothing is fetched, and no script runs.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} - mtl inspect</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{name}</h1>\n{body}\n</body></html>\n"
    )


def _read(folder: RunFolder) -> _Run:
    file = folder.config_file
    try:
        config = folder.read_config()
        file = folder.overrides_file
        overrides = folder.read_overrides() if file.exists() else []
        file = folder.metrics_file
        records = read_metrics(file)
    except UserError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder.config_file} is not what mtl writes: found {config!r}. See docs/run_folder.md.")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{folder.metrics_file}, line {number}: has no step. See docs/run_folder.md.")
    results = folder.read_results()
    numbers = [*results.flat().values(), *vars(results.training).values(), *vars(results.parameters).values()]
    if not isinstance(results.sharing, dict) or not all(isinstance(number, int | float) for number in numbers):
        raise UserError(f"{folder.results_file} is not what mtl writes. See docs/run_folder.md.")
    return _Run(folder, config, overrides if isinstance(overrides, list) else [], results, records)


def _status(run: _Run) -> str:
    results = run.results
    lines = [("status", _STATUS.get(str(results.status), str(results.status)))]
    if results.error is not None:
        lines.append(("error", str(results.error)))
    if results.training.steps:
        lines.append(("training", training_line(results)))
    elif run.records:
        lines.append(("training", f"{max(record['step'] for record in run.records):,} steps so far"))
    lines.append(("folder", str(run.folder.path.resolve())))
    created = run.folder.read_environment().get("created")
    if created is not None:
        lines.append(("started", str(created)))
    return _table((), lines)


def _settings(run: _Run) -> str:
    lines = [(node, _of_node(run.config[node])) for node in _NODES if node in run.config]
    tasks = _mapping(run.config.get("tasks"))
    lines += [(f"task {name}", _of_node(node)) for name, node in tasks.items()]
    if "seed" in run.config:
        lines.append(("seed", str(run.config["seed"])))
    lines.append(("command line", " ".join(map(str, run.overrides)) or "nothing changed"))
    return _table((), lines)


def _of_node(node: Any) -> str:
    """A node in a line: its class, then its settings but for those that are null."""
    if not isinstance(node, Mapping):
        return str(node)
    target = str(node.get("_target_", "")).rpartition(".")[2]
    given = [
        f"{key}={f'({_of_node(value)})' if isinstance(value, Mapping) else value}"
        for key, value in node.items()
        if value is not None and key != "_target_"
    ]
    return f"{target}: {', '.join(given)}" if target and given else target or ", ".join(given)


def _scores(run: _Run) -> str:
    results, note = run.results, ""
    if not results.tasks:
        results, step = _last_validation(run)
        if step is None:
            return "<p>There are no scores yet.</p>"
        note = f'<p class="note">The run has not come to its end: these are the last scores so far, step {step:,}.</p>'
    nodes = _mapping(run.config.get("tasks"))
    main = {name: _mapping(node).get("main_metric") for name, node in nodes.items()}
    rows = table_rows(results, {name: metric for name, metric in main.items() if isinstance(metric, str)})
    return note + _table(("task", "metric", "validation", "test"), rows, numbers_from=2)


def _last_validation(run: _Run) -> tuple[Results, int | None]:
    """The last evaluation of metrics.jsonl, and its step."""
    for record in reversed(run.records):
        if "validation/score" not in record:
            continue
        results = Results(score=_or_nan(record["validation/score"]))
        for task in run.tasks:
            prefix = f"validation/{task}/"
            found = {
                key.removeprefix(prefix): _or_nan(value) for key, value in record.items() if key.startswith(prefix)
            }
            results.tasks[task] = {"validation": found}
        return results, record["step"]
    return Results(), None


def _or_nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _learnt(run: _Run, matrices: Sequence[Matrix]) -> str:
    if not matrices:
        strategy = str(_mapping(run.config.get("sharing")).get("_target_", "")).rpartition(".")[2]
        if run.results.status == "finished":
            return f"<p>Nothing to be shown: {html.escape(strategy)} learns nothing about the tasks that it logs.</p>"
        return "<p>Nothing has been logged yet; strategies that learn about the tasks do so at each evaluation.</p>"
    note = ""
    if not run.results.sharing:
        note = (
            '<p class="note">The run has not come to its end: these are the last values of metrics.jsonl. Colours are '
            "chosen by what the numbers look like.</p>"
        )
    return note + "\n".join(matrix_section(matrix) for matrix in matrices)


def _gradients(run: _Run) -> str:
    parts = cosines_over_training(run.tasks, run.records)
    norms = curves_of(run.records, {task: f"train/grad_norm/{task}" for task in run.tasks})
    if not parts and not norms:
        return (
            "<p>The gradients of the tasks were not looked at. Weightings that work on gradients do, and others "
            "with weighting.track_conflict_every.</p>"
        )
    cosines = f"<h3>Cosines</h3>\n{cosine_section(run.tasks, parts)}" if parts else ""
    rate = {"share of negative cosines": curve_of(run.records, "train/conflict_rate")}
    return "\n".join([cosines, line_chart("Conflict rate", rate), line_chart("Norms of the tasks' gradients", norms)])


def _weights(run: _Run) -> str:
    curves = curves_of(run.records, {task: f"train/weight/{task}" for task in run.tasks})
    sections = [line_chart("Weights of the tasks", curves)] if curves else ["<p>No weights were logged.</p>"]
    groups = {task: names_below(run.records, f"train/weight/{task}/") for task in run.tasks}
    columns = list(dict.fromkeys(name for names in groups.values() for name in names))
    if columns:
        sections.append(matrix_section(_weights_by_group(run, columns)))
    return "\n".join(sections)


def _weights_by_group(run: _Run, columns: list[str]) -> Matrix:
    curves = {
        (task, group): curve
        for task in run.tasks
        for group in columns
        if (curve := curve_of(run.records, f"train/weight/{task}/{group}"))
    }
    values = [[_last(curves.get((task, group))) for group in columns] for task in run.tasks]
    return Matrix("Weights by group of parameters", run.tasks, columns, values, "plain", "last values", curves)


def _last(curve: Curve | None) -> float | None:
    return curve[-1][1] if curve else None


def _losses(run: _Run) -> str:
    penalties = {name: f"train/penalty/{name}" for name in names_below(run.records, "train/penalty/")}
    charts = [
        line_chart("Training losses", curves_of(run.records, {task: f"train/loss/{task}" for task in run.tasks})),
        *(line_chart(f"Penalty: {name}", {name: curve_of(run.records, key)}) for name, key in penalties.items()),
        line_chart("Score on validation", {"mean of main metrics": curve_of(run.records, "validation/score")}),
    ]
    return "\n".join(chart for chart in charts if chart) or "<p>Nothing has been logged yet.</p>"


def _mapping(value: Any) -> Mapping[str, Any]:
    """Parts of a configuration that should be mappings, whatever stands there."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        written = []
        for place, cell in enumerate(cells):
            number = ' class="number"' if numbers_from is not None and place >= numbers_from else ""
            written.append(f"<{tag}{number}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(written)}</tr>\n"

    head = f"<thead>{line('th', header)}</thead>\n" if header else ""
    return f'<table class="plain">{head}<tbody>\n{"".join(line("td", row) for row in rows)}</tbody></table>'
