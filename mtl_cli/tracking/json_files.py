"""Files that are either whole or not there: write beside, flush to the disk, rename."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


def jsonable(value: Any) -> Any:
    """Return `value` as what JSON knows. NaN and the infinities, which JSON lacks, become None.

    Takes dataclasses, mappings, sequences, sets, paths, and whatever has `.item()` or `.tolist()` (numpy, torch).
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if hasattr(value, "item"):
        return jsonable(value.item())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def to_json_line(record: Mapping[str, Any]) -> str:
    """One line of JSON, without the line end. Floats are written so that reading gives back the same bits."""
    return json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Open a temporary file beside `path`; it takes the place of `path` only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files that only their owner reads; a run folder is shared like any other output.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file in one piece."""
    with _replacing(path) as stream:
        stream.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file in one piece."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write or replace a file of one JSON object a line, in one piece; return how many were written."""
    count = 0
    with _replacing(path) as stream:
        for record in records:
            stream.write(to_json_line(record) + "\n")
            count += 1
    return count


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line. A last line that lost its end (a crash while writing) is left out."""
    # Only "\n" ends a record: JSON strings may hold other characters that str.splitlines() takes for line ends.
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line.strip()]
