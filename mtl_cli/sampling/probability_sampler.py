"""What the samplers share that give each task a probability."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtl_cli.sampling.keyed_generator import keyed_generator
from mtl_cli.sampling.quota_plan import QuotaPlan
from mtl_cli.sampling.sampler import Sampler, StepPlan, TasksPerStep, check_sizes
from mtl_cli.types import PositiveInt


@dataclass(kw_only=True, frozen=True)
class ProbabilitySampler(Sampler):
    """A task takes part in training with probability p, which depends on the tasks' sizes and maybe on the progress.

    An epoch is as many rows as the training splits of all tasks hold together.

    Args:
        batch_size: rows of a step, whatever their tasks.
        mixed: True: each step holds rows of all tasks in shares of p, remainders carried over to the next step, so that
            a task is absent only from steps where its share is below one row. False: each step holds one task,
            drawn with probability p.
    """

    batch_size: PositiveInt = 32
    mixed: bool = True

    @abstractmethod
    def probabilities(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        """Return p of each task; they sum to 1. `progress` goes from 0 at the first step of a run to 1 at the last."""

    @property
    def tasks_per_step(self) -> TasksPerStep:
        """Some where steps are mixed, else one."""
        return "some" if self.mixed else "one"

    def steps_per_epoch(self, sizes: Mapping[str, int], batches: Mapping[str, int] | None = None) -> int:
        """Return the steps in which as many rows are seen as there are: expected, where tasks are drawn.

        Exact for mixed steps without `max_tokens`; with it, the limit of each task is taken at the mean length.
        """
        check_sizes(sizes)
        unlimited, p = self._batches(sizes), self.probabilities(sizes, progress=0.5)
        batches = batches or unlimited
        if not self.mixed or len(sizes) == 1:
            rows_per_step = sum(p[task] * sizes[task] / batches[task] for task in sizes)
        else:
            # Shares are kept, so the task whose tokens are limited most sets the size of a step.
            limits = [
                sizes[task] / batches[task] / p[task]
                for task in sizes
                if p[task] > 0 and batches[task] > unlimited[task]
            ]
            rows_per_step = min(self.batch_size, *limits) if limits else self.batch_size
        return max(1, math.ceil(sum(sizes.values()) / rows_per_step - 1e-9))  # 1e-9: rounding of floats

    def plan(self, sizes: Mapping[str, int], seed: int) -> StepPlan:
        """Return the plan of a run; the draws of unmixed steps depend on the seed and the number of the step alone."""
        check_sizes(sizes)
        names = sorted(sizes)  # so that the order in which a run lists its tasks does not matter

        def shares(progress: float) -> np.ndarray:
            p = self.probabilities(sizes, progress)
            return np.array([p[name] for name in names])

        if self.mixed and len(sizes) > 1:
            return QuotaPlan(shares, sizes, self.batch_size)
        return _DrawPlan(self, sizes, seed)


class _DrawPlan(StepPlan):
    whole_batches = True

    def __init__(self, sampler: ProbabilitySampler, sizes: Mapping[str, int], seed: int) -> None:
        self._sampler = sampler
        self._sizes = dict(sorted(sizes.items()))
        self._seed = seed

    def next(self, step: int, progress: float) -> dict[str, int]:
        probabilities = self._sampler.probabilities(self._sizes, progress)
        draw = keyed_generator(self._seed, "task of step", step).random()
        index = np.searchsorted(np.cumsum(list(probabilities.values())), draw, side="right")
        task = list(probabilities)[min(int(index), len(probabilities) - 1)]
        return {task: self._sampler.batch_size}


def power_probabilities(sizes: Mapping[str, int], exponent: float) -> dict[str, float]:
    """Return p proportional to size ** exponent, computed in logarithms."""
    logits = exponent * np.log(np.array(list(sizes.values()), dtype=np.float64))
    weights = np.exp(logits - logits.max())
    return dict(zip(sizes, (weights / weights.sum()).tolist(), strict=True))
