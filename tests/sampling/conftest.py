from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mtl_cli.data.encoded import EncodedSplit


def split_of(lengths: np.ndarray) -> EncodedSplit:
    row_starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    num_rows = len(lengths)
    return EncodedSplit(
        input_ids=np.repeat(np.arange(num_rows), lengths).astype(np.int32),  # each token is the number of its row
        row_starts=row_starts,
        token_type_ids=None,
        labels=np.arange(num_rows) % 2,
        positions=None,
        label_starts=None,
        word_numbers=None,
        example_numbers=np.arange(num_rows),
        num_examples=num_rows,
    )


@pytest.fixture(scope="session")
def make_splits() -> Callable[..., dict[str, EncodedSplit]]:
    """Training splits of so many rows of random lengths (3 to 59 tokens), by task."""

    def make(seed: int = 0, **sizes: int) -> dict[str, EncodedSplit]:
        generator = np.random.default_rng(seed)
        return {task: split_of(generator.integers(3, 60, size)) for task, size in sizes.items()}

    return make
