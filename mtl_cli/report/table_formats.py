"""A comparison as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from mtl_cli.report.columns import Column
from mtl_cli.report.comparison import Comparison, Row
from mtl_cli.report.fields import setting_text
from mtl_cli.report.seed_averages import Average
from mtl_cli.tracking.json_files import jsonable


def cell_text(row: Row, column: Column) -> str:
    """Return what a reader sees in a cell: metrics with four decimals, a dash where there is nothing."""
    value = row.values.get(column.key)
    if column.key == "status" and not row.finished:
        problem = row.values.get("problem", row.runs[0].problem)
        text = f"{value}: {problem}" if problem else "running, or killed" if value == "running" else str(value)
        return printable(text)
    if column.kind == "metric":
        return _metric_text(value, len(row.runs))
    if column.kind == "cost":
        return _cost_text(value)
    if value is None:
        is_known = column.kind == "setting" and all(column.key in run.settings for run in row.runs)
        return "null" if is_known else "-"
    text = printable(setting_text(value))
    return text or ("" if column.kind == "identity" else "''")


def printable(text: str) -> str:
    """Return one line that a terminal only shows: what stands in somebody's folder may hold more than text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _metric_text(value: Any, num_runs: int) -> str:
    if isinstance(value, Average):
        deviation = "" if value.deviation is None else f" ± {_decimals(value.deviation)}"
        return f"{_decimals(value.mean)}{deviation}{f' (n={value.n})' * (value.n < num_runs)}"
    return "-" if value is None or value != value else _decimals(float(value))


def _decimals(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _cost_text(value: Any) -> str:
    value = value.mean if isinstance(value, Average) else value
    return "-" if value is None else f"{value:,.0f}"


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a flat record a row, full names and full precision.

    The deviation of an average stands in `<name>/std`, and the number of its values in `<name>/n`.
    """
    found = []
    for row in comparison.rows:
        record: dict[str, Any] = {}
        for column in comparison.columns:
            value = row.values.get(column.key)
            if isinstance(value, Average):
                record[column.key] = value.mean
                record |= {f"{column.key}/std": value.deviation, f"{column.key}/n": value.n}
            else:
                record[column.key] = value
                if comparison.averaged and column.kind == "metric":
                    record |= {f"{column.key}/std": None, f"{column.key}/n": 0}
        if comparison.averaged:
            record["runs"] = [run.name for run in row.runs]
        else:
            record |= {"status": row.runs[0].status, "problem": row.runs[0].problem, "path": str(row.runs[0].path)}
        found.append(record)
    return found


def as_json(comparison: Comparison) -> str:
    """Return a list of flat records; what is missing or not a number is null."""
    return json.dumps(jsonable(records(comparison)), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return comma-separated values with a header; lists as JSON, empty where there is nothing."""
    found = jsonable(records(comparison))
    columns = list(dict.fromkeys(name for record in found for name in record))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_csv_cell(record.get(name)) for name in columns] for record in found])
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False)
    return value


def as_markdown(comparison: Comparison) -> str:
    """Return a table of GitHub's Markdown, the best values bold."""
    columns = comparison.columns
    lines = [[markdown_escaped(label_text(column)) for column in columns]]
    for row in comparison.rows:
        cells = [markdown_escaped(cell_text(row, column)) for column in columns]
        lines.append([f"**{c}**" if comparison.is_best(row, k) else c for c, k in zip(cells, columns, strict=True)])
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(columns))]
    rule = [f"{'-' * (width - 1)}:" if is_number(k) else "-" * width for width, k in zip(widths, columns, strict=True)]

    def written(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if is_number(column) else cell.ljust(width)
            for cell, width, column in zip(cells, widths, columns, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join([written(lines[0]), written(rule), *map(written, lines[1:])]) + "\n"


def markdown_escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in a table's cell too."""
    for character in "\\`*_|<>[":
        text = text.replace(character, f"\\{character}")
    return text


def as_latex(comparison: Comparison) -> str:
    """Return a tabular in the style of the package booktabs, the best values bold."""
    columns = comparison.columns
    alignment = "".join("r" if is_number(column) else "l" for column in columns)
    lines = [[latex_escaped(label_text(column)) for column in columns]]
    for row in comparison.rows:
        cells = [latex_escaped(cell_text(row, column)) for column in columns]
        marked = zip(cells, columns, strict=True)
        lines.append([f"\\textbf{{{c}}}" if comparison.is_best(row, column) else c for c, column in marked])
    head, *body = [f"{' & '.join(cells)} \\\\" for cells in lines]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{{alignment}}}",
            "\\toprule",
            head,
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}\n",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def latex_escaped(text: str) -> str:
    """Return a text that LaTeX shows as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def is_number(column: Column) -> bool:
    """Whether a column stands to the right."""
    return column.kind in ("metric", "cost")


def label_text(column: Column) -> str:
    """Return the header of a column in one line."""
    return column.label.replace("/", " ") if column.kind == "metric" else column.label
