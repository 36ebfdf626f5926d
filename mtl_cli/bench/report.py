"""What a benchmark found: figures for a program, and a table for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtl_cli.errors import UserError
from mtl_cli.tracking.json_files import jsonable, write_text


@dataclass
class BenchReport:
    """One benchmark's findings.

    Attributes:
        name: the benchmark's, as in `mtl bench of=NAME`.
        title: what was measured, in a line.
        machine: what on.
        columns: heads of the table; the first is the rows' name.
        rows: cells as text.
        figures: everything as numbers.
        notes: what a reader should know, a sentence each.
        aims: what was aimed at -> whether it is reached; None: not measured here.
    """

    name: str
    title: str
    machine: Mapping[str, Any]
    columns: Sequence[str]
    rows: list[list[str]]
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    aims: dict[str, bool | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        found = jsonable({key: value for key, value in vars(self).items() if key not in ("columns", "rows")})
        assert isinstance(found, dict)
        return found

    def to_markdown(self) -> str:
        """Write the table and what belongs to it."""
        lines = [
            f"{self.title}  ",
            f"{machine_line(self.machine)}",
            "",
            f"| {' | '.join(self.columns)} |",
            "|---|" + "---:|" * (len(self.columns) - 1),
            *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in self.rows),
        ]
        remarks = [*self.notes, *self._aims()]
        return "\n".join([*lines, *([""] if remarks else []), *(f"- {remark}" for remark in remarks)]) + "\n"

    def show(self, console: Console) -> None:
        """Print the table and what belongs to it."""
        table = Table(title=self.title, title_justify="left", show_edge=False)
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
        for row in self.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        for line in [machine_line(self.machine), *self.notes, *self._aims()]:
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    def write(self, settings_json: str | None, settings_markdown: str | None) -> None:
        """Write the files that the settings name.

        Raises:
            UserError: a file cannot be written.
        """
        for key, name, text in (
            ("bench.json", settings_json, json.dumps(self.to_dict(), indent=1) + "\n"),
            ("bench.markdown", settings_markdown, self.to_markdown()),
        ):
            if name is not None:
                try:
                    write_text(Path(name), text)
                except OSError as error:
                    raise UserError(f"{key}: {name} cannot be written ({error.strerror})") from error

    def _aims(self) -> list[str]:
        words = {True: "reached", False: "missed", None: "not measured"}
        return [f"aim {aim}: {words[reached]}" for aim, reached in self.aims.items()]


def machine_line(machine: Mapping[str, Any]) -> str:
    """Say in a line what figures were measured on."""
    processor = f"{machine['cores']} cores of {machine['processor']} ({machine['capability']})"
    gpus = f"; {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    threads = machine["threads"]
    end = f", at the end {machine['load_at_end']:.2f}" if "load_at_end" in machine else ""
    return (
        f"{processor}, {threads} thread{'s' * (threads != 1)}{gpus}; on {machine['device']}; torch {machine['torch']}, "
        f"transformers {machine['transformers']}; load a core at the start {machine['load']:.2f}{end}"
    )


def share(value: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * value:.1f} %"


def mebibytes(size: int | None) -> str:
    """Write bytes in MiB; a dash where they are not known."""
    return "-" if size is None else f"{size / 2**20:,.0f}"
