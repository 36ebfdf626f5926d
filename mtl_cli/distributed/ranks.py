"""What the processes of a run exchange; with one process nothing happens.

A rank is a process's number. Each computes its own rows of a step, with losses divided by the labels of all of them, so
that sums over ranks are what one process with all rows would have computed. What everybody must decide alike (whether
to stop, what is best) follows from numbers that all ranks have, bit for bit.

What is exchanged beside gradients lies on the CPU and goes through gloo, also where gradients go through NCCL: nothing
waits for a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist

_BUCKET_BYTES = 32 * 2**20
_BUCKETS_AT_ONCE = 4


_alone: ContextVar[bool] = ContextVar("alone", default=False)


def is_distributed() -> bool:
    """Whether several processes compute a step together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and not _alone.get()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process exchanges nothing, as if there were no others: what it tries is its own affair."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def rank() -> int:
    """Return the number of this process, 0 where there is one."""
    return dist.get_rank() if is_distributed() else 0


def num_ranks() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return rank() == 0


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if not is_distributed():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def largest_over_ranks(number: int) -> int:
    """Return the largest of the ranks' numbers."""
    if not is_distributed():
        return number
    found = torch.tensor(number, dtype=torch.int64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def any_over_ranks(holds: bool) -> bool:
    """Whether something holds on some rank."""
    return bool(largest_over_ranks(int(holds)))


def wait_for_all() -> None:
    """Go on once every rank has come here."""
    largest_over_ranks(0)


def gather(value: Any) -> list[Any]:
    """Return each rank's value, which JSON takes, in the order of ranks, on every rank."""
    if not is_distributed():
        return [value]
    sent = _to_bytes(value)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(num_ranks())]
    dist.all_gather(sizes, torch.tensor([len(sent)]))
    padded = sent.new_zeros(max(int(size) for size in sizes))
    padded[: len(sent)] = sent
    received = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(received, padded)
    return [_from_bytes(part[: int(size)]) for part, size in zip(received, sizes, strict=True)]


def from_main(value: Any) -> Any:
    """Return what rank 0 gives, which JSON takes; what others give does not matter."""
    if not is_distributed():
        return value
    sent = _to_bytes(value) if is_main() else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(sent)])
    dist.broadcast(size, src=0)
    received = sent if is_main() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(received, src=0)
    return _from_bytes(received)


def _to_bytes(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(received: torch.Tensor) -> Any:
    return json.loads(received.numpy().tobytes().decode())


def gather_on_main(values_ND: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Return each rank's values on rank 0, and nothing elsewhere.

    Args:
        values_ND: on the CPU; ranks differ in N alone.
        sizes: N of each rank.
    """
    if not is_distributed():
        return [values_ND]
    padded = values_ND.new_zeros(max(sizes), *values_ND.shape[1:])
    padded[: len(values_ND)] = values_ND
    received = [torch.empty_like(padded) for _ in sizes] if is_main() else None
    dist.gather(padded, received, dst=0)
    return [part[:size] for part, size in zip(received or [], sizes, strict=False)]


def copy_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Put rank 0's numbers into these tensors, the same ones on every rank."""
    if is_distributed():
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=0)
            tensor.detach().copy_(whole)


def sum_in_buckets(tensors: Sequence[torch.Tensor]) -> None:
    """Add up each tensor over all ranks, in place.

    Tensors travel together, some megabytes at a time: a message has a cost of its own. Further buckets are filled
    while some are on their way. Half precision is added up in float32.
    """
    if not is_distributed():
        return
    on_the_way: list[tuple[Any, torch.Tensor, list[torch.Tensor]]] = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().reshape(-1).to(_wide(tensor.dtype)) for tensor in bucket])
        on_the_way.append((dist.all_reduce(flat, async_op=True), flat, bucket))
        if len(on_the_way) == _BUCKETS_AT_ONCE:
            _receive(*on_the_way.pop(0))
    for sent in on_the_way:
        _receive(*sent)


def _receive(work: Any, flat: torch.Tensor, bucket: Sequence[torch.Tensor]) -> None:
    work.wait()
    for tensor, values in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.detach().copy_(values.view(tensor.shape))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _buckets(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Neighbours of one type, at most `_BUCKET_BYTES` of them, or one tensor that is larger."""
    found: list[list[torch.Tensor]] = []
    size = 0
    for tensor in tensors:
        num_bytes = tensor.numel() * _wide(tensor.dtype).itemsize
        if found and found[-1][0].dtype == tensor.dtype and size + num_bytes <= _BUCKET_BYTES:
            found[-1].append(tensor)
            size += num_bytes
        else:
            found.append([tensor])
            size = num_bytes
    return found
