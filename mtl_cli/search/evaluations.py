"""The evaluations of a run while it trains, read from metrics.jsonl as it grows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on the validation split.

    Attributes:
        number: counted from 1.
        step: optimizer updates done.
        value: NaN where it was not a finite number.
    """

    number: int
    step: int
    value: float


class EvaluationReader:
    """Reads the lines of a metrics.jsonl that hold a metric, each once.

    A run that is resumed cuts the file at its last checkpoint and measures what came after it again: then reading
    starts over, and evaluations that were returned before are not returned again.
    """

    def __init__(self, file: Path, metric: str) -> None:
        self._file = file
        self._metric = metric
        self._mark = json.dumps(metric, ensure_ascii=False).encode()
        self._position = 0
        self._read = 0
        self._returned = 0

    def new(self) -> list[Evaluation]:
        """Return the evaluations since the last call."""
        try:
            with self._file.open("rb") as stream:
                if stream.seek(0, 2) < self._position:
                    self._position = self._read = 0
                stream.seek(self._position)
                content = stream.read()
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        self._position += whole
        found = []
        for line in content[:whole].split(b"\n"):
            if self._mark not in line:
                continue
            record = json.loads(line)
            value = record.get(self._metric)
            self._read += 1
            if self._read > self._returned:
                self._returned = self._read
                found.append(Evaluation(self._read, record["step"], math.nan if value is None else float(value)))
        return found
