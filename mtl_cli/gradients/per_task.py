"""A forward and a backward pass a task: works with any layer, and with a compiled model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from mtl_cli.gradients.blocks import Block, DenseBlock, RowBlock
from mtl_cli.gradients.shared import SharedParameter
from mtl_cli.gradients.task_gradients import TaskGradients, put
from mtl_cli.types import Batch, Step


def collect_per_task(
    compute: Callable[[str, Batch], tuple[torch.Tensor, torch.Tensor]],
    step: Step,
    tasks: tuple[str, ...],
    shared: Mapping[str, SharedParameter],
    own: Mapping[str, Sequence[nn.Parameter]],
) -> tuple[TaskGradients, dict[str, torch.Tensor]]:
    """Return each task's gradients of the shared parameters, and the losses; others get theirs in `.grad`.

    Args:
        compute: from a task's rows to its loss, and to what is differentiated.
        step: the rows of one micro-batch.
        tasks: all tasks of the step, in order.
        shared: the shared parameters by name.
        own: the task-specific parameters of each task.
    """
    gradients = TaskGradients(tasks, shared)
    dense: dict[str, torch.Tensor] = {}
    losses = {}
    for task, batch in step.items():
        place = tasks.index(task)
        loss, objective = compute(task, batch)
        losses[task] = loss.detach()
        parameters = [*(entry.parameter for entry in shared.values()), *own[task]]
        found = torch.autograd.grad(objective, parameters, allow_unused=True)
        for (name, entry), gradient in zip(shared.items(), found, strict=False):
            if gradient is None:
                continue
            if gradient.is_sparse:
                gradients.add(name, _rows(gradient, place, len(tasks)))
                continue
            if name not in dense:
                dense[name] = gradient.new_zeros(len(tasks), *entry.parameter.shape)
            dense[name][place] = gradient
        for parameter, gradient in zip(own[task], found[len(shared) :], strict=True):
            if gradient is not None:
                put(parameter, gradient.to_dense() if gradient.is_sparse else gradient)
    for name, values in dense.items():
        gradients.add(name, DenseBlock(values))
    return gradients, losses


def _rows(gradient: torch.Tensor, place: int, num_tasks: int) -> Block:
    gradient = gradient.coalesce()
    ids_R = gradient.indices()[0]
    return RowBlock(torch.full_like(ids_R, place), ids_R, gradient.values(), num_tasks, gradient.shape)


@contextmanager
def sparse_embeddings(model: nn.Module, shared: Mapping[str, SharedParameter]) -> Iterator[None]:
    """Inside, shared embeddings give the gradient of the rows that they looked up, not thousands of rows of zeros."""
    ids = {id(entry.parameter) for entry in shared.values()}
    modules = [m for m in model.modules() if type(m) is nn.Embedding and id(m.weight) in ids and not m.sparse]
    for module in modules:
        module.sparse = True
    try:
        yield
    finally:
        for module in modules:
            module.sparse = False
