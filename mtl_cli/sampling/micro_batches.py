"""Parts of a step for gradient accumulation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def split_step(rows: Mapping[str, np.ndarray], num_micro_batches: int) -> list[dict[str, np.ndarray]]:
    """Divide the rows of a step into micro-batches that differ by one row at most, in total and in each task.

    Each task's rows are spread over all micro-batches, in their order. A micro-batch lacks the tasks of which it has
    no row, and one without any row is left out: a step of 3 rows in 4 micro-batches gives 3.
    """
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(num_micro_batches)]
    first_larger = 0  # the part that gets the next of the rows that cannot be divided evenly
    for task, task_rows in rows.items():
        size, remainder = divmod(len(task_rows), num_micro_batches)
        larger = {(first_larger + index) % num_micro_batches for index in range(remainder)}
        first_larger = (first_larger + remainder) % num_micro_batches
        ends = np.cumsum([size + (index in larger) for index in range(num_micro_batches)])
        for part, part_rows in zip(parts, np.split(task_rows, ends[:-1]), strict=True):
            if len(part_rows):
                part[task] = part_rows
    return [part for part in parts if part]
