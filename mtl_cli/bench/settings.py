"""The settings of `mtl bench`: conf/bench.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mtl_cli.types import PositiveInt

Benchmark = Literal["step", "trainer", "tasks", "startup", "loop"]
Baseline = Literal["B1", "B2", "B3"]

# Settings of bench besides json, markdown and force that a benchmark looks at.
_USED_BY: dict[str, set[str]] = {
    "step": {"rounds", "rows", "memory", "only"},
    "trainer": {"rounds", "rows", "baselines", "scores", "memory", "only"},
    "trainer bench.scores=true": {"scores", "seeds"},
    "tasks": {"rounds", "num_tasks", "tokens", "memory", "only"},
    "startup": {"rounds"},
    "loop": {"rounds"},
}

LEAST_ROUNDS = 7
"""Rounds that count for a figure to be one by the protocol."""


@dataclass(kw_only=True)
class BenchSettings:
    """How a benchmark measures.

    Args:
        rounds: rounds that count; one more comes before them and is dropped.
        rows: training examples of each task that a round goes over once (trainer); with all of the data, a round is so
            many steps as see that many on average over tasks (step).
        baselines: what our training is compared with (trainer).
        scores: train to the end with ours and with B2, and show scores in the place of speed (trainer).
        seeds: seeds of the runs whose scores are shown.
        num_tasks: numbers of tasks to measure (tasks).
        tokens: tokens a step (tasks).
        memory: measure peak memory of a first round, above what stood before; on a CPU in a process for each variant.
        only: run one round of this variant alone and print its peak memory; what `memory` starts.
        json: the file to write all figures to.
        markdown: the file to write the table to.
        force: measure on a busy machine, too.
    """

    rounds: PositiveInt = LEAST_ROUNDS
    rows: PositiveInt = 256
    baselines: list[Baseline] = field(default_factory=lambda: ["B1", "B2", "B3"])
    scores: bool = False
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    num_tasks: list[PositiveInt] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    tokens: PositiveInt = 2048
    memory: bool = True
    only: str | int | None = None
    json: str | None = None
    markdown: str | None = None
    force: bool = False

    def remarks(self) -> list[str]:
        """What a reader of the figures should know of these settings."""
        if self.rounds >= LEAST_ROUNDS:
            return []
        return [f"fewer than the {LEAST_ROUNDS} rounds of the protocol: for a first look only"]

    def without_effect(self, of: Benchmark) -> list[str]:
        """Return a warning for each setting that differs from its default and that this benchmark does not look at."""
        name = "trainer bench.scores=true" if of == "trainer" and self.scores else str(of)
        used = _USED_BY[name] | {"json", "markdown", "force"}
        default = vars(BenchSettings())
        return [
            f"bench.{key}: found {value!r}, which has no effect with of={name}"
            for key, value in vars(self).items()
            if key not in used and value != default[key]
        ]


@dataclass(kw_only=True)
class BenchChoice:
    """Which benchmark.

    Args:
        of: step: the training of what is composed; the others as docs/performance.md describes them.
    """

    of: Benchmark = "step"
