"""The share of a run's time outside of forward, backward and optimizer: `mtl bench of=loop`.

    python scripts/bench_loop.py encoder=minilm
    python scripts/bench_loop.py encoder=minilm trainer.epochs=1 bench.json=loop.json

All words are those of `mtl bench`; docs/performance.md says what is timed.
"""

from __future__ import annotations

import sys

from mtl_cli.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "of=loop"]
    main()
