"""`python -m mtl_cli.bench.first_step FILE WORD...`: `mtl train` for one step; when it begins and ends goes to FILE."""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def main(file: Path, words: list[str]) -> None:
    """Run the command until its first step is done, write both moments, and end the process there."""
    from mtl_cli.training.loop import Loop  # what training imports anyway

    moments: dict[str, dict[str, float]] = {}
    step = Loop._train_step

    def timed_step(loop: Any) -> None:
        moments["begins"] = _now()
        step(loop)
        moments["ends"] = _now()
        file.write_text(json.dumps(moments), encoding="utf-8")
        os._exit(0)

    Loop._train_step = timed_step  # type: ignore[assignment, method-assign]
    sys.argv = ["mtl", "train", *words]
    runpy.run_module("mtl_cli", run_name="__main__")
    sys.exit("the run ended without a step")


def _now() -> dict[str, float]:
    return {"wall": time.time(), "cpu": time.process_time()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
