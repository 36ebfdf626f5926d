"""What a strategy has learnt about the tasks, to be logged and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Learnt:
    """A matrix of numbers with names for its rows and columns.

    Attributes:
        title: what it is, in a line.
        rows: names of its rows, most often tasks.
        columns: names of its columns.
        values: as many lists as rows, each with a number a column; None where there is none.
        scale: "signed" for numbers around 0, "share" for those between 0 and 1, "plain" for others.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    scale: str = "plain"

    @classmethod
    def of(
        cls, title: str, rows: Sequence[str], columns: Sequence[str], values: torch.Tensor, scale: str = "plain"
    ) -> Learnt:
        """Make one of a tensor, (rows, columns); numbers that are not finite become None."""
        assert values.shape == (len(rows), len(columns))
        numbers = [[v if abs(v) < float("inf") else None for v in row] for row in values.detach().double().tolist()]
        return cls(title, tuple(rows), tuple(columns), tuple(map(tuple, numbers)), scale)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, as in results.json."""
        return {
            "title": self.title,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "values": [list(row) for row in self.values],
            "scale": self.scale,
        }

    def flat(self, name: str) -> dict[str, float]:
        """Return `sharing/<name>/<row>/<column>` -> number, as in metrics.jsonl."""
        return {
            f"sharing/{name}/{row}/{column}": value
            for row, numbers in zip(self.rows, self.values, strict=True)
            for column, value in zip(self.columns, numbers, strict=True)
            if value is not None
        }
