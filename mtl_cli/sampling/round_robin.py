"""One task a step, in turn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from mtl_cli.sampling.sampler import EpochLength, Sampler, StepPlan, TasksPerStep, check_sizes, epoch_batches, require
from mtl_cli.types import PositiveInt


class _RoundRobinPlan(StepPlan):
    whole_batches = True

    def __init__(self, batch_sizes: dict[str, int]) -> None:
        self._batch_sizes = list(batch_sizes.items())

    def next(self, step: int, progress: float) -> dict[str, int]:
        return dict([self._batch_sizes[step % len(self._batch_sizes)]])


@dataclass(kw_only=True, frozen=True)
class RoundRobin(Sampler):
    """Step t holds one batch of task t mod K, in the order in which the run lists its K tasks.

    Args:
        batch_size: rows of a step; a mapping from task to number gives each task its own.
        epoch: an epoch gives every task as many steps as the task with the most batches needs to be seen once
            (`largest`), the one with the fewest (`smallest`), or the mean number of batches (`mean`, rounded up).
    """

    batch_size: PositiveInt | dict[str, PositiveInt] = 32
    epoch: EpochLength = "largest"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epoch in get_args(EpochLength), "epoch", self.epoch, "largest, smallest or mean")

    @property
    def tasks_per_step(self) -> TasksPerStep:
        """One."""
        return "one"

    def steps_per_epoch(self, sizes: Mapping[str, int], batches: Mapping[str, int] | None = None) -> int:
        """Return K times the batches of the largest, smallest or mean task."""
        check_sizes(sizes)
        return len(sizes) * epoch_batches(self.epoch, list((batches or self._batches(sizes)).values()))

    def plan(self, sizes: Mapping[str, int], seed: int) -> StepPlan:
        """Return the plan of a run; nothing in it is random."""
        check_sizes(sizes)
        return _RoundRobinPlan(self.batch_sizes(sizes))
