"""The settings of `mtl bench`: conf/bench.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mtl_cli.types import PositiveInt

Benchmark = Literal["step", "trainer", "tasks", "startup", "loop"]
Baseline = Literal["B1", "B2", "B3"]

LEAST_ROUNDS = 7
"""Rounds that count for a figure to be one by the protocol."""


@dataclass(kw_only=True)
class BenchSettings:
    """How a benchmark measures.

    Args:
        rounds: rounds that count; one more comes before them and is dropped.
        rows: training examples of each task that a round goes over once (step, trainer).
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
    only: str | None = None
    json: str | None = None
    markdown: str | None = None
    force: bool = False


@dataclass(kw_only=True)
class BenchChoice:
    """Which benchmark.

    Args:
        of: step: the training of what is composed; the others as docs/performance.md describes them.
    """

    of: Benchmark = "step"
