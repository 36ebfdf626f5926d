"""A step of 1 to 16 tasks at the same tokens against one task's: `mtl bench of=tasks`.

    python scripts/bench_tasks.py encoder=minilm
    python scripts/bench_tasks.py bench.num_tasks=[1,4,16] bench.json=tasks.json

All words are those of `mtl bench`; docs/performance.md says what is timed.
"""

from __future__ import annotations

import sys

from mtl_cli.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "of=tasks"]
    main()
