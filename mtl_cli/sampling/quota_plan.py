"""Steps that hold all tasks in given shares, to within one row at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from mtl_cli.sampling.sampler import StepPlan

# A credit closer to 0 than this is 0 but for rounding: proportional credits are multiples of 1 / (rows of all tasks).
_ROUNDING = 1e-9


class QuotaPlan(StepPlan):
    """Each step of `batch_size` rows is divided among the tasks by their shares, remainders carried over.

    A task's credit is the rows due to it by its shares so far, less the rows it had. Each row of a step goes to the
    task whose next row is due first, among those with credit: the quota method (Balinski & Young, The Quota Method of
    Apportionment, American Mathematical Monthly 1975). With shares that do not change, no credit reaches 1 or -1 at any
    time (Tijdeman, The Chairman Assignment Problem, Discrete Mathematics 1980). Nothing is random.

    The last step of an epoch is short where `batch_size` does not divide the rows of all tasks, so that proportional
    shares give every row exactly once an epoch.

    Where a limit of tokens leaves a task short, its credit says so, and later steps hold less of the other tasks:
    shares are kept at the price of smaller steps.

    Args:
        shares: progress -> share of each task in the order of their sorted names, positive or zero, summing to 1.
        sizes: rows of each task.
        batch_size: rows of a step.
    """

    whole_batches = False

    def __init__(self, shares: Callable[[float], np.ndarray], sizes: Mapping[str, int], batch_size: int) -> None:
        self._shares_at = shares
        self._tasks = list(sizes)
        self._names = sorted(sizes)
        self._rows_per_epoch = sum(sizes.values())
        self._batch_size = batch_size
        self._credits = np.zeros(len(sizes))
        self._rows = 0  # of this epoch
        self._shares = shares(0.0)

    def next(self, step: int, progress: float) -> dict[str, int]:
        """Return the rows of each task in this step; tasks that get none are left out."""
        self._shares = self._shares_at(progress)
        num_rows = min(self._batch_size, self._rows_per_epoch - self._rows)
        counts = dict(zip(self._names, _allot(self._credits, self._shares, num_rows).tolist(), strict=True))
        return {task: counts[task] for task in self._tasks if counts[task]}

    def record(self, taken: Mapping[str, int]) -> None:
        """Settle the credits by the rows that the step took."""
        num_rows = sum(taken.values())
        self._credits += self._shares * num_rows
        self._credits -= np.array([taken.get(name, 0) for name in self._names])
        self._rows = (self._rows + num_rows) % self._rows_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the credits and the rows of the running epoch."""
        return {"credits": dict(zip(self._names, self._credits.tolist(), strict=True)), "rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a plan over the same tasks."""
        self._credits = np.array([state["credits"][name] for name in self._names], dtype=np.float64)
        self._rows = state["rows"]


def _allot(credits_K: np.ndarray, shares_K: np.ndarray, num_rows: int) -> np.ndarray:
    """Divide the rows of a step among K tasks, one after the other.

    Time counts the rows given out, from 1. A task's next row may come once its credit is above 0, and is due when the
    credit reaches 1, where the row after it may come.
    """
    counts_K = np.zeros(len(shares_K), dtype=np.int64)
    waiting = [((_ROUNDING - c) / p, k) for k, (c, p) in enumerate(zip(credits_K, shares_K, strict=True)) if p > 0]
    ready: list[tuple[float, int]] = []
    heapify(waiting)
    for time in range(1, num_rows + 1):
        while waiting and waiting[0][0] < time:
            start, task = heappop(waiting)
            heappush(ready, (start + 1 / shares_K[task], task))
        due, task = heappop(ready)
        counts_K[task] += 1
        heappush(waiting, (due, task))
    return counts_K
