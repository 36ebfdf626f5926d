"""Peak memory of a round of one variant, above what stood before it: on a CPU in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from mtl_cli.bench.protocol import Variant
from mtl_cli.training import peak_memory_bytes

Rerun = Callable[[Sequence[str]], list[str]]
"""From further words to the command line that runs this benchmark with them."""

log = logging.getLogger(__name__)

_MARK = "peak_bytes_of_variant"
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak resident size to what is resident now


@dataclass(frozen=True)
class Peak:
    """What the first round of a variant takes.

    Attributes:
        above: bytes at the peak, above what stood before the first step: gradients, the optimizer's moments,
            activations. Where that cannot be told (`whole_process`), all of the process's peak.
        standing: bytes that stood before the first step: weights, data, on a CPU libraries too.
        whole_process: the system cannot reset a peak: `above` is that since the process began, loading included.
    """

    above: int
    standing: int
    whole_process: bool = False


class ClosingVariant(Variant, Protocol):
    """A variant that may have written something."""

    def close(self) -> None:
        """Remove what was written."""


def run_alone(variant: ClosingVariant, device: torch.device) -> None:
    """Do one round of a variant and print the peak of memory."""
    print_peak(peak_of_round(variant, device))
    variant.close()


def peak_alone(key: str, make: Callable[[str], ClosingVariant], device: torch.device, rerun: Rerun) -> Peak | None:
    """Return what a round of one variant takes from its first step on, where no other one is there.

    Args:
        key: what `bench.only` and `make` call it.
        make: builds it anew, on a GPU; elsewhere it has a process of its own.
        device: where it computes.
        rerun: from further words to the command line.
    """
    if device.type != "cuda":
        return peak_of(key, rerun)
    variant = make(key)
    peak = peak_of_round(variant, device)
    variant.close()
    return peak


def peak_of_round(variant: Variant, device: torch.device) -> Peak:
    """Do a round of a variant that has not trained yet; return what it took."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        standing = torch.cuda.memory_allocated(device)
        variant.round()
        return Peak(peak_memory_bytes(device) - standing, standing)
    _give_freed_memory_back()
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        variant.round()
        return Peak(peak_memory_bytes(device), 0, whole_process=True)
    standing = peak_memory_bytes(device)
    variant.round()
    return Peak(peak_memory_bytes(device) - standing, standing)


def _give_freed_memory_back() -> None:
    """What was freed after loading is kept by the C library, and would hide as much of what training takes."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_of(variant: str, rerun: Rerun) -> Peak | None:
    """Return what a round of one variant takes, in a process of its own; None, and a warning, where it fails."""
    words = [f"bench.only={variant}", "bench.force=true", "bench.json=null", "bench.markdown=null"]
    done = subprocess.run(rerun(words), capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(f'{{"{_MARK}"'):
            return Peak(**json.loads(line)[_MARK])
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    log.warning("no peak memory of %s: its process ended with %d (%s)", variant, done.returncode, reason)
    return None


def print_peak(peak: Peak) -> None:
    """Print what `peak_of` reads."""
    print(json.dumps({_MARK: asdict(peak)}), flush=True)
