"""Which rows make up a split: carving a validation split, limiting the training rows. Rows are numbers, ascending."""

from __future__ import annotations

import numpy as np


def _generator(seed: int, purpose: int) -> np.random.Generator:
    """A generator of this purpose's own: what one draw takes does not change another, nor another task's."""
    return np.random.default_rng([seed, purpose])


def carve(
    rows: np.ndarray, fraction: float, seed: int, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split `rows` into those that stay and those carved out, drawn by the seed alone.

    Args:
        rows: row numbers.
        fraction: share to carve out, rounded to whole rows; at least one is carved and at least one stays.
        seed: equal seeds carve equal rows.
        classes: class id of each row. Given, each class is carved in proportion (the largest remainders round up), and
            the only row of a class stays.

    Returns:
        The rows that stay, the rows carved out; both ascending.
    """
    num_carved = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    order = _generator(seed, purpose=0).permutation(len(rows))
    if classes is not None:
        order = order[_stratified_first(classes[order], num_carved)]
    carved = np.zeros(len(rows), dtype=bool)
    carved[order[:num_carved]] = True
    return rows[~carved], rows[carved]


def _stratified_first(classes: np.ndarray, num_first: int) -> np.ndarray:
    """An order of the places of `classes` whose first `num_first` hold each class in proportion."""
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    exact = counts * (num_first / len(classes))
    quotas = np.floor(exact).astype(np.int64)
    # Rows left to hand out go to the classes with the largest remainders that keep a row; should there be too few such
    # classes, the carved split is filled up from the rest.
    for place in np.argsort(quotas - exact, kind="stable")[: num_first - quotas.sum()]:
        quotas[place] += quotas[place] < counts[place] - 1
    by_class = np.argsort(inverse, kind="stable")
    rank_within_class = np.empty(len(classes), dtype=np.int64)
    rank_within_class[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    only_row = counts[inverse] == 1
    return np.lexsort((rank_within_class, only_row, rank_within_class >= quotas[inverse]))


def limit(rows: np.ndarray, fraction: float | None, maximum: int | None, seed: int) -> np.ndarray:
    """Keep `fraction` of the rows and at most `maximum`, at least one, drawn by the seed; ascending.

    A smaller selection is part of every greater one of the same seed, as the points of a learning curve should be.
    """
    num_kept = len(rows) if fraction is None else max(1, round(len(rows) * fraction))
    if maximum is not None:
        num_kept = min(num_kept, maximum)
    if num_kept >= len(rows):
        return rows
    order = _generator(seed, purpose=1).permutation(len(rows))
    return np.sort(rows[order[:num_kept]])
