"""Parts of prediction records that all types of task share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets

_OWN_KEYS = frozenset({"index", "label", "prediction", "probabilities", "scores"})


def input_values(examples: datasets.Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give the input columns of each example; a column named like a key of ours becomes `input_NAME`."""
    keys = {column: f"input_{column}" if column in _OWN_KEYS else column for column in columns}
    for example in examples.select_columns(list(columns)):
        yield {key: example[column] for column, key in keys.items()}


def rounded(values_C: np.ndarray) -> list[float]:
    """Probabilities as numbers for JSON: six places, which is about what float32 tells apart."""
    return [round(value, 6) for value in values_C.tolist()]
