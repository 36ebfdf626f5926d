"""What every sampler shares: its settings, and the plan that it makes for the tasks of a run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from mtl_cli.types import NonNegativeInt, PositiveInt, UserError

# The configuration check reads the annotations of settings, so they stay objects (no postponed evaluation) here and in
# each sampler.

TasksPerStep = Literal["all", "some", "one"]
"""Whether each step holds every task, one task or more, or exactly one task."""

EpochLength = Literal["largest", "smallest", "mean"]
"""Which task's pass is an epoch where tasks differ in size: that of the most batches, of the fewest, or their mean."""


class StepPlan(ABC):
    """Says for each step of a run how many rows of which task it holds.

    Attributes:
        whole_batches: True where a task's part of a step is always one batch as its row stream cuts them (short at the
            end of a pass); False where it is a number of rows that varies, and a step may reach into the next pass.
    """

    whole_batches: ClassVar[bool]

    @abstractmethod
    def next(self, step: int, progress: float) -> dict[str, int]:
        """Return the number of rows of each task that takes part in a step, tasks in the order of the run.

        `step` counts from 0; `progress` is 0 at the first step of the run and 1 at the last.
        """

    def record(self, taken: Mapping[str, int]) -> None:  # noqa: B027 - most plans need not know
        """Learn how many rows the step really took: fewer than asked for where tokens are limited."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `next` depends on besides its arguments, as JSON takes it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most plans have no state
        """Continue from a `state_dict`."""


@dataclass(kw_only=True, frozen=True)
class Sampler(ABC):
    """Which tasks, and how many rows of each, make up a step.

    A row is what the encoder sees at once: an example, or a piece of one that is longer than the encoder takes.

    Args:
        batch_size: rows; of each task or of the whole step, see the sampler.
        max_tokens: most tokens of one task in a step: its part ends at `batch_size` or `max_tokens`, whichever comes
            first. A single row that is longer is taken alone. None: no limit.
        bucket_window: rows of similar length come together: so many batches are sorted by length at a time, and their
            order is shuffled. 0: rows come in random order whatever their length.
    """

    batch_size: PositiveInt | dict[str, PositiveInt] = 32
    max_tokens: PositiveInt | None = None
    bucket_window: NonNegativeInt = 50

    def __post_init__(self) -> None:
        sizes = self.batch_size if isinstance(self.batch_size, dict) else {None: self.batch_size}
        for task, size in sizes.items():
            require(size >= 1, "batch_size" if task is None else f"batch_size.{task}", size, "a positive whole number")
        require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more, or null")
        require(self.bucket_window >= 0, "bucket_window", self.bucket_window, "0 or more")

    @property
    @abstractmethod
    def tasks_per_step(self) -> TasksPerStep:
        """Whether each step holds all tasks, some, or one: some weightings need all of them."""

    @abstractmethod
    def steps_per_epoch(self, sizes: Mapping[str, int], batches: Mapping[str, int] | None = None) -> int:
        """Return the number of steps of an epoch over the data, at least 1.

        Args:
            sizes: rows of each task's training split.
            batches: batches in one pass over each task; None: size / batch_size, rounded up, as without `max_tokens`.
        """

    @abstractmethod
    def plan(self, sizes: Mapping[str, int], seed: int) -> StepPlan:
        """Return the plan of a run over tasks of these sizes; raises UserError where settings do not fit them."""

    def batch_sizes(self, tasks: Iterable[str]) -> dict[str, int]:
        """Return the batch size of each task; raises UserError unless a mapping names exactly these tasks."""
        tasks = list(tasks)
        if not isinstance(self.batch_size, dict):
            return dict.fromkeys(tasks, self.batch_size)
        unknown, missing = sorted(set(self.batch_size) - set(tasks)), sorted(set(tasks) - set(self.batch_size))
        if unknown or missing:
            found = [f"no such task: {', '.join(unknown)}"] if unknown else []
            found += [f"no batch size for: {', '.join(missing)}"] if missing else []
            raise UserError(
                f"sampler.batch_size: {'; '.join(found)}. The tasks of this run are {', '.join(tasks)}. "
                "Give one number for all tasks, or a number for each of them."
            )
        return {task: self.batch_size[task] for task in tasks}

    def settings(self) -> dict[str, Any]:
        """Return the sampler's name and settings, as JSON takes them."""
        return {"sampler": type(self).__name__, **asdict(self)}

    def _batches(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Batches in one pass over each task where only the number of rows limits them."""
        batch_sizes = self.batch_sizes(sizes)
        return {task: math.ceil(size / batch_sizes[task]) for task, size in sizes.items()}


def require(holds: bool, key: str, found: object, allowed: str) -> None:
    """Raise UserError about the setting `sampler.<key>` unless `holds`."""
    if not holds:
        raise UserError(f"sampler.{key} = {found!r}: must be {allowed}.")


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raise UserError unless there is a task, and each has a row to train on."""
    if not sizes:
        raise UserError("tasks: there is none to sample from. Choose at least one, as in task=[glue/sst2].")
    empty = [task for task, size in sizes.items() if size < 1]
    if empty:
        raise UserError(f"tasks without a training row: {', '.join(empty)}. Give them training data or leave them out.")


def epoch_batches(epoch: EpochLength, batches: Sequence[int]) -> int:
    """Return the batches of each task in an epoch, given the batches in one pass over each."""
    if epoch == "largest":
        return max(batches)
    return min(batches) if epoch == "smallest" else math.ceil(sum(batches) / len(batches))
