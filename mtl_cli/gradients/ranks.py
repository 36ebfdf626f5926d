"""Sums over the processes of a distributed run; without one, nothing happens.

Each process computes its own rows of a step, with losses divided by the labels of all of them, so that sums over
processes are what one process with all rows would have computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from mtl_cli.gradients.blocks import Block, DenseBlock, RowBlock
from mtl_cli.precision import at_least_float32


def is_distributed() -> bool:
    """Whether several processes compute a step together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if not is_distributed():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def sum_block_over_ranks(block: Block) -> Block:
    """Return the sum of a parameter's block over all processes."""
    if not is_distributed():
        return block
    if isinstance(block, RowBlock):
        return _sum_rows(block)
    return DenseBlock(sum_over_ranks(at_least_float32(block.to_dense().values)))


def sum_gradients_over_ranks(parameters: Sequence[nn.Parameter]) -> None:
    """Add up `.grad` over all processes; a parameter without one anywhere stays so."""
    if not is_distributed() or not parameters:
        return
    device = parameters[0].device
    has_gradient = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    dist.all_reduce(has_gradient)
    for parameter, count in zip(parameters, has_gradient.tolist(), strict=True):
        if count > 0:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = parameter.grad.contiguous()  # what is summed is memory as it lies
            dist.all_reduce(parameter.grad)


def _sum_rows(block: RowBlock) -> RowBlock:
    """Processes touch different numbers of rows: gather them, padded to the most."""
    counts = [torch.zeros(1, dtype=torch.int64, device=block.ids_R.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(block.ids_R)], device=block.ids_R.device))
    sizes = [int(count) for count in counts]
    gathered = [_gather(part, sizes) for part in (block.task_R, block.ids_R, block.rows_RD)]
    return RowBlock.sum_up(gathered[0], gathered[1], gathered[2], block.num_tasks, block.shape)


def _gather(part: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    filled = part.new_zeros(max(sizes), *part.shape[1:])
    filled[: len(part)] = part
    received = [torch.empty_like(filled) for _ in sizes]
    dist.all_gather(received, filled)
    return torch.cat([tensor[:size] for tensor, size in zip(received, sizes, strict=True)])
