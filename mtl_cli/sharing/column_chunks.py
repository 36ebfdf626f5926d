"""Arithmetic on a parameter of all columns, and on its gradients, in pieces that stay in the processor's cache.

Shapes: K tasks, P numbers of a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

# Numbers of all tasks' parameters together that are worked on at a time: 2 MB of float32.
CHUNK = 1 << 19


def differences(of_tasks: Sequence[torch.Tensor]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield pieces: where each lies, and the first task's numbers above the others' differences from them, (K, P).

    Tasks' parameters often differ by a thousandth: what is made of differences loses nothing in float32.
    """
    flat = [value.detach().reshape(-1) for value in of_tasks]
    length = max(1, CHUNK // len(flat))
    for start in range(0, len(flat[0]), length):
        place = slice(start, start + length)
        rows_KP = torch.stack([value[place] for value in flat])
        rows_KP[1:] -= rows_KP[0]
        yield place, rows_KP


def flat_gradients(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """Return the gradients of parameters as vectors that share their memory; zeros where there was none."""
    found = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        elif not parameter.grad.is_contiguous():
            parameter.grad = parameter.grad.contiguous()
        found.append(parameter.grad.view(-1))
    return found


def add_to(gradients: Sequence[torch.Tensor], place: slice, rows_KP: torch.Tensor, factor: float = 1.0) -> None:
    """Add a multiple of each row to a piece of each of as many vectors."""
    torch._foreach_add_([gradient[place] for gradient in gradients], list(rows_KP.unbind()), alpha=factor)
