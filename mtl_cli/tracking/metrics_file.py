"""metrics.jsonl: one JSON object a line, in the order in which things were measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mtl_cli.tracking.json_files import read_json_lines, to_json_line
from mtl_cli.types import UserError

CLOCK_KEYS = frozenset(
    {"train/tokens_per_second", "train/seconds", "train/peak_memory_bytes"}
    | {f"{split}/{name}" for split in ("validation", "test") for name in ("seconds", "tokens_per_second")}
)
"""Keys that measure the clock or the machine: they differ from run to run. On a CPU everything else in the file is the
same, bit for bit, whether or not a run was stopped and resumed."""


class MetricsFile:
    """Appends records {"step": n, "epoch": x, key: value, ...} and hands each to the system at once.

    A killed process loses no record that was appended, and at most leaves its last line torn, which the reader skips
    and the next writer cuts off.

    A run that resumes gives `truncate` the `position` that its checkpoint recorded: what was measured after the
    checkpoint is measured, and written, again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: BinaryIO = open(path, "a+b")  # noqa: SIM115 - closed by close()
        self._cut_torn_line()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, which has a `step`. Values that are not finite are written as null."""
        assert "step" in record, f"a record of {self.path.name} needs a step: {record}"
        self._stream.write(to_json_line(record).encode() + b"\n")
        self._stream.flush()

    def position(self) -> int:
        """Bytes written so far, all of them on the disk: what a checkpoint records."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return os.fstat(self._stream.fileno()).st_size

    def truncate(self, position: int) -> None:
        """Forget every record after `position`."""
        size = self.position()
        if position > size:
            raise UserError(
                f"{self.path} has {size} bytes, and the checkpoint was written when it had {position}: the file was "
                "shortened or replaced since. Put the original back, or start a new run."
            )
        self._stream.truncate(position)
        self._cut_torn_line()

    def close(self) -> None:
        """Close the file; further records raise."""
        self._stream.close()

    def _cut_torn_line(self) -> None:
        self._stream.seek(0)
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)


class NoMetricsFile(MetricsFile):
    """In the place of the file in all processes of a run but one."""

    def __init__(self) -> None:
        self.path = Path(os.devnull)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write nothing."""

    def position(self) -> int:
        """Return 0."""
        return 0

    def truncate(self, position: int) -> None:
        """Have nothing to forget."""

    def close(self) -> None:
        """Have nothing to close."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl, also one that is being written or that a crash cut short. Missing file: no records."""
    return read_json_lines(path) if path.exists() else []


def without_clock(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records without CLOCK_KEYS: what two equal runs agree in."""
    return [{key: value for key, value in record.items() if key not in CLOCK_KEYS} for record in records]
