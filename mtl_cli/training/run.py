"""What one run trains with, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtl_cli.data import TaskData
from mtl_cli.model import MultiTaskModel
from mtl_cli.sampling import Sampler
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training.optimizer import AdamW
from mtl_cli.training.schedule import Schedule
from mtl_cli.weighting import Weighting


@dataclass
class Progression:
    """How far a run has come: the part of a checkpoint that is neither weights nor generators. JSON values only."""

    step: int = 0
    tokens: int = 0
    tokens_of_tasks: dict[str, int] = field(default_factory=dict)
    passes_of_tasks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0
    best_step: int = 0
    best_value: float | None = None
    best_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    evaluations_since_best: int = 0
    evaluation_due: bool = False
    stopped_early: bool = False
    window: dict[str, Any] = field(default_factory=dict)
    window_tokens: int = 0
    window_seconds: float = 0.0


@dataclass(frozen=True)
class TrainingRun:
    """The objects that one run trains with."""

    model: MultiTaskModel
    data: Mapping[str, TaskData]
    sampler: Sampler
    weighting: Weighting
    optimizer: AdamW
    schedule: Schedule
    folder: RunFolder
    metrics_file: MetricsFile
    loggers: Loggers
    progress: Progress
    seed: int
    info: RunInfo
