"""Learning-rate schedules: the factor of the base rate at a step. Stateless, so that resuming needs nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from mtl_cli.types import Fraction, NonNegativeInt


class Schedule(ABC):
    """Linear warm-up from 0, then the shape of a subclass.

    Args:
        warmup_fraction: share of all steps over which the learning rate rises.
        warmup_steps: the same as a number of steps; wins over `warmup_fraction`.
        final_fraction: share of the base learning rate that is left at the last step.
    """

    def __init__(
        self,
        warmup_fraction: Fraction | None = None,
        warmup_steps: NonNegativeInt | None = None,
        final_fraction: Fraction = 0.0,
    ) -> None:
        self.warmup_fraction = warmup_fraction or 0.0
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction

    def factor(self, step: int, total_steps: int) -> float:
        """Factor of the base learning rate for update `step`, counted from 0, of `total_steps`."""
        warmup = self.warmup_steps if self.warmup_steps is not None else round(self.warmup_fraction * total_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.final_fraction + (1 - self.final_fraction) * self._decay(min(1.0, progress))

    @abstractmethod
    def _decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""


class Linear(Schedule):
    """Falls in a straight line after warm-up (the fine-tuning schedule of Devlin et al., BERT, NAACL 2019)."""

    def _decay(self, progress: float) -> float:
        return 1 - progress


class Cosine(Schedule):
    """Falls along half a cosine after warm-up (Loshchilov and Hutter, SGDR, ICLR 2017, without restarts)."""

    def _decay(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


class Constant(Schedule):
    """Stays at the base learning rate after warm-up."""

    def _decay(self, progress: float) -> float:
        return 1.0
