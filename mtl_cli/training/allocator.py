"""How the C library treats memory that is freed."""

from __future__ import annotations

import ctypes
import platform

# The parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Keep what tensors on the CPU free for the next ones, for the rest of the process; return whether it is so.

    glibc gives large blocks back to the kernel, which hands them out again page by page, zeroed: a training step that
    frees and asks for a gigabyte spends a fifth of its time on that (see docs/weighting.md). Other C libraries, and
    allocators that are loaded in glibc's place, are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, -1))
