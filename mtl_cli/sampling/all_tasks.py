"""Every task in every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from mtl_cli.sampling.sampler import EpochLength, Sampler, StepPlan, TasksPerStep, check_sizes, epoch_batches, require
from mtl_cli.types import PositiveInt


class _AllTasksPlan(StepPlan):
    whole_batches = True

    def __init__(self, batch_sizes: dict[str, int]) -> None:
        self._batch_sizes = batch_sizes

    def next(self, step: int, progress: float) -> dict[str, int]:
        return dict(self._batch_sizes)


@dataclass(kw_only=True, frozen=True)
class AllTasks(Sampler):
    """Each step holds one batch of each task; a smaller task starts over when its rows are used up.

    The only sampler for weightings that compare the tasks of one step (PCGrad, MGDA, GradNorm, ...) at every step.

    Args:
        batch_size: rows of each task in a step; a mapping from task to number gives each its own.
        epoch: an epoch lasts until the task with the most batches was seen once (`largest`), the one with the fewest
            (`smallest`), or for the mean number of batches (`mean`, rounded up).
    """

    batch_size: PositiveInt | dict[str, PositiveInt] = 32
    epoch: EpochLength = "largest"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epoch in get_args(EpochLength), "epoch", self.epoch, "largest, smallest or mean")

    @property
    def tasks_per_step(self) -> TasksPerStep:
        """All."""
        return "all"

    def steps_per_epoch(self, sizes: Mapping[str, int], batches: Mapping[str, int] | None = None) -> int:
        """Return the batches of the largest, smallest or mean task."""
        check_sizes(sizes)
        return epoch_batches(self.epoch, list((batches or self._batches(sizes)).values()))

    def plan(self, sizes: Mapping[str, int], seed: int) -> StepPlan:
        """Return the plan of a run; nothing in it is random."""
        check_sizes(sizes)
        return _AllTasksPlan(self.batch_sizes(sizes))
