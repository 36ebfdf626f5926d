"""One forward and one backward pass in which each shared layer forms its gradient a task at a time.

Rows of a step belong to one task each, and layers that treat tokens apart keep the rows apart: in the backward pass of
the plain sum of losses, what reaches a layer's outputs at one task's tokens is the gradient of that task's loss alone.
The layer's weight gradient is a sum over tokens; summed over each task's tokens by itself it is each task's gradient,
for the operations of the plain sum.

Shapes: K tasks of a step, N tokens of all rows, D inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mtl_cli.encoders import Layout
from mtl_cli.encoders.compiling import is_compiled
from mtl_cli.encoders.current_layout import current_layout_or_none
from mtl_cli.gradients.blocks import DenseBlock, ProductBlock, RowBlock, products
from mtl_cli.gradients.segmented_layers import LayerCall, SegmentedEmbedding, SegmentedLayerNorm, SegmentedLinear
from mtl_cli.gradients.shared import SharedParameter
from mtl_cli.gradients.task_gradients import TaskGradients

_LAYERS = (nn.Linear, Conv1D, nn.LayerNorm, nn.Embedding)


def why_not_segmented(model: nn.Module, shared: Mapping[str, SharedParameter], packed: bool) -> str | None:
    """Say what keeps the segmented way from this model, or None.

    Args:
        model: the multi-task model.
        shared: its shared parameters.
        packed: whether the encoder runs packed rows: with padded ones, position embeddings and biases are computed once
            for all rows, and belong to no task.
    """
    if not packed:
        return "the encoder runs padded rows"
    if is_compiled(model):
        return "the model is compiled"
    modules = dict(model.named_modules())
    for name in shared:
        owner = modules[name.rpartition(".")[0]]
        if type(owner) not in _LAYERS or "forward" in vars(owner):
            return f"{name} belongs to a layer ({type(owner).__name__}) that it does not know"
        if isinstance(owner, nn.Embedding) and (owner.max_norm is not None or owner.scale_grad_by_freq):
            return f"{name} has max_norm or scale_grad_by_freq"
    return None


class SegmentedPass:
    """Collects each task's gradients of the shared parameters while a forward and a backward pass run inside.

    Args:
        model: the multi-task model.
        shared: its shared parameters by name.
        tasks: the tasks of the step.
        keep_bytes: each task's weight gradients are kept as far as they fit into this; of further layers only what they
            are formed of, which costs a product more when they are asked for.
        measure: compute inner products at once, while the numbers are in the cache (not with several micro-batches,
            whose gradients are added up first).
    """

    def __init__(
        self,
        model: nn.Module,
        shared: Mapping[str, SharedParameter],
        tasks: tuple[str, ...],
        keep_bytes: float = float("inf"),
        measure: bool = True,
    ) -> None:
        self.gradients = TaskGradients(tasks, shared)
        self._place = {task: place for place, task in enumerate(tasks)}
        self._keep_bytes = keep_bytes
        self._measure = measure
        self._layout: Layout | None = None
        self._name_of = {id(entry.parameter): name for name, entry in shared.items()}
        self._modules = [
            module
            for module in model.modules()
            if type(module) in _LAYERS and any(id(p) in self._name_of for p in module.parameters(recurse=False))
        ]
        self._uses: Counter[str] = Counter()
        self._in_backward = False
        # What makes outputs part of the graph where neither a layer's inputs nor, here, its weights are.
        self._anchor = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)

    @contextmanager
    def running(self) -> Iterator[SegmentedPass]:
        """Inside, the shared layers compute as ever but leave their gradients here."""
        for module in self._modules:
            module.forward = _Forward(self, module)
        try:
            yield self
        finally:
            for module in self._modules:
                del module.forward

    def backward(self, objective: torch.Tensor) -> None:
        """Run the backward pass of the plain sum of the tasks' losses; other parameters get theirs in `.grad`."""
        self._in_backward = True
        objective.backward()
        for name, entry in self.gradients.shared.items():
            if entry.parameter.grad is not None:
                raise RuntimeError(f"{name} is used outside of its layer. Set weighting.engine=per_task.")

    # What the layers call.

    def call(self, module: nn.Module, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute a layer's outputs."""
        if args or kwargs:
            raise RuntimeError(f"{type(module).__name__} was called with more than its inputs.")
        names = {key: self._name_of.get(id(p)) for key, p in module.named_parameters(recurse=False)}
        call = LayerCall(self, names, self._segments(inputs, isinstance(module, nn.Embedding)))
        if not self._in_backward:  # gradient checkpointing computes a layer again in the backward pass
            self._uses.update(name for name in names.values() if name is not None)
        if isinstance(module, nn.Embedding):
            return SegmentedEmbedding.apply(inputs, self._anchor, module.weight.detach(), module.padding_idx, call)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, torch.Tensor)
        assert bias is None or isinstance(bias, torch.Tensor)
        device = inputs.device.type
        autocast = torch.is_autocast_enabled(device)
        if isinstance(module, nn.LayerNorm):
            if autocast and device != "cpu":  # as autocast has it: on a GPU in float32
                inputs = inputs.float()
            return SegmentedLayerNorm.apply(
                inputs, self._anchor, weight.detach(), None if bias is None else bias.detach(), module.eps, call
            )
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        transposed = isinstance(module, Conv1D)
        return SegmentedLinear.apply(
            inputs.to(dtype) if autocast else inputs,
            self._anchor,
            weight.detach().to(dtype),
            None if bias is None else bias.detach().to(dtype),
            transposed,
            call,
        )

    def _segments(self, inputs: torch.Tensor, is_ids: bool) -> list[tuple[int, slice]]:
        """Which of the flattened inputs belong to which task."""
        layout = current_layout_or_none()
        if layout is None:
            layout = self._layout
        elif len(layout.tasks) > 1 or self._layout is None:
            self._layout = layout
        assert layout is not None, "layers run inside Encoder.forward, heads inside use_layout"
        num_inputs = inputs.numel() if is_ids else inputs.numel() // inputs.shape[-1]
        if len(layout.tasks) == 1:
            return [(self._place[layout.tasks[0]], slice(0, num_inputs))]
        slices = layout.slices_of(num_inputs)
        if slices is None:
            raise RuntimeError(
                f"A shared layer got {num_inputs} inputs in a step of {layout.num_tokens} tokens, so that they belong "
                "to no task each. Set weighting.engine=per_task."
            )
        return [(self._place[task], part) for task, part in slices.items()]

    def take_weight(
        self, name: str, inputs_ND: torch.Tensor, gradients_NO: torch.Tensor, call: LayerCall, transposed: bool
    ) -> None:
        """Form or keep what makes up a linear layer's weight gradients."""
        left, right = (inputs_ND, gradients_NO) if transposed else (gradients_NO, inputs_ND)
        slices = call.slices(len(self._place))
        once = self._uses[name] == 1
        size = len(slices) * left.shape[1] * right.shape[1] * left.element_size()
        if once and size > self._keep_bytes:
            self._put(name, ProductBlock(inputs_ND, gradients_NO, slices, transposed))
            return
        if once:
            self._keep_bytes -= size
        self._put(name, DenseBlock(products(left, right, slices)))

    def take_sums(self, name: str, sums: list[torch.Tensor], call: LayerCall) -> None:
        """Take a vector (bias, scale of a normalisation) a task."""
        values = sums[0].new_zeros(len(self._place), *sums[0].shape)
        for (place, _), total in zip(call.segments, sums, strict=True):
            values[place] = total
        self._put(name, DenseBlock(values))

    def take_rows(self, name: str, ids: torch.Tensor, gradients_ND: torch.Tensor, call: LayerCall, weight: Any) -> None:
        """Take an embedding's gradients."""
        task_N = torch.empty_like(ids)
        for place, part in call.segments:
            task_N[part] = place
        self._put(name, RowBlock.sum_up(task_N, ids, gradients_ND, len(self._place), weight.shape))

    def _put(self, name: str, block: DenseBlock | RowBlock | ProductBlock) -> None:
        if self._measure and self._uses[name] == 1 and self.gradients.shared[name].in_scope:
            block.inner_products()
        self.gradients.add(name, block)


class _Forward:
    """Stands in for a module's `forward`."""

    def __init__(self, running: SegmentedPass, module: nn.Module) -> None:
        self.running = running
        self.module = module

    def __call__(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.running.call(self.module, inputs, *args, **kwargs)
