"""CoNLL-U files: Universal Dependencies treebanks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtl_cli.data.conll import sentences
from mtl_cli.data.local import FileRows, LocalSource
from mtl_cli.data.text_file import read_text, split_lines
from mtl_cli.types import UserError

_NUM_FIELDS = 10
_COLUMNS = {"tokens": 1, "lemmas": 2, "upos": 3, "xpos": 4, "feats": 5, "head": 6, "deprel": 7}
"""Name of each column and its place among the ten fields ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC."""


@dataclass(kw_only=True)
class ConlluSource(LocalSource):
    """Sentences from CoNLL-U files, in syntactic words.

    Each row is a sentence; the columns tokens, lemmas, upos, xpos, feats and deprel are lists of strings, head a list
    of integers (0 is the root, -1 is none). Lines of multiword tokens (`3-4`) and of empty nodes (`8.1`) are left out:
    they have no part of speech of their own. Format: https://universaldependencies.org/format.html.

    Args:
        train, validation, test: a path, a list of paths, or patterns.
    """

    def _reading(self, path: Path) -> dict[str, object]:
        return {"format": "conllu"}

    def _read(self, path: Path) -> FileRows:
        import pyarrow as pa

        rows: dict[str, list[list[str]]] = {name: [] for name in _COLUMNS}
        heads: list[list[int]] = []
        lines: list[int] = []
        for first_line, block in sentences(split_lines(read_text(path))):
            words = [
                (number, fields)
                for number, line in enumerate(block, start=first_line)
                if not line.startswith("#") and (fields := _fields(path, number, line))[0].isdecimal()
            ]
            if not words:
                continue
            for name, place in _COLUMNS.items():
                rows[name].append([fields[place] for _, fields in words])
            heads.append([_head(path, number, fields) for number, fields in words])
            lines.append(first_line)
        types = {name: pa.list_(pa.string()) for name in _COLUMNS} | {"head": pa.list_(pa.int32())}
        table = pa.table({name: pa.array({**rows, "head": heads}[name], kind) for name, kind in types.items()})
        return FileRows(table, lines)


def _fields(path: Path, number: int, line: str) -> list[str]:
    fields = line.split("\t")
    if len(fields) != _NUM_FIELDS:
        raise UserError(
            f"{path}, line {number}: {len(fields)} fields in {line[:80]!r}, but CoNLL-U has {_NUM_FIELDS}, "
            "separated by tabs."
        )
    empty = next((place for place, value in enumerate(fields) if not value), None)
    if empty is not None:
        raise UserError(f"{path}, line {number}: field {empty + 1} is empty; CoNLL-U writes _ for nothing.")
    if not fields[0].replace("-", "").replace(".", "").isdecimal():
        raise UserError(f"{path}, line {number}: ID is {fields[0]!r}, but must be a number such as 3, 3-4 or 8.1.")
    return fields


def _head(path: Path, number: int, fields: list[str]) -> int:
    """HEAD as a number; -1 where the treebank gives none (`_`)."""
    if fields[6] == "_":
        return -1
    if not fields[6].isdecimal():
        raise UserError(
            f"{path}, line {number}: HEAD is {fields[6]!r}, but must be the ID of a word, or 0 for the root."
        )
    return int(fields[6])
