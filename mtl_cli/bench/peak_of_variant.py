"""Peak memory of one variant: on a CPU in a process of its own, since a process knows only its highest peak."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence

Rerun = Callable[[Sequence[str]], list[str]]
"""From further words to the command line that runs this benchmark with them."""

_MARK = "peak_bytes_of_variant"


def peak_of(variant: str, rerun: Rerun) -> int | None:
    """Return the peak bytes of a round of one variant; None where it fails."""
    words = [f"bench.only={variant}", "bench.force=true", "bench.json=null", "bench.markdown=null"]
    done = subprocess.run(rerun(words), capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(f'{{"{_MARK}"'):
            return int(json.loads(line)[_MARK])
    return None


def print_peak(size: int) -> None:
    """Print what `peak_of` reads."""
    print(json.dumps({_MARK: size}), flush=True)
