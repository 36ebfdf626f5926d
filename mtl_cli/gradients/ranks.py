"""Sums of gradients over the processes of a distributed run; without one, nothing happens.

Each process computes its own rows of a step, with losses divided by the labels of all of them, so that sums over
processes are what one process with all rows would have computed. A process may have no rows of a task: what takes part
in a sum is agreed upon first, and whoever has nothing adds zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from mtl_cli.distributed.ranks import any_over_ranks as any_over_ranks
from mtl_cli.distributed.ranks import is_distributed as is_distributed
from mtl_cli.distributed.ranks import sum_in_buckets
from mtl_cli.distributed.ranks import sum_over_ranks as sum_over_ranks
from mtl_cli.gradients.blocks import Block, DenseBlock, RowBlock
from mtl_cli.precision import at_least_float32

_NONE, _ROWS, _DENSE = range(3)
"""What a process has of a parameter's gradient; in a sum the fullest kind counts."""


def sum_blocks_over_ranks(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """Return the sums of parameters' blocks over all processes, which have the same ones in the same forms."""
    if not is_distributed():
        return dict(blocks)
    found: dict[str, Block] = {}
    dense = []
    for name, block in blocks.items():
        if isinstance(block, RowBlock):
            found[name] = _sum_rows(block)
        else:
            dense.append(at_least_float32(block.to_dense().values))
            found[name] = DenseBlock(dense[-1])
    sum_in_buckets(dense)
    return found


def sum_gradients_over_ranks(parameters: Sequence[nn.Parameter]) -> None:
    """Add up `.grad` over all processes; a parameter without one anywhere stays so.

    Those of which each process has a part (FSDP) have been added up in the backward pass.
    """
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not is_distributed() or not parameters:
        return
    kinds = torch.tensor([_kind(parameter.grad) for parameter in parameters], dtype=torch.int32)
    dist.all_reduce(kinds, dist.ReduceOp.MAX)
    dense = []
    for parameter, kind in zip(parameters, kinds.tolist(), strict=True):
        if kind == _ROWS:
            parameter.grad = _sum_sparse(parameter)
        elif kind == _DENSE:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
            dense.append(parameter.grad)
    sum_in_buckets(dense)


def _kind(gradient: torch.Tensor | None) -> int:
    if gradient is None:
        return _NONE
    return _ROWS if gradient.is_sparse else _DENSE


def _sum_sparse(parameter: nn.Parameter) -> torch.Tensor:
    """The sum of an embedding's gradients of which each process has some rows, or none."""
    gradient = parameter.grad
    if gradient is None:
        block = RowBlock.empty(parameter, 1)
    else:
        gradient = gradient.coalesce()
        ids_R = gradient.indices()[0]
        block = RowBlock(torch.zeros_like(ids_R), ids_R, gradient.values(), 1, gradient.shape)
    total = _sum_rows(block)
    return torch.sparse_coo_tensor(
        total.ids_R[None], total.rows_RD.to(parameter.dtype), parameter.shape, is_coalesced=True
    )


def _sum_rows(block: RowBlock) -> RowBlock:
    """Processes touch different rows: gather them, padded to the most, and add them up one process after the other.

    No process has a row of a task twice, so that the order of a sum's terms is the same everywhere, also on a GPU.
    """
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(block.ids_R)]))
    sizes = [int(count) for count in counts]
    keys = _gather(block.task_R * block.shape[0] + block.ids_R, sizes)
    rows = _gather(at_least_float32(block.rows_RD), sizes)
    keys_R, place = torch.unique(torch.cat(keys), return_inverse=True)
    rows_RD = rows[0].new_zeros(len(keys_R), *block.rows_RD.shape[1:])
    for part, places in zip(rows, place.split(sizes), strict=True):
        rows_RD[places] += part
    return RowBlock(keys_R // block.shape[0], keys_R % block.shape[0], rows_RD, block.num_tasks, block.shape)


def _gather(part: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    filled = part.new_zeros(max(sizes), *part.shape[1:])
    filled[: len(part)] = part
    received = [torch.empty_like(filled) for _ in sizes]
    dist.all_gather(received, filled)
    return [tensor[:size] for tensor, size in zip(received, sizes, strict=True)]
