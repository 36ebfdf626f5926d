"""The gradient of the shared representation, in the place of that of all shared parameters.

Rows of a step belong to one task each, so the losses' gradients by the hidden states themselves never meet: their
inner products are zero. What tasks share is what an offset added to each token's hidden state would change, and its
gradient is the sum over a task's tokens, (D,). With the weights that follow from it the backward pass goes on through
the encoder, at the cost of the plain sum (compare MGDA-UB: Sener and Koltun, NeurIPS 2018).

Shapes: K tasks of the step, N tokens, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from mtl_cli.encoders import Layout
from mtl_cli.encoders.current_layout import current_layout_or_none
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import wide_dtype
from mtl_cli.sharing import TaskModules
from mtl_cli.sharing.columns import Columns
from mtl_cli.sharing.hierarchical import ExitBlock
from mtl_cli.types import UserError

Weigh = Callable[[torch.Tensor], torch.Tensor]
"""From each task's summed gradient, (K, D), to the weight of each task, (K,), on the CPU."""


class RepresentationTap:
    """Sees the gradient of the last hidden states that all tasks share on its way down, and scales each task's rows.

    Args:
        model: the model.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self._model = model
        if not any(p.requires_grad for p in model.encoder.parameters()):
            raise UserError(
                "weighting.scope: 'representation' needs an encoder that is trained, but all of it is frozen; use a "
                "weighting of losses, such as weighting=equal"
            )
        blocks = list(model.encoder.blocks)
        reason = model.sharing.why_no_representation(len(blocks))
        if reason is not None:
            raise UserError(f"weighting.scope: found 'representation', but {reason}; use weighting.scope=all")
        common = [_is_common(block, len(model.tasks)) for block in blocks]
        if all(common):
            self._module: nn.Module = model.encoder
        else:
            last = common.index(False) - 1
            if last < 0:
                raise UserError(
                    "weighting.scope: 'representation' needs a block that all tasks share, but the strategy of this "
                    "run shares none; use weighting.scope=all"
                )
            self._module = blocks[last]

    @contextmanager
    def running(self, tasks: tuple[str, ...], weigh: Weigh) -> Iterator[RepresentationTap]:
        """Inside, gradients that pass the shared representation are scaled by what `weigh` says."""
        self._tasks = tasks
        self._weigh = weigh
        self._layout: Layout | None = None
        self.output: torch.Tensor | None = None
        before = self._model.encoder.register_forward_pre_hook(self._remember_layout)
        handle = self._module.register_forward_hook(self._hook)
        try:
            yield self
        finally:
            handle.remove()
            before.remove()

    def _remember_layout(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._layout = inputs[2]

    def _hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if current_layout_or_none() is None and module is not self._model.encoder:
            return None
        if isinstance(output, tuple):
            self.output = _Tap.apply(output[0], self)
            return (self.output, *output[1:])
        self.output = _Tap.apply(output, self)
        return self.output

    def _slices(self, gradient: torch.Tensor) -> tuple[int, dict[str, slice]]:
        """Along which dimension of a gradient the tasks lie, and where."""
        layout = self._layout
        assert layout is not None
        if gradient.ndim == 2:
            return 0, dict(layout.read_slices)
        return (1, dict(layout.token_slices)) if layout.packed else (0, dict(layout.row_slices))

    def sums(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return each task's gradient summed over its tokens, (K, D); zeros for tasks that are not in these rows."""
        wide = wide_dtype(gradient.dtype)
        sums_KD = torch.zeros(len(self._tasks), gradient.shape[-1], dtype=wide, device=gradient.device)
        dim, slices = self._slices(gradient)
        for task, part in slices.items():
            of_task = gradient.narrow(dim, part.start, part.stop - part.start)
            sums_KD[self._tasks.index(task)] = of_task.reshape(-1, gradient.shape[-1]).sum(0, dtype=wide)
        return sums_KD

    def scaled(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient with each task's rows times its weight."""
        weights_K = self._weigh(self.sums(gradient))
        scaled = torch.empty_like(gradient)
        dim, slices = self._slices(gradient)
        for task, part in slices.items():
            size = part.stop - part.start
            weight = float(weights_K[self._tasks.index(task)])
            torch.mul(gradient.narrow(dim, part.start, size), weight, out=scaled.narrow(dim, part.start, size))
        return scaled


def _is_common(block: nn.Module, num_tasks: int) -> bool:
    """Whether all tasks' rows go through the same modules of a block."""
    return not any(
        (isinstance(module, TaskModules) and len(module) > 0)
        or isinstance(module, Columns)
        or (isinstance(module, ExitBlock) and len(module.tasks) < num_tasks)
        for module in block.modules()
    )


class _Tap(torch.autograd.Function):
    """The identity; scales the gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, tap: RepresentationTap) -> torch.Tensor:
        ctx.tap = tap
        return hidden.view_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.tap.scaled(gradient), None


def gramian_of(sums_KD: torch.Tensor) -> torch.Tensor:
    """Return the inner products of the tasks' summed gradients, float64 on the CPU, (K, K)."""
    wide_KD = sums_KD.double()
    return (wide_KD @ wide_KD.T).cpu()


def scale_gradients(parameters: Sequence[nn.Parameter], weight: float) -> None:
    """Multiply `.grad` of each parameter."""
    if weight == 1.0:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(weight)
