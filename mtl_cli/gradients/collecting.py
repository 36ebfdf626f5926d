"""Each task's gradients of the shared parameters over a whole step: all micro-batches, all processes.

Shapes: K tasks of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import nn

from mtl_cli.encoders.compiling import is_compiled
from mtl_cli.gradients.blocks import Block, DenseBlock, RowBlock
from mtl_cli.gradients.losses import Losses, Normalizers, add_losses, summed
from mtl_cli.gradients.per_task import collect_per_task, sparse_embeddings
from mtl_cli.gradients.ranks import is_distributed, sum_blocks_over_ranks, sum_over_ranks
from mtl_cli.gradients.segmented import SegmentedPass
from mtl_cli.gradients.shared import SharedParameter, trained_parameters
from mtl_cli.gradients.task_gradients import TaskGradients
from mtl_cli.model import MultiTaskModel
from mtl_cli.types import Batch, Step

Objective = Callable[[torch.Tensor], torch.Tensor]
"""From the losses of some rows to what is differentiated: their sum, and what the strategy adds for these rows."""

# The tasks' gradients may take up this share of the bytes of the trained parameters (weight, gradient, two moments: 16
# each) before layers keep what their gradients are formed of instead.
_KEEP_SHARE = 0.6


class TaskGradientCollector:
    """Forms the tasks' gradients in one backward pass, or in one a task.

    Args:
        model: the model.
        losses: how the losses of some rows are computed.
        shared: its shared parameters by name.
        own: the task-specific parameters of each task.
        segmented: whether one backward pass forms the gradients of all tasks.
        keep_all: keep all gradients themselves, however much memory they take.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        losses: Losses,
        shared: Mapping[str, SharedParameter],
        own: Mapping[str, Sequence[nn.Parameter]],
        segmented: bool,
        keep_all: bool,
    ) -> None:
        self.segmented = segmented
        self._model = model
        self._losses = losses
        self._shared = shared
        self._own = own
        self._trained = trained_parameters(model)
        self._compiled = is_compiled(model)
        self._keep_bytes = math.inf if keep_all else 16 * _KEEP_SHARE * sum(p.numel() for p in self._trained)

    def collect(
        self, tasks: tuple[str, ...], objective: Objective, micro_batches: Sequence[Step], measure: bool = True
    ) -> tuple[TaskGradients, dict[str, torch.Tensor]]:
        """Return each task's gradients, and the losses; task-specific parameters get theirs in `.grad`.

        Args:
            tasks: of the step, in all processes.
            objective: what is differentiated.
            micro_batches: the rows.
            measure: whether the gradients' inner products with one another will be asked for.
        """
        for parameter in self._trained:  # of several batches, the last one's gradients count
            parameter.grad = None
        normalizers = self._losses.normalizers(micro_batches, tasks)
        measure_at_once = measure and len(micro_batches) == 1 and not is_distributed()
        gradients = TaskGradients(tasks, self._shared)
        losses: dict[str, torch.Tensor] = {}
        for micro_batch in filter(None, micro_batches):
            if self.segmented:
                keep_bytes = self._keep_bytes if measure else 0
                running = SegmentedPass(self._model, self._shared, tasks, keep_bytes, measure_at_once)
                with running.running():
                    part = self._losses(micro_batch, normalizers)
                    running.backward(objective(torch.stack(list(part.values()))))
                found = running.gradients
            else:
                found, part = self._collect_per_task(tasks, objective, micro_batch, normalizers)
            gradients.add_all(found)
            add_losses(losses, part)
        if is_distributed():
            gradients.blocks = sum_blocks_over_ranks(self._aligned(gradients))
        return gradients, summed(losses, tasks, self._losses.device)

    def _collect_per_task(
        self, tasks: tuple[str, ...], objective: Objective, micro_batch: Step, normalizers: Normalizers
    ) -> tuple[TaskGradients, dict[str, torch.Tensor]]:
        def compute(task: str, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            loss = self._losses({task: batch}, normalizers)[task]
            return loss, objective(loss)

        # Compiled graphs know no sparse gradients.
        with nullcontext() if self._compiled else sparse_embeddings(self._model, self._shared):
            return collect_per_task(compute, micro_batch, tasks, self._shared, self._own)

    def _aligned(self, gradients: TaskGradients) -> dict[str, Block]:
        """The same parameters, each in the same form, in all processes; zeros where this one has no gradient."""
        found = [gradients.blocks.get(name) for name in self._shared]
        kinds = torch.tensor(
            [[isinstance(block, RowBlock), block is not None and not isinstance(block, RowBlock)] for block in found]
        )
        aligned: dict[str, Block] = {}
        counts = sum_over_ranks(kinds.float()).tolist()
        num_tasks = len(gradients.tasks)
        for (name, entry), block, (rows, dense) in zip(self._shared.items(), found, counts, strict=True):
            if dense:
                shape = (num_tasks, *entry.parameter.shape)
                aligned[name] = DenseBlock(entry.parameter.new_zeros(shape)) if block is None else block.to_dense()
            elif rows:
                aligned[name] = block or RowBlock.empty(entry.parameter, num_tasks)
        return aligned
