"""The final table of a run, for a terminal and as plain text."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from mtl_cli.tracking.results import Results

_HEADER = ("task", "metric", "validation", "test")


def table_rows(results: Results, main_metrics: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Return task, metric, validation, test: for each task its main metric, then its others, the loss left out."""
    rows = []
    for task, splits in results.tasks.items():
        found = {metric for metrics in splits.values() for metric in metrics} - {"loss"}
        main = main_metrics.get(task)
        ordered = [metric for metric in (main, *sorted(found)) if metric is not None]
        for number, metric in enumerate(dict.fromkeys(ordered)):
            values = [_number(splits.get(split, {}).get(metric)) for split in ("validation", "test")]
            rows.append((task if number == 0 else "", metric, values[0], values[1]))
    if results.score is not None:
        rows.append(("score", "mean of main metrics", _number(results.score), ""))
    return rows


def plain_table(results: Results, main_metrics: Mapping[str, str]) -> str:
    """Return the table as aligned text: names to the left, numbers to the right."""
    rows = [_HEADER, *table_rows(results, main_metrics)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(
        "  ".join([*(row[i].ljust(widths[i]) for i in (0, 1)), *(row[i].rjust(widths[i]) for i in (2, 3))]).rstrip()
        for row in rows
    )


def rich_table(results: Results, main_metrics: Mapping[str, str]) -> Table:
    """Return the table for a terminal; a task's further metrics are dimmed."""
    table = Table()
    for name in _HEADER:
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for row in table_rows(results, main_metrics):
        table.add_row(*row, style=None if row[0] else "dim")
    return table


def training_line(results: Results) -> str:
    """Return what the run took, in one line."""
    cost, counts = results.training, results.parameters
    return (
        f"{cost.steps:,} steps, {cost.seconds:,.0f} s, "
        f"{cost.tokens:,} tokens ({cost.tokens_per_second:,.0f} a second), "
        f"{counts.total / 1e6:.1f} M parameters ({counts.shared / 1e6:.1f} M shared)"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
