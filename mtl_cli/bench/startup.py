"""`mtl bench of=startup`: how long the command line takes to answer, and training to reach its first step."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtl_cli.bench.protocol import Measured, Spread, interleave
from mtl_cli.bench.report import BenchReport
from mtl_cli.bench.settings import BenchSettings
from mtl_cli.errors import UserError

ANSWER_AIM_SECONDS = 0.5
FIRST_STEP_AIM_SECONDS = 6.0
HEAVY = ("torch", "transformers", "datasets", "wandb", "sklearn")
_SLOWEST_IMPORTS = 12


class CommandTime:
    """One round: a process from its start to its end.

    Attributes:
        heavy: heavy modules that it imports, as `python -X importtime` shows.
        imports: its slowest imports: (module, seconds with what it imports).
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.command = [sys.executable, "-m", "mtl_cli", *words]
        done = _run([sys.executable, "-X", "importtime", "-m", "mtl_cli", *words])
        self.imports = slowest_imports(done.stderr)
        imported = {name for name, _ in import_times(done.stderr)}
        self.heavy = sorted(imported & set(HEAVY))

    def round(self) -> Measured:
        """Run it."""
        before, wall = _children_cpu_seconds(), time.perf_counter()
        _run(self.command)
        return Measured(time.perf_counter() - wall, 0, _children_cpu_seconds() - before)


class FirstStepTime:
    """One round: a process of `mtl train` from its start to the beginning of its first step; CPU time of all threads.

    Everything is cached: an earlier round has tokenised the texts.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.moments: list[dict[str, Any]] = []

    def round(self) -> Measured:
        """Train for one step."""
        with tempfile.TemporaryDirectory(prefix="mtl-bench-") as folder:
            record = Path(folder) / "moments.json"
            wall = time.time()
            _run(
                [
                    sys.executable,
                    "-m",
                    "mtl_cli.bench.first_step",
                    str(record),
                    *self.words,
                    f"hydra.run.dir={folder}/run",
                ]
            )
            moments = json.loads(record.read_text(encoding="utf-8"))
        self.moments.append(moments)
        return Measured(moments["begins"]["wall"] - wall, 0, moments["begins"]["cpu"])


def bench_startup(
    compositions: Mapping[str, Sequence[str]], settings: BenchSettings, machine: Mapping[str, Any]
) -> BenchReport:
    """Measure the commands that only answer, and the first step of compositions.

    Args:
        compositions: name -> words of `mtl train`.
        settings: how to measure.
        machine: what on.
    """
    answers = {"mtl --help": CommandTime(["--help"]), "mtl train --cfg job": CommandTime(["train", "--cfg", "job"])}
    first_steps = {f"first step: {name}": FirstStepTime(words) for name, words in compositions.items()}
    rounds = interleave({**answers, **first_steps}, settings.rounds)
    rows = []
    figures: dict[str, dict[str, Any]] = {}
    for name, measured in rounds.items():
        wall, cpu = Spread.of([m.seconds for m in measured]), Spread.of([m.cpu_seconds for m in measured])
        rows.append([name, wall.text(), cpu.text()])
        figures[name] = {"seconds": asdict(wall), "cpu_seconds": asdict(cpu)}
    for name, answer in answers.items():
        figures[name] |= {"heavy_imports": answer.heavy, "slowest_imports": answer.imports}
    for name, first_step in first_steps.items():
        ends = [moments["ends"]["cpu"] for moments in first_step.moments[-settings.rounds :]]
        figures[name]["cpu_seconds_to_its_end"] = statistics.median(ends)
    for row in rows:
        end = figures[row[0]].get("cpu_seconds_to_its_end")
        row.append("" if end is None else f"{end:.2f}")
    heavy = sorted({module for answer in answers.values() for module in answer.heavy})
    wall_of = {name: figures[name]["seconds"]["median"] for name in answers}
    cpu_of = {name: figures[name]["cpu_seconds"]["median"] for name in first_steps}
    aims: dict[str, bool | None] = {
        f"{name} in less than {ANSWER_AIM_SECONDS} s, without torch": wall < ANSWER_AIM_SECONDS and not heavy
        for name, wall in wall_of.items()
    }
    aims |= {
        f"{name} in less than {FIRST_STEP_AIM_SECONDS:.0f} s of CPU": cpu < FIRST_STEP_AIM_SECONDS
        for name, cpu in cpu_of.items()
    }
    return BenchReport(
        "startup",
        "mtl bench of=startup",
        machine,
        ["command", "wall seconds", "CPU seconds", "CPU to the step's end"],
        rows,
        figures,
        [
            f"{settings.rounds} rounds of new processes in turn, medians and quartiles; texts are tokenised already",
            f"heavy modules that the answers import: {', '.join(heavy) or 'none'}",
            "a first step counts until it begins, with the CPU time of all threads; beside it, until its end",
        ],
        aims,
    )


def import_times(text: str) -> list[tuple[str, float]]:
    """Read what `-X importtime` printed: each module with its seconds, those of what it imports included."""
    lines = re.findall(r"^import time: +\d+ \| +(\d+) \|\s*(\S+)$", text, flags=re.MULTILINE)
    return [(module, int(microseconds) / 1e6) for microseconds, module in lines]


def slowest_imports(text: str) -> list[tuple[str, float]]:
    """The imports that take longest, with what they import."""
    return sorted(import_times(text), key=lambda item: -item[1])[:_SLOWEST_IMPORTS]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{' '.join(command[1:])} ends with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done


def _children_cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system
