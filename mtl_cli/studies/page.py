"""study.html: the report as one page that needs nothing else, in light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable
from urllib.parse import quote

from mtl_cli.report import heat_maps
from mtl_cli.studies import charts, numbers
from mtl_cli.studies.charts import Difference, Point, difference_chart, size_chart
from mtl_cli.studies.comparison import Comparison
from mtl_cli.studies.learning_curves import LearningCurve
from mtl_cli.studies.report import StudyReport
from mtl_cli.studies.tables import (
    Table,
    costs_table,
    curve_table,
    differences_table,
    gaps_table,
    means_table,
    missing_table,
    transfer_table,
)
from mtl_cli.studies.transfer import Transfer
from mtl_cli.studies.words import words_of
from mtl_cli.tracking import heat_map

_LIGHT = """
--paper: #fff; --text: #1a1a1a; --quiet: #666; --line: #ccc; --panel: #f5f6f8; --better: #1b7837; --worse: #b2182b;
--s0: #555; --s1: #0072b2; --s2: #d55e00; --s3: #009e73; --s4: #cc79a7; --s5: #b58900; --s6: #56b4e9; --s7: #8250df;
"""
_DARK = """
--paper: #15181c; --text: #e6e6e6; --quiet: #9aa0a6; --line: #444; --panel: #1f2329;
--better: #6fcf8a; --worse: #ff8a80;
--s0: #bbb; --s1: #56b4e9; --s2: #ff9e57; --s3: #4fd1a5; --s4: #e8a5c9; --s5: #e0b84c; --s6: #9ad1f5; --s7: #b99bff;
"""
_STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
    + """
