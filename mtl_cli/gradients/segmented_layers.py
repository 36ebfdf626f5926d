"""Layers whose backward pass hands over what each task's weight gradient is made of.

Shapes: N tokens of all rows, D inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, linear

from mtl_cli.precision import wide_dtype


class GradientCollector(Protocol):
    """Takes what a layer's backward pass hands over; `call` says which tokens are whose."""

    def take_weight(
        self, name: str, inputs_ND: torch.Tensor, gradients_NO: torch.Tensor, call: LayerCall, transposed: bool
    ) -> None:
        """Take what makes up a linear layer's weight gradients."""

    def take_sums(self, name: str, sums: list[torch.Tensor], call: LayerCall) -> None:
        """Take the gradient of a vector from each task in the call."""

    def take_rows(self, name: str, ids: torch.Tensor, gradients_ND: torch.Tensor, call: LayerCall, weight: Any) -> None:
        """Take the gradients of an embedding's outputs."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: who takes the gradients, whose they are, and which inputs belong to which task."""

    collector: GradientCollector
    names: Mapping[str, str | None]
    segments: list[tuple[int, slice]]

    def slices(self, num_tasks: int) -> list[slice]:
        """The inputs of each task of the step; none for those that are not in this call."""
        found = dict(self.segments)
        return [found.get(place, slice(0, 0)) for place in range(num_tasks)]


class SegmentedLinear(torch.autograd.Function):
    """A linear layer; weights (O, D), or (D, O) where `transposed`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        anchor: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        transposed: bool,
        call: LayerCall,
    ) -> torch.Tensor:
        """Compute the outputs as PyTorch does."""
        ctx.save_for_backward(inputs, weight)
        ctx.transposed, ctx.call = transposed, call
        return linear(inputs, weight.T if transposed else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient by the inputs; hand over what the weights' are made of."""
        inputs, weight = ctx.saved_tensors
        call: LayerCall = ctx.call
        inputs_ND = inputs.reshape(-1, inputs.shape[-1])
        gradients_NO = gradients.reshape(-1, gradients.shape[-1])
        back = gradients @ (weight.T if ctx.transposed else weight) if ctx.needs_input_grad[0] else None
        if (name := call.names["weight"]) is not None:
            call.collector.take_weight(name, inputs_ND, gradients_NO, call, ctx.transposed)
        if (name := call.names.get("bias")) is not None:
            call.collector.take_sums(name, sums(gradients_NO, call), call)
        return back, None, None, None, None, None


class SegmentedLayerNorm(torch.autograd.Function):
    """A layer normalisation, in PyTorch's own kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        anchor: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        eps: float,
        call: LayerCall,
    ) -> torch.Tensor:
        """Compute the outputs as PyTorch does."""
        outputs, mean, scale = torch.native_layer_norm(inputs, weight.shape, weight, bias, eps)
        ctx.save_for_backward(inputs, mean, scale, weight, bias)
        ctx.call = call
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient by the inputs; hand over what the weights' are made of."""
        inputs, mean, scale, weight, bias = ctx.saved_tensors
        call: LayerCall = ctx.call
        # On a GPU each call of a kernel counts: one pass for all tasks and sums by a product.
        normalise = norm_backward_at_once if inputs.is_cuda else norm_backward_by_task
        back, of_weight, of_bias = normalise(inputs, gradients, mean, scale, weight, bias, call)
        if (name := call.names["weight"]) is not None:
            call.collector.take_sums(name, of_weight, call)
        if (name := call.names.get("bias")) is not None:
            call.collector.take_sums(name, of_bias, call)
        return back, None, None, None, None, None


NormGradients = tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]
"""The gradient by the inputs of a layer normalisation, and each task's by its scale and its bias."""


def norm_backward_by_task(
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    call: LayerCall,
) -> NormGradients:
    """Run PyTorch's kernel over one task's tokens after the other."""
    D = inputs.shape[-1]
    inputs_ND, gradients_ND = inputs.reshape(-1, D), gradients.reshape(-1, D)
    mean_N1, scale_N1 = mean.reshape(-1, 1), scale.reshape(-1, 1)
    back: list[torch.Tensor] = []
    of_weight: list[torch.Tensor] = []
    of_bias: list[torch.Tensor] = []
    for _, part in call.segments:
        tensors = (gradients_ND[part], inputs_ND[part], [D], mean_N1[part], scale_N1[part], weight, bias)
        found = torch.ops.aten.native_layer_norm_backward(*tensors, [True, True, bias is not None])
        for kept, one in zip((back, of_weight, of_bias), found, strict=True):
            kept.append(one)
    return (torch.cat(back) if len(back) > 1 else back[0]).view_as(inputs), of_weight, of_bias


def norm_backward_at_once(
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    call: LayerCall,
) -> NormGradients:
    """Run PyTorch's kernel once for the inputs; form the sums of gradient times normalised input by one product."""
    D = inputs.shape[-1]
    back, _, _ = torch.ops.aten.native_layer_norm_backward(
        gradients, inputs, [D], mean, scale, weight, bias, [True, False, False]
    )
    inputs_ND, gradients_ND = inputs.reshape(-1, D), gradients.reshape(-1, D)
    normalised_ND = (inputs_ND - mean.reshape(-1, 1)) * scale.reshape(-1, 1)
    return back, sums_by_product(gradients_ND * normalised_ND, call), sums_by_product(gradients_ND, call)


class SegmentedEmbedding(torch.autograd.Function):
    """An embedding."""

    @staticmethod
    def forward(
        ctx: Any, ids: torch.Tensor, anchor: torch.Tensor, weight: torch.Tensor, padding: int | None, call: LayerCall
    ) -> torch.Tensor:
        """Compute the outputs as PyTorch does."""
        ctx.save_for_backward(ids, weight)
        ctx.padding, ctx.call = padding, call
        return embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient by the inputs; hand over what the weights' are made of."""
        ids, weight = ctx.saved_tensors
        call: LayerCall = ctx.call
        gradients_ND = gradients.reshape(-1, gradients.shape[-1])
        if ctx.padding is not None:  # the padding token's row is never trained
            gradients_ND = gradients_ND.masked_fill((ids.reshape(-1) == ctx.padding)[:, None], 0.0)
        name = call.names["weight"]
        assert name is not None
        call.collector.take_rows(name, ids.reshape(-1), gradients_ND, call, weight)
        return None, None, None, None, None


def sums(gradients_NO: torch.Tensor, call: LayerCall) -> list[torch.Tensor]:
    """Sum over the tokens of each task in the call, in float32 at least: in a bias, rounding would be seen."""
    if gradients_NO.is_cuda:
        return sums_by_product(gradients_NO, call)
    wide = wide_dtype(gradients_NO.dtype)
    return [gradients_NO[part].sum(0, dtype=wide) for _, part in call.segments]


def sums_by_product(gradients_NO: torch.Tensor, call: LayerCall) -> list[torch.Tensor]:
    """Do as `sums` by one product with a matrix of zeros and ones, (tasks, N)."""
    wide = wide_dtype(gradients_NO.dtype)
    member_KN = gradients_NO.new_zeros(len(call.segments), len(gradients_NO), dtype=wide)
    for place, (_, part) in enumerate(call.segments):
        member_KN[place, part] = 1.0
    return list((member_KN @ gradients_NO.to(wide)).unbind())
