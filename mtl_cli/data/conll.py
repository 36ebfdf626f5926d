"""CoNLL column files: a token a line, columns for its tags, an empty line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtl_cli.data.local import FileRows, LocalSource
from mtl_cli.data.text_file import read_text, split_lines
from mtl_cli.types import UserError

_BLANKS = re.compile("[ \t]+")


def sentences(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Blocks of lines between empty lines (blanks and tabs count as empty), each with the number of its first line."""
    block: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip(" \t"):
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield len(lines) - len(block) + 1, block


@dataclass(kw_only=True)
class ConllSource(LocalSource):
    """Sentences from CoNLL column files, such as those of CoNLL-2000, CoNLL-2003 and WNUT-17.

    Each row of the result is a sentence; each column a list with one string a token. `-DOCSTART-` lines are left out.
    These are the rows that the builder `conll` of `datasets` gives for a flawless file. That builder itself is not
    used: in silence it fills a missing tag up with an empty one, cuts surplus columns off, and breaks tokens at
    non-breaking and ideographic spaces.

    Args:
        train, validation, test: a path, a list of paths, or patterns.
        columns: names of the columns in file order, of which every line has all. The task says which is the word and
            which the tag.
        delimiter: what separates columns; None is any run of blanks and tabs. With a tab, tokens may hold blanks.
        comment_prefix: lines that begin with it are left out.
    """

    columns: list[str] = field(default_factory=lambda: ["tokens", "tags"])
    delimiter: str | None = None
    comment_prefix: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise UserError(f"columns must be different names, one a column of the file. Found {self.columns}.")
        if self.delimiter == "" or self.comment_prefix == "":
            raise UserError("delimiter and comment_prefix must not be empty: leave them out instead.")

    def _reading(self, path: Path) -> dict[str, object]:
        return {
            "format": "conll",
            "columns": self.columns,
            "delimiter": self.delimiter,
            "comment_prefix": self.comment_prefix,
        }

    def _read(self, path: Path) -> FileRows:
        import pyarrow as pa

        values: list[list[list[str]]] = [[] for _ in self.columns]
        lines: list[int] = []
        for first_line, block in sentences(split_lines(read_text(path))):
            tokens = [
                self._fields(path, number, line)
                for number, line in enumerate(block, start=first_line)
                if not self._skipped(line)
            ]
            if not tokens:
                continue
            for column, token_fields in zip(values, zip(*tokens, strict=True), strict=True):
                column.append(list(token_fields))
            lines.append(first_line)
        return FileRows(pa.table([pa.array(column, pa.list_(pa.string())) for column in values], self.columns), lines)

    def _skipped(self, line: str) -> bool:
        return line.startswith("-DOCSTART-") or (
            self.comment_prefix is not None and line.startswith(self.comment_prefix)
        )

    def _fields(self, path: Path, number: int, line: str) -> list[str]:
        fields = line.split(self.delimiter) if self.delimiter is not None else _BLANKS.split(line.strip(" \t"))
        if len(fields) == len(self.columns) and all(fields):
            return fields
        missing = next((name for name, value in zip(self.columns, fields, strict=False) if not value), None)
        if missing is None and len(fields) < len(self.columns):
            missing = self.columns[len(fields)]
        if missing is not None:
            raise UserError(
                f"{path}, line {number}: no {missing} in {line!r}. Each line needs {len(self.columns)} columns "
                f"({', '.join(self.columns)}), or is empty between sentences."
            )
        raise UserError(
            f"{path}, line {number}: {len(fields)} columns in {line!r}, but `columns` names {len(self.columns)} "
            f"({', '.join(self.columns)}). Name them all, or set delimiter."
        )
