"""Parts of a step for gradient accumulation."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

Rows = Mapping[str, np.ndarray]
"""Row numbers of each task."""


def split_step(rows: Rows, num_micro_batches: int) -> list[dict[str, np.ndarray]]:
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


def split_by_tokens(rows: Rows, lengths: Rows, most_tokens: float, *, padded: bool) -> list[dict[str, np.ndarray]]:
    """Divide rows into few micro-batches of at most so many tokens each; a longer row has one to itself.

    A micro-batch keeps the order of the rows and lacks tasks of which it has no row.

    Args:
        rows: row numbers of each task.
        lengths: tokens of each row of each task's split.
        most_tokens: of a micro-batch.
        padded: whether each row counts as the longest of its micro-batch: then rows of like length stand together.
            Else micro-batches have about as many tokens each, of rows of any length.
    """
    tokens = np.concatenate([lengths[task][of_task] for task, of_task in rows.items()])
    part_of_row = _parts_of_like_length(tokens, most_tokens) if padded else _parts_of_like_size(tokens, most_tokens)
    return divide_rows(rows, part_of_row, int(part_of_row.max()) + 1)


def _parts_of_like_length(tokens: np.ndarray, most_tokens: float) -> np.ndarray:
    """The longest rows first, as many as fit where each counts as the first of them."""
    order = np.argsort(-tokens, kind="stable")
    part_of_row = np.zeros(len(tokens), dtype=np.int64)
    begin = number = 0
    while begin < len(order):
        end = begin + max(1, int(most_tokens // tokens[order[begin]]))
        part_of_row[order[begin:end]] = number
        begin, number = end, number + 1
    return part_of_row


def _parts_of_like_size(tokens: np.ndarray, most_tokens: float) -> np.ndarray:
    """The longest row first, always to the part with the fewest tokens, and to a new one where that cannot take it.

    It begins with as many parts as there have to be. (Worst-fit decreasing: Johnson, Near-Optimal Bin Packing
    Algorithms, MIT, 1973.)
    """
    fits = tokens <= most_tokens
    least = int((~fits).sum() + np.ceil(tokens[fits].sum() / most_tokens))
    filled = [(0, number) for number in range(least)]  # tokens, number of the part
    part_of_row = np.zeros(len(tokens), dtype=np.int64)
    for row in np.argsort(-tokens, kind="stable").tolist():
        before, number = filled[0]
        if before and before + tokens[row] > most_tokens:
            number = len(filled)
            heapq.heappush(filled, (int(tokens[row]), number))
        else:
            heapq.heapreplace(filled, (before + int(tokens[row]), number))
        part_of_row[row] = number
    return part_of_row


def divide_rows(rows: Rows, part_of_row: np.ndarray, num_parts: int) -> list[dict[str, np.ndarray]]:
    """Return the rows of each part in their order, where `part_of_row` goes through one task's rows after the other."""
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(num_parts)]
    begin = 0
    for task, of_task in rows.items():
        of_part = part_of_row[begin : begin + len(of_task)]
        begin += len(of_task)
        for number, part in enumerate(parts):
            if len(mine := of_task[of_part == number]):
                part[task] = mine
    return parts
