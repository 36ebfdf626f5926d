"""Losses of a strategy's own that depend on what a step's rows compute, such as the balance of experts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

AuxiliaryLosses = dict[str, dict[str, torch.Tensor]]
"""Name of the loss -> task -> scalar with a graph, times its weight."""

_collected: ContextVar[AuxiliaryLosses | None] = ContextVar("auxiliary_losses", default=None)


def add_auxiliary_loss(name: str, task: str, value: torch.Tensor) -> None:
    """Add to the objective what some rows of a task cost besides the task's own loss.

    Nothing happens outside of training. Under a weighting of losses it is added as it is, whatever the task's weight;
    under one of gradients it is part of its task's gradient.

    Args:
        name: under which it is logged, as train/penalty/<name>.
        task: whose rows these are.
        value: a scalar, a mean over these rows, times the weight that the strategy gives it.
    """
    collected = _collected.get()
    if collected is None:
        return
    of_tasks = collected.setdefault(name, {})
    of_tasks[task] = of_tasks[task] + value if task in of_tasks else value


@contextmanager
def collect_auxiliary_losses() -> Iterator[AuxiliaryLosses]:
    """Inside, `add_auxiliary_loss` adds to what is returned."""
    collected: AuxiliaryLosses = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
