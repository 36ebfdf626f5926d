"""What sources of local files have in common: finding the files, caching what was read, naming places."""

from __future__ import annotations

import difflib
import glob
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_cli.data.cache import content_key, dataset_cache, file_digest, make_once
from mtl_cli.data.source import Source
from mtl_cli.types import SPLITS, UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_READER_VERSION = 1
"""Raise it when any reader gives other rows for the same file, so that old cache files are not used."""

_ROWS_PER_ARROW_BATCH = 10_000


@dataclass(frozen=True)
class FileRows:
    """The rows of one file.

    Attributes:
        table: one column a field.
        lines: the line, from 1, on which each row begins; None where lines mean nothing (parquet, a JSON document).
    """

    table: pa.Table
    lines: Sequence[int] | None


@dataclass(kw_only=True)
class LocalSource(Source):
    """Rows from files on this machine. Nothing is asked of a network.

    Each split is one path, a list of paths, or patterns such as `data/train-*.jsonl`; relative paths start at the
    current folder. What was read is cached under the content of the files, so that a changed file is read again.
    """

    train: str | list[str] | None = None
    validation: str | list[str] | None = None
    test: str | list[str] | None = None

    def __post_init__(self) -> None:
        if not any(getattr(self, split) for split in SPLITS):
            raise UserError("The source names no file. Set at least one of train, validation, test to a path.")

    @abstractmethod
    def _read(self, path: Path) -> FileRows:
        """Read one file, raising UserError with the file and the line of whatever is broken."""

    @abstractmethod
    def _reading(self, path: Path) -> dict[str, object]:
        """Whatever besides its content decides what `_read` makes of a file (JSON-able): part of the cache's key."""

    def load(self) -> dict[str, datasets.Dataset]:
        """Read the files of each split that is named, or find them in the cache."""
        return {split: self._load_split(split) for split in SPLITS if getattr(self, split)}

    def locate(self, split: str, row: int) -> str:
        """Name the file, the row and, where there are lines, the line. Reads the files once more: for errors."""
        for path in self._files(split):
            rows = self._read(path)
            if row < len(rows.table):
                line = "" if rows.lines is None else f" (line {rows.lines[row]})"
                return f"{path}, row {row + 1}{line}"
            row -= len(rows.table)
        raise IndexError(f"row {row} is past the end of the {split} split")

    def _files(self, split: str) -> list[Path]:
        given = getattr(self, split)
        patterns = [given] if isinstance(given, str) else given
        return [path for pattern in patterns for path in _find(split, pattern)]

    def _load_split(self, split: str) -> datasets.Dataset:
        import datasets
        from datasets.table import MemoryMappedTable

        files = self._files(split)
        key = content_key(_READER_VERSION, [(self._reading(path), file_digest(path)) for path in files])
        path = dataset_cache() / "files" / f"{key}.arrow"
        make_once(path, lambda temporary: self._write(files, temporary))
        return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)

    def _write(self, files: list[Path], path: Path) -> None:
        import pyarrow as pa

        tables = [self._read(file).table for file in files]
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            names = ", ".join(map(str, files))
            raise UserError(
                f"The files {names} do not go together: {error}. Give the columns the same types."
            ) from error
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=_ROWS_PER_ARROW_BATCH)


def _find(split: str, pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise UserError(f"{split}: {path} is a folder. Name its files, for example {path / '*.jsonl'}.")
    if glob.has_magic(pattern):
        found = sorted(file for name in glob.glob(str(path), recursive=True) if (file := Path(name)).is_file())
        if found:
            return found
        raise UserError(f"{split}: no file matches {pattern} (current folder: {Path.cwd()}).")
    raise UserError(f"{split}: there is no file {path} (current folder: {Path.cwd()}).{_nearest_file(path)}")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    near = difflib.get_close_matches(path.name, names, n=3)
    return f" Nearest: {', '.join(near)}." if near else ""
