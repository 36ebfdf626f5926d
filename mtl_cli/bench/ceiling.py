"""What the machine can do at most: the rate of plain matrix products, and what training a token takes of it.

Shapes: N tokens, D hidden width, I inputs or outputs of the encoder's largest linear layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from mtl_cli.bench.protocol import Measured, wait_for
from mtl_cli.encoders import Encoder

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
    """

    num_parameters: int
    num_layers: int
    width: int
    inner_width: int

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderSize:
        """Measure an encoder, before a sharing strategy adds to it."""
        embeddings = {
            id(p) for module in encoder.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
        }
        parameters = [p for p in encoder.model.parameters() if id(p) not in embeddings]
        width = encoder.hidden_size
        sides = [max(p.shape) for p in parameters if p.ndim == 2] or [4 * width]
        return cls(sum(p.numel() for p in parameters), encoder.model.config.num_hidden_layers, width, max(sides))

    def operations(self, lengths: np.ndarray) -> float:
        """Operations of a forward and a backward pass over rows of these lengths: 6 N + 12 L H T a token.

        N are the parameters, L the layers, H the width and T the tokens of the row (Chowdhery et al., PaLM, JMLR 2023,
        appendix B): multiplications and additions counted apart; nothing for padding, embeddings and heads.
        """
        of_tokens = 6.0 * self.num_parameters * float(lengths.sum())
        return of_tokens + 12.0 * self.num_layers * self.width * float(np.square(lengths.astype(np.float64)).sum())


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
