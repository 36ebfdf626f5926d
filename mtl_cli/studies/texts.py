"""A study's report as text: for a terminal, as Markdown, and as a LaTeX table for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from mtl_cli.report.table_formats import latex_escaped, markdown_escaped
from mtl_cli.studies.report import StudyReport
from mtl_cli.studies.tables import Table, means_table, tables_of
from mtl_cli.studies.words import words_of

_STYLES = {"better": "green", "worse": "red"}


def print_report(report: StudyReport, console: Console) -> None:
    """Print the sentences and all tables."""
    console.print()
    for line in words_of(report):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for table in tables_of(report):
        drawn = _rich(table)
        console.print()
        _wide_enough(console, drawn).print(drawn)
        console.print(table.note, style="dim", highlight=False, soft_wrap=True, markup=False)
    if report.notes:
        console.print()
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)


def _wide_enough(console: Console, drawn: RichTable) -> Console:
    """Outside a terminal, a table is as wide as it is."""
    if console.is_terminal:
        return console
    width = Measurement.get(console, console.options.update(width=999), drawn).maximum
    return Console(file=console.file, width=max(width, console.width))


def _rich(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for place, name in enumerate(table.header):
        drawn.add_column(Text(name), justify="left" if place < table.num_names else "right", overflow="fold")
    for number, row in enumerate(table.rows):
        drawn.add_row(
            *(Text(cell, style=_STYLES.get(table.marks.get((number, place), ""), "")) for place, cell in enumerate(row))
        )
    return drawn


def to_markdown(report: StudyReport) -> str:
    """Return study.md."""
    parts = [f"# Study {_escaped(report.name)}", "\n".join(f"- {_escaped(line)}" for line in words_of(report))]
    for table in tables_of(report):
        parts += [f"## {_escaped(table.title)}", _markdown_table(table), _escaped(table.note)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {_escaped(note)}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rule = ["---" if place < table.num_names else "---:" for place in range(len(table.header))]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in [table.header, rule, *table.rows])


def _escaped(text: str) -> str:
    return markdown_escaped(" ".join(text.splitlines()))


def to_latex(report: StudyReport) -> str:
    """Return study.tex: the table of means of each split, for the package booktabs."""
    parts = ["% Written by mtl study; needs \\usepackage{booktabs}."]
    parts += [_latex_table(means_table(report, comparison)) for comparison in report.comparisons]
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    columns = "l" * table.num_names + "r" * (len(table.header) - table.num_names)
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        _latex_row(table.header),
        "\\midrule",
        *map(_latex_row, table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        f"\\caption{{{_latex(table.title)}. {_latex(table.note)}}}",
        "\\end{table}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex, cells))} \\\\"


def _latex(text: str) -> str:
    return latex_escaped(text).replace(" *", "$^{*}$")
