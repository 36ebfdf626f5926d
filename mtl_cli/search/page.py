"""The page of a search: one file of HTML with tables and figures that needs nothing else."""

from __future__ import annotations

import html
import json
import re
import secrets
from collections.abc import Sequence

import plotly.offline

from mtl_cli.search.figures import Figure, figures
from mtl_cli.search.results import command_line, in_order, short_names, values_said
from mtl_cli.search.search_folder import Plan
from mtl_cli.search.trials import Trial, best_trials, scores

_STYLE = """
:root { color-scheme: light; }
body { margin: 24px auto; max-width: 1200px; padding: 0 16px; background: #fff; color: #111; font: 14px sans-serif; }
h1 { font-size: 20px; overflow-wrap: anywhere; }
h2 { font-size: 16px; border-bottom: 1px solid #ccc; padding-bottom: 4px; margin-top: 32px; }
pre { background: #f4f4f4; padding: 8px 10px; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; font-weight: normal; }
thead th { border-bottom: 1px solid #ccc; }
.wide td { white-space: nowrap; }
td:first-child { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.best td { font-weight: bold; }
.failed td, .unfinished td, .pruned td { color: #666; }
.note { color: #444; }
"""

_DRAW = """
for (const place of document.querySelectorAll('.figure')) {
  const figure = JSON.parse(document.getElementById(place.dataset.of).textContent);
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false});
}
"""


def search_page(trials: Sequence[Trial], plan: Plan, name: str) -> str:
    """Return the page."""
    nonce = secrets.token_urlsafe(16)
    title = html.escape(name)
    drawn = figures(trials, plan)
    parts = [
        ("", _summary(trials, plan)),
        ("The best trial" if len(plan.settings.objectives) == 1 else "The Pareto front", _best(trials, plan)),
        *((figure.title, _figure(place, figure)) for place, figure in enumerate(drawn)),
        ("All trials", _trials(trials, plan)),
    ]
    body = "\n".join(
        f"<section>{f'<h2>{html.escape(heading)}</h2>' if heading else ''}\n{text}\n</section>"
        for heading, text in parts
    )
    library = f'<script nonce="{nonce}">{_inline(plotly.offline.get_plotlyjs())}</script>\n' if drawn else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        # Nothing is fetched, and only the scripts of this file run: they carry the nonce, which changes each time.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; script-src 'nonce-{nonce}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - mtl search</title>\n<style>{_STYLE}</style>\n{library}</head>\n"
        f"<body>\n<h1>{title}</h1>\n{body}\n"
        f"{f'<script nonce={chr(34)}{nonce}{chr(34)}>{_DRAW}</script>' if drawn else ''}\n</body></html>\n"
    )


def _summary(trials: Sequence[Trial], plan: Plan) -> str:
    settings = plan.settings
    counts = [
        f"{sum(t.state == state for t in trials)} {state}" for state in ("finished", "pruned", "failed", "unfinished")
    ]
    searched = [(key, _said(dimension)) for key, dimension in plan.space.to_dict().items()]
    rows = [
        ("trials", f"{len(trials)} of {settings.trials}: {', '.join(counts)}"),
        ("objectives", ", ".join(settings.objectives)),
        ("sampler, pruner", f"{settings.sampler}, {settings.chosen_pruner}; seed {settings.seed}"),
        *searched,
        ("for all trials", " ".join(plan.fixed) or "nothing changed"),
    ]
    return _table((), [([html.escape(key), html.escape(value)], "") for key, value in rows])


def _said(dimension: dict[str, object]) -> str:
    """A dimension in words."""
    kind = dimension["kind"]
    if kind in ("Choice", "Simplex"):
        names = dimension["values" if kind == "Choice" else "tasks"]
        assert isinstance(names, tuple)
        return ("one of " if kind == "Choice" else "weights that sum to their number: ") + ", ".join(names)
    step = f" in steps of {dimension['step']}" if dimension["step"] not in (None, 1) else ""
    log = ", evenly in the logarithm" if dimension["log"] else ""
    return f"{'a whole number ' if kind == 'Integer' else ''}from {dimension['low']} to {dimension['high']}{step}{log}"


def _best(trials: Sequence[Trial], plan: Plan) -> str:
    best = best_trials(trials, plan.settings.objectives)
    if not best:
        return "<p>No trial has finished yet.</p>"
    return "\n".join(
        f"<p>{html.escape(trial.name)}: {html.escape(scores(trial, plan.settings.objectives))}</p>\n"
        f"<pre>{html.escape(command_line(trial, plan))}</pre>"
        for trial in best
    )


def _figure(place: int, figure: Figure) -> str:
    note = f'<p class="note">{html.escape(figure.note)}</p>'
    if figure.figure is None:
        return note
    # Inside <script> nothing but "</script" and "<!--" has a meaning; JSON can write "<" in another way.
    data = json.dumps(json.loads(figure.figure.to_json())).replace("<", "\\u003c")
    return (
        f'{note}\n<div class="wide"><div class="figure" data-of="figure-{place}"></div></div>\n'
        f'<script type="application/json" id="figure-{place}">{data}</script>'
    )


def _trials(trials: Sequence[Trial], plan: Plan) -> str:
    objectives = plan.settings.objectives
    best = {trial.number for trial in best_trials(trials, objectives)}
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    header = ["trial", "state", *objectives, *short_names(keys), "seconds", ""]
    rows = []
    for trial in in_order(trials, objectives):
        said = trial.error or ("" if trial.pruned_at_step is None else f"pruned at step {trial.pruned_at_step}")
        cells = [
            trial.name,
            trial.state,
            *values_said(trial, objectives),
            *(str(trial.settings.get(key, "")) for key in keys),
            "" if trial.seconds is None else f"{trial.seconds:,.0f}",
            said,
        ]
        rows.append(([html.escape(cell) for cell in cells], "best" if trial.number in best else trial.state))
    return f'<div class="wide">{_table([html.escape(name) for name in header], rows)}</div>'


def _table(header: Sequence[str], rows: Sequence[tuple[list[str], str]]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr></thead>\n" if header else ""
    lines = []
    for cells, kind in rows:
        written = "".join(f"<td{_class('number') if _is_number(cell) else ''}>{cell}</td>" for cell in cells)
        lines.append(f"<tr{_class(kind) if kind else ''}>{written}</tr>\n")
    return f"<table>{head}<tbody>\n{''.join(lines)}</tbody></table>"


def _class(name: str) -> str:
    return f' class="{name}"'


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?[\d.,]+(e-?\d+)?", cell) is not None


def _inline(script: str) -> str:
    """A library that can stand inside <script>."""
    return script.replace("</script", "<\\/script")
