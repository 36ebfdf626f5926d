"""Splits rows into groups of similar length, so that attention computes little padding in few products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# The cost of a group of B rows padded to T tokens is B T (T + _COPY_COST) + _GROUP_COST, counted in pairs of tokens.
# Set by eye for a 6-block encoder of width 384 on two CPU cores: a group costs about as much as four rows of 32 tokens.
_COPY_COST = 32
_GROUP_COST = 8_000

# Of a pass through a whole encoder, padded to T: B T + _PASS_COST, counted in tokens. Not studied carefully.
_PASS_COST = 64

_MAX_CANDIDATES = 64


def group_by_length(lengths: np.ndarray) -> list[np.ndarray]:
    """Split rows into groups for attention, at the least cost.

    Args:
        lengths: tokens in each row, int64 (B,).

    Returns:
        The rows of each group, shortest rows first. Rows of one length are never split.
    """
    return _group(lengths, lambda longest: longest * (longest + _COPY_COST), _GROUP_COST)


def group_for_passes(lengths: np.ndarray) -> list[np.ndarray]:
    """Split rows into groups for passes through a padded encoder, at the least cost; as `group_by_length`."""
    return _group(lengths, lambda longest: longest, _PASS_COST)


def _group(lengths: np.ndarray, cost_of_row: Callable[[float], float], cost_of_group: float) -> list[np.ndarray]:
    """Split rows by dynamic programming over the distinct lengths."""
    order = np.argsort(lengths, kind="stable")
    rounding = 1
    while len(candidates := np.unique(-(-lengths // rounding))) > _MAX_CANDIDATES:
        rounding *= 2
    # rows_up_to[j]: rows no longer than candidate j; longest[j]: the longest of them. Index 0 stands for no row at all.
    rows_up_to = np.concatenate(([0], np.searchsorted(lengths[order], candidates * rounding, side="right")))
    longest = np.concatenate(([0], lengths[order][rows_up_to[1:] - 1]))
    best = np.zeros(len(rows_up_to))
    previous = np.zeros(len(rows_up_to), dtype=np.int64)
    for j in range(1, len(rows_up_to)):
        rows = rows_up_to[j] - rows_up_to[:j]
        total = best[:j] + rows * cost_of_row(float(longest[j])) + cost_of_group
        previous[j] = int(total.argmin())
        best[j] = total[previous[j]]
    groups = []
    j = len(rows_up_to) - 1
    while j > 0:
        groups.append(order[rows_up_to[previous[j]] : rows_up_to[j]])
        j = previous[j]
    return groups[::-1]
