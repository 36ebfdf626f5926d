"""Seconds until the command line answers and until the first step of a run: `mtl bench of=startup`.

    python scripts/bench_startup.py encoder=minilm
    python scripts/bench_startup.py encoder=minilm sharing=mmoe bench.json=startup.json

All words are those of `mtl bench`; docs/performance.md says what is timed.
"""

from __future__ import annotations

import sys

from mtl_cli.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "of=startup"]
    main()
