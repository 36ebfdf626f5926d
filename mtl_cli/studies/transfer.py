"""Who helps whom: every pair of tasks against each task alone, and groups that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum

from mtl_cli.studies.comparison import gain_over
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.plan import pair_name
from mtl_cli.studies.statistics import PairedTest, holm, relative_gain

MOST_TASKS = 8
"""So many tasks have 4,140 partitions; each further one multiplies them by about five."""


@dataclass(frozen=True)
class TransferCell:
    """What a task gains by the company of another.

    Attributes:
        gain: in the unit of its metric over seeds; positive means better than alone.
        percent: mean over seeds of the gain in per cent of the value alone; None where that is near to zero.
        p_holm: of the gain, corrected over all cells.
    """

    gain: PairedTest
    percent: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Groups:
    """A proposal of which tasks to train together.

    Attributes:
        groups: a partition of the tasks.
        predicted_percent: mean over tasks of the predicted gain over training alone.
        together_percent: the same prediction for one group of all tasks.
    """

    groups: list[list[str]]
    predicted_percent: float
    together_percent: float


@dataclass(frozen=True)
class Transfer:
    """The transfer matrix.

    Attributes:
        split: it was measured on.
        tasks: in order.
        cells: (task, company) -> what the task gains.
        groups: proposed; None where a cell is missing or has no percentage, or there are too many tasks.
        why_no_groups: the reason.
    """

    split: str
    tasks: list[str]
    cells: dict[tuple[str, str], TransferCell]
    groups: Groups | None
    why_no_groups: str | None


def transfer_of(measured: Measured, split: str) -> Transfer | None:
    """Return the transfer matrix of a study with pairs: T[i, j], the gain of i trained with j over i alone."""
    if not measured.plan.settings.pairs:
        return None
    tasks = list(measured.plan.tasks)
    gains: dict[tuple[str, str], tuple[PairedTest, float | None]] = {}
    for first, second in combinations(tasks, 2):
        for task, company in ((first, second), (second, first)):
            found = _cell(measured, split, task, company, pair_name((first, second)))
            if found is not None:
                gains[task, company] = found
    corrected = holm([gain.p for gain, _ in gains.values()])
    cells = {
        place: TransferCell(gain, percent, p)
        for (place, (gain, percent)), p in zip(gains.items(), corrected, strict=True)
    }
    groups, reason = _propose(tasks, cells)
    return Transfer(split, tasks, cells, groups, reason)


def _cell(measured: Measured, split: str, task: str, company: str, pair: str) -> tuple[PairedTest, float | None] | None:
    higher = measured.plan.tasks[task].higher_is_better
    together = measured.values("pair", pair, task, split)
    alone = measured.values("single", task, task, split)
    gain = gain_over(together, alone, higher)
    if gain is None:
        return None
    parts = [relative_gain(together[seed], alone[seed], higher) for seed in together if seed in alone]
    known = [part for part in parts if part is not None]
    return gain, fsum(known) / len(known) if len(known) == len(parts) else None


def _propose(tasks: Sequence[str], cells: Mapping[tuple[str, str], TransferCell]) -> tuple[Groups | None, str | None]:
    if len(tasks) > MOST_TASKS:
        return None, f"groups are looked for among up to {MOST_TASKS} tasks"
    percents = {}
    for task in tasks:
        for company in tasks:
            if task == company:
                continue
            cell = cells.get((task, company))
            if cell is None:
                return None, f"{task} with {company} is missing"
            if cell.percent is None:
                return None, f"{task} alone is too near to zero for a gain in per cent"
            percents[task, company] = cell.percent
    return best_groups(tasks, percents), None


def best_groups(tasks: Sequence[str], percents: Mapping[tuple[str, str], float]) -> Groups:
    """Find the partition of the tasks whose predicted mean gain is the greatest; of equal ones that of fewest groups.

    The gain of task i in a group G is predicted as the mean of T[i, j] over the others j in G, and is 0 where i is
    alone; a partition is worth the mean over all tasks. All partitions are tried. That gains of larger groups follow
    from those of pairs is the higher-order approximation of Standley et al., Which Tasks Should Be Learned Together in
    Multi-task Learning? (ICML, 2020); Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning
    (NeurIPS, 2021), choose groups by such means, too. It is a proposal to be tested.

    Args:
        tasks: up to `MOST_TASKS`.
        percents: (task, company) -> gain in per cent.
    """

    def worth(groups: Sequence[Sequence[str]]) -> float:
        return fsum(predicted_gain(task, group, percents) for group in groups for task in group) / len(tasks)

    best = max(partitions(list(tasks)), key=lambda groups: (round(worth(groups), 9), -len(groups)))
    return Groups(best, worth(best), worth([tasks]))


def predicted_gain(task: str, group: Sequence[str], percents: Mapping[tuple[str, str], float]) -> float:
    """Return the mean gain of a task with each other one of its group; 0 where there is no other."""
    others = [percents[task, other] for other in group if other != task]
    return fsum(others) / len(others) if others else 0.0


def partitions(items: list[str]) -> Iterator[list[list[str]]]:
    """Yield every way to divide items into groups, items and groups in the order of `items`."""
    if not items:
        yield []
        return
    for smaller in partitions(items[:-1]):
        for place in range(len(smaller)):
            yield [[*group, items[-1]] if place == i else group for i, group in enumerate(smaller)]
        yield [*smaller, [items[-1]]]
