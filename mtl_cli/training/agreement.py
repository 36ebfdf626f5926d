"""What several processes of a run must have in common, and what each has of its own; with one process, next to nothing.

All ranks hold the same parameters because each adds the same sums to them. Nothing keeps them the same but that, so it
is looked at: ranks that drift apart would train several models and save one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mtl_cli.distributed.ranks import gather, is_distributed, largest_over_ranks, num_ranks, rank
from mtl_cli.stopping import StopRequest
from mtl_cli.training.seeding import from_json, generator_state, restore_generators, seed_rank, to_json
from mtl_cli.types import UserError

log = logging.getLogger(__name__)


def agreed_signal(stop: StopRequest) -> int:
    """Return the signal that some rank has received by now, the same number on all of them; 0 for none."""
    return largest_over_ranks(stop.signal_number or 0)


def check_agreement(model: nn.Module, memory: Mapping[str, Any], step: int) -> None:
    """Refuse to go on where ranks hold different parameters, buffers or different memories of the weighting.

    Bits are compared by two sums of each tensor, one of them weighted by position.

    Args:
        model: the model.
        memory: what the weighting keeps between steps.
        step: steps done, for the message.

    Raises:
        UserError: on all ranks, with the first tensor that differs.
    """
    if not is_distributed():
        return
    named = dict(_named_tensors(model, memory))
    names = gather(list(named))
    if any(of_rank != names[0] for of_rank in names):
        first = next(name for of_rank in names for name in set(of_rank) ^ set(names[0]) or ())
        raise UserError(_drifted(first, step))
    if not named:
        return
    sums = torch.stack([_sums(tensor) for tensor in named.values()])
    largest, smallest = sums.clone(), sums.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    differing = (largest != smallest).any(1).nonzero()
    if len(differing):
        raise UserError(_drifted(list(named)[int(differing[0])], step))


def _drifted(name: str, step: int) -> str:
    return (
        f"step {step}: the {num_ranks()} processes no longer hold the same model ({name} differs). Their machines may "
        "differ in processor, GPU or libraries. The run goes on from its last checkpoint (resume=...) on machines that "
        "are alike, or with weighting=equal, which decides nothing by itself on each of them"
    )


def _named_tensors(model: nn.Module, memory: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())
    yield from _tensors_in("weighting", memory)


def _tensors_in(path: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _tensors_in(f"{path}.{key}", value[key])


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 2**22


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Two numbers that stand for the bits of a tensor, int64 on the CPU; sums wrap around."""
    local = getattr(tensor, "to_local", None)
    if local is not None:  # each rank has another part
        return torch.zeros(2, dtype=torch.int64)
    bits = tensor.detach().contiguous().reshape(-1)
    bits = bits.view(torch.uint8) if bits.dtype is torch.bool else bits.view(_INTEGERS[bits.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for number, piece in enumerate(bits.split(_PIECE)):
        wide = piece.long()
        places = torch.arange(1, len(wide) + 1, device=bits.device)
        total += torch.stack([wide.sum(), (wide * places).sum() * (2 * number + 1)])
    return total.cpu()


def generators_of_all() -> dict[str, Any]:
    """State of the random generators of all ranks, for a checkpoint: that of rank 0, and those of the others."""
    state: dict[str, Any] = {"generators": generator_state()}
    if is_distributed():
        state["num_processes"] = num_ranks()
        state["generators_of_others"] = gather(to_json(state["generators"]) if rank() else None)[1:]
    return state


def restore_generators_of_rank(
    state: Mapping[str, Any], seed: int, step: int, measures_batch_tokens: bool = False
) -> None:
    """Go on with this rank's random numbers; say what changes where there were more or fewer ranks.

    Args:
        state: of a checkpoint, see `generators_of_all`.
        seed: of the run.
        step: of the checkpoint, which begins the numbers of a rank that the checkpoint does not know.
        measures_batch_tokens: whether the run measures how many tokens fit at once with so many processes.
    """
    before = state.get("num_processes", 1)
    others = [None, *state.get("generators_of_others", [])]
    if rank() < before:
        mine = others[rank()]
        restore_generators(state["generators"] if mine is None else from_json(mine))
    else:
        seed_rank(seed, rank(), step)
    if before != num_ranks():
        log.warning(
            "the checkpoint was written by %s, and %s with it: the steps hold the same rows, divided otherwise. "
            "Dropout leaves out other values, %ssums are rounded otherwise, so that the run goes on as well but not "
            "bit for bit",
            _processes(before),
            "1 process goes on" if num_ranks() == 1 else f"{num_ranks()} go on",
            "trainer.batch_tokens=auto takes the tokens that fit with as many, and "
            if measures_batch_tokens
            else "and ",
        )


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
