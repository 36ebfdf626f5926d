"""Random generators: seeded from the configuration, saved and restored with a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from mtl_cli.distributed.ranks import is_distributed


def seed_everything(seed: int) -> None:
    """Seed the global generators: initial weights and dropout draw from torch's; samplers have their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Give one of several processes random numbers of its own: what dropout leaves out differs between processes.

    Rank 0 goes on with those of a run in one process.
    """
    if rank > 0:
        words = np.random.SeedSequence([seed, rank, step]).generate_state(2, np.uint64)
        random.seed(int(words[0]))
        np.random.seed(int(words[0] % 2**32))
        torch.manual_seed(int(words[1] >> np.uint64(1)))


def generator_state() -> dict[str, Any]:
    """State of the global generators, as tensors and JSON values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states(),
    }


def _cuda_states() -> list[torch.Tensor]:
    """Of all GPUs; of several processes each has one GPU and leaves the others alone."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_rng_state()] if is_distributed() else torch.cuda.get_rng_state_all()


def restore_generators(state: dict[str, Any]) -> None:
    """Continue from a state that `generator_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        if is_distributed():
            torch.cuda.set_rng_state(state["cuda"][0])
        else:
            torch.cuda.set_rng_state_all(state["cuda"])


def to_json(state: dict[str, Any]) -> dict[str, Any]:
    """A state in numbers and text alone, to be sent to another process."""
    name, keys, *rest = state["numpy"]
    return {
        "python": state["python"],
        "numpy": [name, keys.tolist(), *rest],
        "torch": state["torch"].tolist(),
        "cuda": [of_gpu.tolist() for of_gpu in state["cuda"]],
    }


def from_json(state: dict[str, Any]) -> dict[str, Any]:
    """Undo `to_json`."""
    name, keys, *rest = state["numpy"]
    return {
        "python": state["python"],
        "numpy": [name, torch.tensor(keys, dtype=torch.int64), *rest],
        "torch": torch.tensor(state["torch"], dtype=torch.uint8),
        "cuda": [torch.tensor(of_gpu, dtype=torch.uint8) for of_gpu in state["cuda"]],
    }
