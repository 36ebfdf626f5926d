"""What the machine can do at most: the rate of plain matrix products, and what training a token takes of it.

Shapes: N tokens, D hidden width, I inputs or outputs of the encoder's largest linear layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mtl_cli.bench.protocol import Measured, Spread, wait_for
from mtl_cli.encoders import Encoder, Layout
from mtl_cli.model import MultiTaskModel

_SHORTEST_SECONDS = 0.05  # of a measurement, so that the clock and a single interruption do not matter
_SQUARE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class EncoderSize:
    """What the operations of a token follow from.

    Attributes:
        num_parameters: of the encoder, embeddings apart.
        num_layers: blocks.
        width: D.
        inner_width: the larger side of the encoder's largest linear layer.
        by_inputs: share of the parameters through whose layers the gradient goes back to the layers' inputs.
        by_weights: share of the parameters that are trained.
        by_attention: share of the blocks through whose attention the gradient goes back.
    """

    num_parameters: int
    num_layers: int
    width: int
    inner_width: int
    by_inputs: float = 1.0
    by_weights: float = 1.0
    by_attention: float = 1.0

    @classmethod
    def of(
        cls, encoder: Encoder, own: Sequence[nn.Parameter] | None = None, model: MultiTaskModel | None = None
    ) -> EncoderSize:
        """Measure an encoder: what of it is trained, and how far back the gradient goes.

        Args:
            encoder: the encoder, which makes a small forward pass.
            own: its parameters before a sharing strategy added others (`own_parameters`); None: it is as loaded.
            model: whose encoder it is, with the strategy; None: it is as loaded.
        """
        own = own_parameters(encoder) if own is None else own
        width = encoder.hidden_size
        sides = [max(p.shape) for p in own if p.ndim == 2] or [4 * width]
        reached = _modules_reached(encoder, model)
        # Parameters that the strategy has replaced by copies of its own are in no module: the copies have gradients.
        stops = {id(p) for module, has_gradient in reached.items() if not has_gradient for p in _direct(module)}
        count = max(1, sum(p.numel() for p in own))
        through = [
            reached.get(block, True) or any(p.requires_grad for p in block.parameters()) for block in encoder.blocks
        ]
        return cls(
            sum(p.numel() for p in own),
            encoder.model.config.num_hidden_layers,
            width,
            max(sides),
            sum(p.numel() for p in own if id(p) not in stops) / count,
            sum(p.numel() for p in own if p.requires_grad) / count,
            sum(through) / len(through) if through else 1.0,
        )

    def operations(self, tokens: float, squares: float) -> float:
        """Operations of a forward and a backward pass over some rows: 6 N + 12 L H T a token where all is trained.

        N are the parameters, L the layers, H the width and T the tokens of the row (Chowdhery et al., PaLM, JMLR 2023,
        appendix B): multiplications and additions counted apart; nothing for padding, embeddings and heads. Of the six
        operations a parameter two are the forward pass's, two the gradient's for the layer's input and two that for
        its weight; of the twelve of attention four are the forward pass's. What is frozen has no gradient for its
        weight, and what lies below all that is trained none for its input.

        Args:
            tokens: of all rows.
            squares: each row's tokens squared, added up.
        """
        of_token = 2.0 * (1 + self.by_inputs + self.by_weights) * self.num_parameters
        return of_token * tokens + 4.0 * (1 + 2 * self.by_attention) * self.num_layers * self.width * squares


def own_parameters(encoder: Encoder) -> list[nn.Parameter]:
    """The parameters of an encoder that was just loaded, those of its embeddings apart."""
    embeddings = {
        id(p) for module in encoder.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
    }
    return [p for p in encoder.model.parameters() if id(p) not in embeddings]


def _direct(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _modules_reached(encoder: Encoder, model: MultiTaskModel | None) -> dict[nn.Module, bool]:
    """Modules that a forward pass over a row of each task calls -> whether their inputs have a gradient."""
    found: dict[nn.Module, bool] = {}

    def look(module: nn.Module, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        values = (*arguments, *more.values())
        has_gradient = any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)
        found[module] = found.get(module, False) or has_gradient

    device = next(encoder.parameters()).device
    tasks = ["rows"] if model is None else list(model.tasks)
    layout = Layout.from_lengths({task: np.array([2]) for task in tasks}, packed=encoder.packed)
    ids_N = torch.zeros(layout.num_tokens, dtype=torch.int64, device=device)
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in encoder.model.modules()]
    training = encoder.training
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            encoder.eval()
            encoder(ids_N, None, layout) if model is None else model.sharing.encode(encoder, ids_N, None, layout)
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return found


class Ceiling:
    """The rate of matrix products on this machine, in operations a second: a variant that is measured in turn.

    The best of the products of the encoder's largest linear layer on `num_tokens` tokens, forward and backward, and a
    square one. Each round keeps its own, so that a share is taken of what the machine could do at that time.
    """

    def __init__(
        self, size: EncoderSize, num_tokens: int, precision: Literal["bf16", "fp32"], device: torch.device
    ) -> None:
        self.device = device
        self.rates: list[float] = []
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        square = _SQUARE.get(device.type, 1024)
        generator = torch.Generator().manual_seed(0)

        def product(rows: int, inner: int, columns: int) -> tuple[float, Callable[[], torch.Tensor]]:
            a = torch.randn(rows, inner, generator=generator).to(device, dtype)
            b = torch.randn(inner, columns, generator=generator).to(device, dtype)
            return 2.0 * rows * inner * columns, lambda: a @ b

        tokens, width, inner_width = num_tokens, size.width, size.inner_width
        self._products = [
            product(tokens, width, inner_width),  # the layer, and the gradient of the layer back
            product(tokens, inner_width, width),
            product(width, tokens, inner_width),  # the gradient of its weight
            product(square, square, square),
        ]

    def round(self) -> Measured:
        """Measure each product."""
        began = time.perf_counter()
        self.rates.append(max(self._rate(operations, compute) for operations, compute in self._products))
        return Measured(time.perf_counter() - began)

    def shares(self, operations: Sequence[float], seconds: Sequence[float]) -> Spread:
        """Of this rate, what a variant reached in its rounds that count, which did so many operations in such time."""
        rates = self.rates[-len(seconds) :]
        return Spread.of([o / s / rate for o, s, rate in zip(operations, seconds, rates, strict=True)])

    def _rate(self, operations: float, compute: Callable[[], torch.Tensor]) -> float:
        compute()
        wait_for(self.device)
        number, began = 0, time.perf_counter()
        while True:
            for _ in range(2**number):
                compute()
            wait_for(self.device)
            seconds = time.perf_counter() - began
            if seconds >= _SHORTEST_SECONDS:
                return operations * (2 ** (number + 1) - 1) / seconds
            number += 1
