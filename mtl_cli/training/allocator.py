"""How the C library treats memory that is freed."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# The parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What glibc moves them to at most by itself, on 64 bits: 4 MiB times the bytes of a long, and twice that.
_LARGEST_BY_ITSELF = 32 * 2**20


def keep_freed_memory() -> bool:
    """Keep what tensors on the CPU free for the next ones, for the rest of the process; return whether it is so.

    glibc gives large blocks back to the kernel, which hands them out again page by page, zeroed: a training step that
    frees and asks for a gigabyte spends a fifth of its time on that (see docs/weighting.md). Other C libraries, and
    allocators that are loaded in glibc's place, are left as they are.
    """
    return _set_thresholds(mmap=2**30, trim=-1)


@contextmanager
def freed_memory_as_by_default() -> Iterator[None]:
    """Undo `keep_freed_memory` for a while: give memory back as glibc does for a program that sets nothing.

    The thresholds are the highest that glibc reaches by itself once a program has freed large blocks. So what runs
    here gives back no more than it would alone.
    """
    _set_thresholds(mmap=_LARGEST_BY_ITSELF, trim=2 * _LARGEST_BY_ITSELF)
    try:
        yield
    finally:
        keep_freed_memory()


def _set_thresholds(*, mmap: int, trim: int) -> bool:
    """Set from how many bytes on a block is mapped by itself, and how many free ones at the heap's end are kept."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, mmap)) and bool(mallopt(_TRIM_THRESHOLD, trim))