body { margin: 24px auto; max-width: 1080px; padding: 0 16px; background: var(--paper); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; overflow-wrap: anywhere; }
h2 { font-size: 18px; border-bottom: 1px solid var(--line); padding-bottom: 4px; margin-top: 36px; }
ul.words { background: var(--panel); border-left: 4px solid var(--s1); margin: 0; padding: 10px 14px 10px 32px; }
ul.words li:first-child { font-weight: 600; }
.wide { overflow-x: auto; }
table.plain { border-collapse: collapse; margin: 8px 0; }
.plain td, .plain th { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; }
.plain th { font-weight: 600; border-bottom: 1px solid var(--line); vertical-align: bottom; }
.plain .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.plain .better { color: var(--better); font-weight: 600; }
.plain .worse { color: var(--worse); font-weight: 600; }
p.note { color: var(--quiet); font-size: 13px; max-width: 80ch; margin: 4px 0 18px; }
a { color: var(--s1); }
code { font-size: 13px; overflow-wrap: anywhere; }
"""
    + heat_map.STYLE
    + heat_maps.STYLE
    + charts.STYLE
    + ".heat tbody td { border-color: var(--paper); color: #222; }\n.legend { color: var(--quiet); }\n"
)


def study_page(report: StudyReport) -> str:
    """Return the page. Everything that comes from run folders is escaped, and the page loads and runs nothing."""
    words = "".join(f"<li>{html.escape(line)}</li>" for line in words_of(report))
    sections = [f'<ul class="words">{words}</ul>']
    for comparison in report.comparisons:
        sections += _comparison(report, comparison)
    if report.costs:
        sections.append(_section(costs_table(report)))
    sections += [_curve(report, curve) for curve in report.curves]
    if report.gaps:
        sections.append(_section(gaps_table(report)))
    if report.transfer is not None:
        sections.append(_transfer(report, report.transfer))
    if report.missing:
        sections.append(_section(missing_table(report)))
    if report.notes:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
        sections.append(f"<section><h2>Notes</h2><ul>{notes}</ul></section>")
    sections.append(_runs(report))
    name = html.escape(report.name)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        # Whatever got in: nothing is fetched, and no script runs.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} - mtl study</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>Study {name}</h1>\n{''.join(sections)}\n</body></html>\n"
    )


def _section(table: Table, *figures: str) -> str:
    return (
        f"<section>\n<h2>{html.escape(table.title)}</h2>\n{''.join(figures)}"
        f'<div class="wide">{_html_table(table)}</div>\n<p class="note">{html.escape(table.note)}</p>\n</section>\n'
    )


def _html_table(table: Table) -> str:
    def line(tag: str, cells: Iterable[str], row: int | None) -> str:
        written = []
        for place, cell in enumerate(cells):
            classes = [] if place < table.num_names else ["number"]
            if row is not None and (row, place) in table.marks:
                classes.append(table.marks[row, place])
            attribute = f' class="{" ".join(classes)}"' if classes else ""
            written.append(f"<{tag}{attribute}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(written)}</tr>\n"

    body = "".join(line("td", cells, row) for row, cells in enumerate(table.rows))
    return f'<table class="plain"><thead>{line("th", table.header, None)}</thead>\n<tbody>\n{body}</tbody></table>'


def _comparison(report: StudyReport, comparison: Comparison) -> list[str]:
    figures = []
    for task, info in report.plan.tasks.items():
        lines = []
        for variant, found in comparison.variants.items():
            cell = found.tasks.get(task)
            if cell is None or cell.gain is None:
                continue
            d = cell.gain.difference
            scale = 100 if info.higher_is_better else 1
            mark = {1: "better", -1: "worse", 0: "none"}[cell.direction] if cell.beyond_noise else "none"
            low, high = (None if end is None else scale * end for end in (d.low, d.high))
            lines.append(Difference(variant, scale * d.mean, low, high, mark, numbers.metric(d.mean, info, sign=True)))
        figures.append(difference_chart(f"{task}: {info.metric}, difference to single-task training", lines))
    return [
        _section(means_table(report, comparison)),
        _section(differences_table(report, comparison), *figures),
    ]


def _curve(report: StudyReport, curve: LearningCurve) -> str:
    info = report.plan.tasks[curve.task]
    scale = 100 if info.higher_is_better else 1
    curves = {
        "single-task" if system == "single" else system: [
            Point(
                point.size,
                scale * point.mean.mean,
                *(None if end is None else scale * end for end in (point.mean.low, point.mean.high)),
            )
            for point in points
        ]
        for system, points in curve.systems.items()
    }
    title = f"{curve.task}: {info.metric} on {curve.split} by number of training examples, with 95 % intervals"
    return _section(curve_table(report, curve), size_chart(title, curves, "{:.1f}" if scale == 100 else "{:.3g}"))


def _transfer(report: StudyReport, transfer: Transfer) -> str:
    values: list[list[float | None]] = [
        [cell.percent if (cell := transfer.cells.get((task, company))) else None for company in transfer.tasks]
        for task in transfer.tasks
    ]
    low, high = heat_map.limits_of(values, "signed")
    caption = "gain of the row with the column, % of alone"
    heat = heat_map.heat_table(
        transfer.tasks, transfer.tasks, values, "signed", caption, limits=(low, high), diagonal="alone"
    )
    if transfer.groups is None:
        proposal = f"No groups are proposed: {transfer.why_no_groups}."
    else:
        proposed = transfer.groups
        groups = " ".join(f"[{', '.join(group)}]" for group in proposed.groups)
        proposal = (
            f"Proposed groups: {groups}. Predicted gain over training alone, mean over tasks: "
            f"{proposed.predicted_percent:+.2f} %; all tasks together {proposed.together_percent:+.2f} %. "
            "A task's gain in a group is predicted as the mean of its gains with each other member. A proposal from "
            "pairs, to be tested by training the groups."
        )
    figure = f'<div class="wide">{heat}</div>{heat_maps.legend("signed", low, high, has_gaps=False)}'
    return _section(transfer_table(report, transfer), figure, f"<p>{html.escape(proposal)}</p>")


def _runs(report: StudyReport) -> str:
    rows = []
    for job in report.plan.jobs:
        status = html.escape(report.missing.get(job.name, "finished"))
        link = f'<a href="{html.escape(quote(job.name, safe="=,+"), quote=True)}/">{html.escape(job.name)}</a>'
        overrides = html.escape(" ".join(job.overrides))
        rows.append(f"<tr><td>{link}</td><td>{status}</td><td><code>{overrides}</code></td></tr>\n")
    return (
        f'<section>\n<h2>Runs</h2>\n<details><summary>{len(rows)} runs</summary><div class="wide"><table class="plain">'
        f"<thead><tr><th>run</th><th>status</th><th>overrides</th></tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table>"
        "</div></details>\n</section>\n"
    )
