"""Trains a small run, over and over killed and resumed, in children of one process that has imported everything once.

usage: kill_and_resume.py CONF_DIR OUTPUT_DIR SEED OVERRIDE...
Prints how often the run was killed. That run is in OUTPUT_DIR/killed, the same without a stop in OUTPUT_DIR/whole.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import mtl_cli.commands.train  # noqa: F401 (children inherit what is imported)
from mtl_cli.cli import _main


def start(arguments: list[str]) -> int:
    """Run mtl in a child; return its process id."""
    child = os.fork()
    if child == 0:
        os._exit(_main(arguments))
    return child


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"exit code {os.waitstatus_to_exitcode(status)}"


def main() -> None:
    conf_dir, output, seed, *overrides = sys.argv[1:]
    draw = random.Random(int(seed))
    begin = ["train", "--config-dir", conf_dir, *overrides]
    whole, killed = Path(output) / "whole", Path(output) / "killed"
    finish(start([*begin, f"hydra.run.dir={whole}"]))
    lines = len((whole / "metrics.jsonl").read_text().splitlines())
    kills = 0
    for part in (0.2, 0.5, 0.8):
        fresh = not (killed / "results.json").exists()
        child = start([*begin, f"hydra.run.dir={killed}"] if fresh else ["train", f"resume={killed}"])
        # Kill once so much of the metrics file is there, and at a random moment after that: sometimes within a step,
        # sometimes within a checkpoint.
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            file = killed / "metrics.jsonl"
            if file.exists() and len(file.read_bytes().splitlines()) >= part * lines:
                time.sleep(draw.random() * 0.05)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                break
            time.sleep(0.001)
    finish(start(["train", f"resume={killed}"]))
    print(f"kills: {kills}")


main()
