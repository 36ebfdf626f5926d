"""How long a run is: steps of an epoch, and of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtl_cli.data import EncodedSplit
from mtl_cli.sampling import Sampler, count_steps_per_epoch

if TYPE_CHECKING:
    from mtl_cli.training.trainer import Trainer


@dataclass(frozen=True)
class RunLength:
    """Steps of an epoch and of a run."""

    steps_per_epoch: int
    total_steps: int


def run_length(settings: Trainer, sampler: Sampler, splits: Mapping[str, EncodedSplit], seed: int) -> RunLength:
    """Return the length of a run over these training splits: as the settings state it, or by the sampler's epoch."""
    steps_per_epoch = settings.steps_per_epoch or count_steps_per_epoch(sampler, splits, seed=seed)
    return RunLength(steps_per_epoch, settings.max_steps or math.ceil(settings.epochs * steps_per_epoch))
