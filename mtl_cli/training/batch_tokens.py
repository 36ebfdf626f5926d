"""How many tokens go through the model at once: as many as memory holds, found by trying."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch

from mtl_cli.data import EncodedSplit
from mtl_cli.distributed import launched
from mtl_cli.gradients import Losses
from mtl_cli.sharing import TrainingMoment
from mtl_cli.training.live_memory import LiveMemory
from mtl_cli.types import Step, UserError

log = logging.getLogger(__name__)

# Tokens of the first try: enough that what does not grow with the tokens hardly counts.
_FIRST_TRY = {"cpu": 1024, "cuda": 4096}
# Of the memory that is free: other programs, and what the allocator cannot use, need the rest.
_SHARE_OF_FREE = {"cpu": 0.7, "cuda": 0.9}
_STEP_BACK = 0.8
_MOST = 2**20

_NOTHING_FITS = (
    "trainer.batch_tokens: auto, but not even one row fits into memory; lower tasks.<name>.max_length, set "
    "trainer.activation_checkpointing=true, or take a smaller encoder"
)

Try = Callable[[int], int]
"""Run a forward and a backward pass over about so many tokens; return the bytes that it took at its height."""


def fit_batch_tokens(attempt: Try, free: int, first_try: int, verify: bool) -> int:
    """Return the most tokens whose forward and backward pass fit.

    Args:
        attempt: raises `torch.OutOfMemoryError` where memory does not suffice.
        free: bytes that may be used.
        first_try: tokens to begin with.
        verify: run what was found, and step back while it fails.

    Raises:
        UserError: not even a single row fits.
    """
    tokens = first_try
    while True:
        try:
            found = attempt(tokens)
            break
        except torch.OutOfMemoryError:
            tokens //= 2
            if tokens == 0:
                raise UserError(_NOTHING_FITS) from None
    fitting = min(_MOST, int(tokens * free / max(found, 1)))
    if fitting < 1:
        raise UserError(_NOTHING_FITS)
    while verify and fitting > tokens:
        try:
            attempt(fitting)
            break
        except torch.OutOfMemoryError:
            fitting = max(tokens, int(fitting * _STEP_BACK))
    return fitting


def measure_batch_tokens(losses: Losses, splits: Mapping[str, EncodedSplit]) -> int:
    """Find the tokens of a micro-batch that fit beside the model, its gradients and AdamW's moments.

    The tries take the longest rows of each task, whose attention needs most. Gradients, buffers and random generators
    are left as they were.

    Args:
        losses: of the model, on its device.
        splits: the training split of each task.
    """
    model, device = losses.model, losses.device
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    longest = {name: np.argsort(-split.lengths, kind="stable") for name, split in splits.items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    model.train()

    def attempt(tokens: int) -> int:
        step = {name: splits[name].batch(_rows(splits[name], longest[name], tokens // len(splits))) for name in splits}
        try:
            return _bytes_of(losses, {name: batch.to(device) for name, batch in step.items()})
        finally:
            model.zero_grad(set_to_none=True)

    try:
        with torch.random.fork_rng([device] if kind == "cuda" else []):
            model.sharing.start_step(model, TrainingMoment(0, 1, 1))
            # The optimizer's moments are made in the first update.
            moments = 2 * sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
            free = int(_SHARE_OF_FREE[kind] * _free_bytes(device)) - moments
            found = fit_batch_tokens(attempt, max(free, 0), _FIRST_TRY[kind], verify=kind == "cuda")
            found = 1 << (found.bit_length() - 1)  # runs that find about as much free memory do the same
    finally:
        model.train(was_training)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    log.info("batch_tokens: up to %s tokens at once fit into memory", f"{found:,}")
    return found


def _rows(split: EncodedSplit, longest: np.ndarray, tokens: int) -> np.ndarray:
    """The longest rows, over and over, up to so many tokens; at least one."""
    lengths = split.lengths[longest]
    times = -(-tokens // max(int(lengths.sum()), 1))
    rows = np.tile(longest, max(times, 1))
    return rows[: max(1, int(np.searchsorted(np.cumsum(split.lengths[rows]), tokens, side="right")))]


def _bytes_of(losses: Losses, step: Step) -> int:
    """Bytes that a forward and a backward pass take at their height, gradients included."""
    if losses.device.type == "cuda":
        torch.cuda.synchronize(losses.device)
        torch.cuda.reset_peak_memory_stats(losses.device)
        before = torch.cuda.memory_allocated(losses.device)
        _pass(losses, step)
        torch.cuda.synchronize(losses.device)
        return torch.cuda.max_memory_allocated(losses.device) - before
    with LiveMemory() as memory:
        _pass(losses, step)
    return memory.peak


def _pass(losses: Losses, step: Step) -> None:
    found = losses(step, losses.normalizers_here([step]))
    losses.objective(torch.stack(list(found.values()))).backward()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:  # what a container or a cluster's job may use, where that is less
        allowed, used = (
            (group / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current")
        )
        available = min(available, int(allowed) - int(used))
    except (OSError, ValueError):
        pass
    return available // launched().local_world_size
