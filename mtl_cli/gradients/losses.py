"""The losses of a step: a forward pass of some rows, and each task's loss of its own.

Shapes: K tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from mtl_cli.gradients.ranks import is_distributed, sum_over_ranks
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import autocast
from mtl_cli.sharing.auxiliary import collect_auxiliary_losses
from mtl_cli.types import Batch, Step

Normalizers = Mapping[str, torch.Tensor]
"""What each task's sum of losses is divided by: the valid labels of a whole step, whatever its parts."""


class Losses:
    """Computes the losses of a step's parts.

    Args:
        model: the model, on `device`.
        precision: of forward passes.
        device: where they run.

    Attributes:
        filler: rows that a process without any passes through the model all the same, where all processes have to take
            part in a pass; `nothing` is then what is differentiated, a zero with a graph.
    """

    def __init__(self, model: MultiTaskModel, precision: Literal["bf16", "fp32"], device: torch.device) -> None:
        self.model = model
        self.precision: Literal["bf16", "fp32"] = precision
        self.device = device
        self.auxiliary: dict[str, torch.Tensor] = {}
        self.filler: Step | None = None
        self.nothing: torch.Tensor | None = None

    def normalizers(self, micro_batches: Sequence[Step], tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        """Count what the losses of all micro-batches, on all processes, are divided by, for each of these tasks."""
        found: dict[str, torch.Tensor] = {}
        for micro_batch in micro_batches:
            add_losses(found, {t: self.model.tasks[t].normalizer(_labels(batch)) for t, batch in micro_batch.items()})
        return summed(found, tasks, self.device)

    def __call__(self, step: Step, normalizers: Normalizers) -> dict[str, torch.Tensor]:
        """Return the part of each task's loss that these rows make up, with a graph.

        `auxiliary` then holds what else the sharing strategy adds for these rows, by name, with a graph. Both are empty
        where there are no rows: one process of several may have none of a step.
        """
        self.nothing = None
        if not step:
            self.auxiliary = {}
            if self.filler is not None:
                with autocast(self.precision, self.device):
                    logits = self.model(self.filler)
                self.nothing = torch.stack([of_task.float().sum() for of_task in logits.values()]).sum() * 0.0
            return {}
        with collect_auxiliary_losses() as collected, autocast(self.precision, self.device):
            logits = self.model(step)
        self.auxiliary = {
            name: torch.stack(
                [value.float() * self._share(task, step[task], normalizers) for task, value in of_tasks.items()]
            ).sum()
            for name, of_tasks in collected.items()
        }
        return {
            task: self.model.tasks[task].loss(logits[task], _labels(batch), normalizers[task])
            for task, batch in step.items()
        }

    def _share(self, task: str, batch: Batch, normalizers: Normalizers) -> torch.Tensor:
        """How much of a task's part of a step these rows are."""
        return self.model.tasks[task].normalizer(_labels(batch)) / normalizers[task].clamp(min=1e-12)

    def objective(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the sum of these (weighted) losses and of the auxiliary losses of the last call."""
        return torch.stack([losses.sum(), *self.auxiliary.values()]).sum() if self.auxiliary else losses.sum()


def add_losses(total: dict[str, torch.Tensor], part: Mapping[str, torch.Tensor]) -> None:
    """Add the losses of a part, without their graphs."""
    for task, loss in part.items():
        total[task] = total[task] + loss.detach() if task in total else loss.detach()


def summed(found: Mapping[str, torch.Tensor], tasks: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
    """Return each task's number summed over processes, of which some may have no rows of it."""
    if not is_distributed():
        return {task: found[task] for task in tasks}
    zero = torch.zeros((), device=device)
    total_K = sum_over_ranks(torch.stack([found.get(task, zero).float() for task in tasks]))
    return dict(zip(tasks, total_K.unbind(), strict=True))


def _labels(batch: Batch) -> torch.Tensor:
    assert batch.labels_M is not None, "a training split has labels"
    return batch.labels_M


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Return the state of the generators that dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(state: Sequence[torch.Tensor], device: torch.device) -> None:
    """Continue from a state that `random_state` returned."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def random_draws_of(state: Sequence[torch.Tensor], device: torch.device) -> Iterator[None]:
    """Inside, dropout draws once more what it drew from `state` on; afterwards it goes on as if nothing had been."""
    now = random_state(device)
    set_random_state(state, device)
    try:
        yield
    finally:
        set_random_state(now, device)
