"""The part of a step, or of a split, that each of several processes computes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

from mtl_cli.sampling.micro_batches import divide_rows


def shard_step(
    rows: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray], num_shards: int
) -> list[dict[str, np.ndarray]]:
    """Divide the rows of a step, of all tasks together, into shards of about as many tokens.

    Every process works out all shards from the same numbers. A shard keeps the order of the rows, lacks tasks of which
    it has no row, and may be empty.

    Args:
        rows: row numbers of each task.
        lengths: tokens of each row of each task's split.
        num_shards: how many processes there are.
    """
    tokens = np.concatenate([lengths[task][of_task] for task, of_task in rows.items()] or [np.zeros(0, dtype=np.int64)])
    return divide_rows(rows, assign_rows(tokens, num_shards), num_shards)


def assign_rows(lengths: np.ndarray, num_shards: int) -> np.ndarray:
    """Return which shard each row goes to: the longest row first, always to the shard with the fewest tokens.

    (Graham, Bounds on Multiprocessing Timing Anomalies, SIAM Journal on Applied Mathematics, 1969: no shard has more
    than 4/3 of the tokens of the best division.)
    """
    shard_of_row = np.zeros(len(lengths), dtype=np.int64)
    filled = [(0, 0, number) for number in range(num_shards)]  # tokens, rows, number of the shard
    for row in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        tokens, num_rows, number = filled[0]
        shard_of_row[row] = number
        heapq.heapreplace(filled, (tokens + int(lengths[row]), num_rows + 1, number))
    return shard_of_row
