"""How many tokens go through the model at once: as many as memory holds, found by trying.

Tokens are counted as memory goes by them: with the padding of encoders that pad (`Encoder.num_slots`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Literal, NamedTuple

import numpy as np
import psutil
import torch

from mtl_cli.data import EncodedSplit
from mtl_cli.distributed import launched
from mtl_cli.distributed.ranks import alone
from mtl_cli.gradients import GradientEngine
from mtl_cli.sharing import TrainingMoment
from mtl_cli.training.group_memory import bytes_left_in_groups
from mtl_cli.training.live_memory import LiveMemory
from mtl_cli.types import Step, UserError
from mtl_cli.weighting import GradientWeighting, LossWeighting, Weighting

log = logging.getLogger(__name__)

# Tokens of the first try: enough that what does not grow with the tokens hardly counts.
_FIRST_TRY = {"cpu": 1024, "cuda": 4096}
# Of the memory that is free: other programs, and what the allocator cannot use, need the rest.
_SHARE_OF_FREE = {"cpu": 0.7, "cuda": 0.9}
_STEP_BACK = 0.8
_MOST = 2**20
# Steps of the run whose first and last step the tries follow: behind all warm-ups a strategy may keep more.
_LONG_RUN = 10**9

_NOTHING_FITS = (
    "trainer.batch_tokens: auto, but not even one row fits into memory; lower tasks.<name>.max_length, set "
    "trainer.activation_checkpointing=true, or take a smaller encoder"
)


class Tried(NamedTuple):
    """What a forward and a backward pass took.

    Attributes:
        tokens: that went through the model at once.
        num_bytes: at its height.
    """

    tokens: int
    num_bytes: int


Try = Callable[[int], Tried]
"""Run a forward and a backward pass over so many tokens at most, or one row of each task."""


def fit_batch_tokens(attempt: Try, free: int, first_try: int, verify: bool) -> int:
    """Return the most tokens whose forward and backward pass fit.

    All that a pass takes counts as if it grew with the tokens. What does not (the tasks' gradients, which some
    weightings keep) makes the result smaller than what would fit, never larger.

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
    fitting = min(_MOST, int(found.tokens * free / max(found.num_bytes, 1)))
    if fitting < 1:
        raise UserError(_NOTHING_FITS)
    while verify and fitting > tokens:
        try:
            attempt(fitting)
            break
        except torch.OutOfMemoryError:
            fitting = max(tokens, int(fitting * _STEP_BACK))
    return fitting


def measure_batch_tokens(engine: GradientEngine, splits: Mapping[str, EncodedSplit]) -> int:
    """Find the tokens of a micro-batch that fit beside the model, its gradients and AdamW's moments.

    The tries are steps of the run's own weighting, whose gradients of each task count too, and of its strategy late in
    training, in two micro-batches of the longest rows of each task, whose attention needs most. Gradients, buffers, the
    weighting and random generators are left as they were. Each of several processes tries by itself.

    Args:
        engine: of the run, before its first step.
        splits: the training split of each task.
    """
    model, device = engine.model, engine.losses.device
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    longest = {name: np.argsort(-split.lengths, kind="stable") for name, split in splits.items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    model.train()

    def attempt(tokens: int) -> Tried:
        step = {name: splits[name].batch(_rows(splits[name], longest[name], tokens // len(splits))) for name in splits}
        lengths_B = np.concatenate([batch.lengths_B.numpy() for batch in step.values()])
        on_device = {name: batch.to(device) for name, batch in step.items()}
        try:
            with alone(), in_full_swing(engine.weighting):
                num_bytes = bytes_of_step(engine, [[on_device, on_device]] * engine.weighting.num_batches)
        finally:
            model.zero_grad(set_to_none=True)
        return Tried(model.encoder.num_slots(lengths_B), num_bytes)

    try:
        with torch.random.fork_rng([device] if kind == "cuda" else []):
            for step in (0, _LONG_RUN - 1):
                model.sharing.start_step(model, TrainingMoment(step, total_steps=_LONG_RUN, steps_per_epoch=1))
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


@contextmanager
def in_full_swing(weighting: Weighting) -> Iterator[None]:
    """Inside, the next step is one that needs most: behind the warm-up, one in which conflicts are tracked."""
    before = deepcopy(weighting.state_dict())
    every = (weighting.track_conflict_every if isinstance(weighting, LossWeighting) else None) or 1
    weighting.num_steps = -(-weighting.warmup_steps // every) * every
    try:
        yield
    finally:
        weighting.load_state_dict(before)


def bytes_of_step(engine: GradientEngine, parts: Sequence[Sequence[Step]]) -> int:
    """Bytes that a step's forward and backward passes take at their height, gradients included.

    What a method that balances gradients remembers after the first step stands beside the second one.
    """
    device = engine.losses.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _run(engine, parts)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveMemory() as memory:
        _run(engine, parts)
    return memory.peak


def _run(engine: GradientEngine, parts: Sequence[Sequence[Step]]) -> None:
    engine.step(parts)
    if isinstance(engine.weighting, GradientWeighting):
        engine.after_update()
        engine.model.zero_grad(set_to_none=True)
        engine.step(parts)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = min(int(psutil.virtual_memory().available), bytes_left_in_groups())
    return int(available) // launched().local_world_size
