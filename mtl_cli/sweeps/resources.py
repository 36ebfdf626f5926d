"""What part of the machine each of several runs gets that go on at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """Names (as CUDA_VISIBLE_DEVICES takes them) of the NVIDIA GPUs that a run started now would see.

    Asks nvidia-smi rather than PyTorch, whose import takes seconds and which would hold memory on a GPU.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in (part.strip() for part in chosen.split(",")) if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def environment_of_slot(
    slot: int,
    num_slots: int,
    *,
    cores: int,
    gpus: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment variables that give run number `slot` of `num_slots` its share of the machine.

    Threads are divided, at least one each, unless the user has set their number; GPUs go round robin.

    Args:
        slot: which of the runs that go on at the same time it is, counted from 0.
        num_slots: how many go on at the same time.
        cores: of the machine, see `usable_cores`.
        gpus: see `visible_gpus`.
        environment: what the user has set; None: this process's.
    """
    environment = os.environ if environment is None else environment
    share = {}
    if num_slots > 1 and not any(name in environment for name in _THREAD_VARIABLES):
        share = dict.fromkeys(_THREAD_VARIABLES, str(max(1, cores // num_slots)))
    if gpus:
        share["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return share


@contextmanager
def free_slot(folder: Path, num_slots: int) -> Iterator[int]:
    """Hold one of `num_slots` places for as long as the block lasts; the number of the first free one.

    The places are locked files, so that processes that know nothing of one another share them out, and one that is
    killed gives its place back. Where all are taken the numbers go on: more runs than places is for others to forbid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slot, lock = 0, None
    while lock is None:
        candidate = FileLock(folder / f"{slot}.lock")
        try:
            candidate.acquire(timeout=0)
            lock = candidate
        except Timeout:
            slot += 1
    try:
        yield slot % num_slots
    finally:
        lock.release()
