"""Tables in files: csv, tsv, json, jsonl, parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mtl_cli.data.delimited import read_delimited
from mtl_cli.data.json_rows import read_json
from mtl_cli.data.local import FileRows, LocalSource
from mtl_cli.types import UserError

Format = Literal["csv", "tsv", "json", "jsonl", "parquet"]

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


@dataclass(kw_only=True)
class FileSource(LocalSource):
    """Rows from csv, tsv, json, jsonl or parquet files.

    Fields of csv and tsv stay the text they are; the task turns labels and scores into what it needs. The readers are
    our own and not pandas' and pyarrow's, which `datasets` uses: those turn the text "NA" into a missing value and
    "2024-01-31" into a date, fill short rows up in silence, and do not name the line that is broken.

    Args:
        train, validation, test: a path, a list of paths, or patterns such as `data/train-*.jsonl`.
        format: None takes it from each file's suffix.
        columns: names of the columns in file order, for csv and tsv files without a header row.
        quoting: for csv and tsv: fields may stand in double quotes. False: a double quote is a plain character.
        delimiter: for csv and tsv: None is a comma in csv and a tab in tsv.
        field: for json: key of the document that holds the list of rows, such as `data` in {"data": [...]}.
    """

    format: Format | None = None
    columns: list[str] | None = None
    quoting: bool = True
    delimiter: str | None = None
    field: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UserError(f"delimiter must be one character. Found {self.delimiter!r}.")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise UserError(f"columns must differ. Found {self.columns}.")

    def _format(self, path: Path) -> Format:
        found = self.format or _BY_SUFFIX.get(path.suffix.lower())
        if found is None:
            raise UserError(f"{path}: the suffix names no format. Set format to one of {', '.join(get_args(Format))}.")
        return found

    def _reading(self, path: Path) -> dict[str, object]:
        kind = self._format(path)
        if kind in _DELIMITERS:
            return {
                "format": "delimited",
                "delimiter": self.delimiter or _DELIMITERS[kind],
                "quoting": self.quoting,
                "columns": self.columns,
            }
        return {"format": "parquet"} if kind == "parquet" else {"format": "json", "field": self.field}

    def _read(self, path: Path) -> FileRows:
        kind = self._format(path)
        if kind in _DELIMITERS:
            delimiter = self.delimiter or _DELIMITERS[kind]
            return FileRows(*read_delimited(path, delimiter=delimiter, quoting=self.quoting, columns=self.columns))
        if kind == "parquet":
            return _read_parquet(path)
        return FileRows(*read_json(path, field=self.field))


def _read_parquet(path: Path) -> FileRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return FileRows(pq.read_table(path), None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({error}).") from error
