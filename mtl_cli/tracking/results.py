"""results.json: where a run stands and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Status = Literal["running", "interrupted", "finished", "failed"]

TaskResults = dict[str, dict[str, float]]
"""Split -> metric -> value."""


@dataclass
class TrainingCost:
    """What training took. Tokens are real ones, special ones included, padding never.

    Attributes:
        seconds: time in training steps and evaluations, summed over interruptions.
        tokens_per_second: `tokens` by the seconds in training steps alone.
        peak_memory_bytes: of the accelerator, or of the process where there is none.
    """

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    tokens_per_second: float = 0.0
    peak_memory_bytes: int = 0


@dataclass
class ParameterCounts:
    """Trainable or not: all parameters, those every task uses, and those of single tasks (all tasks' sum)."""

    total: int = 0
    shared: int = 0
    task_specific: int = 0


@dataclass
class Seen:
    """What was trained on of one task.

    Attributes:
        tokens: real ones, special ones included.
        passes: over its training rows, with the part of the last one.
    """

    tokens: int = 0
    passes: float = 0.0


@dataclass
class Results:
    """The content of results.json.

    Attributes:
        status: running (or killed without warning), interrupted (resumes), finished, failed.
        tasks: task -> split -> metric -> value, of the best checkpoint; {} before the run's end.
        score: mean of the tasks' main metrics on validation, of the best checkpoint.
        seen: task -> what was trained on of it; {} before the end, and in runs of versions that did not count it.
        sharing: what the sharing strategy has learnt, by name: title, rows, columns, values; of the best checkpoint.
        error: the first line of what stopped a failed run; written for failed runs only.
    """

    status: Status = "running"
    tasks: dict[str, TaskResults] = field(default_factory=dict)
    score: float | None = None
    training: TrainingCost = field(default_factory=TrainingCost)
    parameters: ParameterCounts = field(default_factory=ParameterCounts)
    seen: dict[str, Seen] = field(default_factory=dict)
    sharing: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the documented layout."""
        record: dict[str, Any] = {
            "status": self.status,
            "tasks": self.tasks,
            "score": self.score,
            "training": vars(self.training),
            "parameters": vars(self.parameters),
        }
        if self.seen:
            record["seen"] = {task: vars(seen) for task, seen in self.seen.items()}
        if self.sharing:
            record["sharing"] = self.sharing
        return record | ({} if self.error is None else {"error": self.error})

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Results:
        """Return the object behind the documented layout. Metrics that were not finite come back as NaN."""
        return cls(
            status=record["status"],
            tasks={
                task: {
                    split: {metric: float("nan") if value is None else value for metric, value in metrics.items()}
                    for split, metrics in splits.items()
                }
                for task, splits in record["tasks"].items()
            },
            score=record["score"],
            training=TrainingCost(**_known(TrainingCost, record["training"])),
            parameters=ParameterCounts(**_known(ParameterCounts, record["parameters"])),
            seen={task: Seen(**_known(Seen, seen)) for task, seen in record.get("seen", {}).items()},
            sharing=record.get("sharing", {}),
            error=record.get("error"),
        )

    def flat(self) -> dict[str, float]:
        """Return `<split>/<task>/<metric>` -> value and the score: the names of metrics.jsonl."""
        named = {
            f"{split}/{task}/{metric}": value
            for task, splits in self.tasks.items()
            for split, metrics in splits.items()
            for metric, value in metrics.items()
        }
        return named | ({} if self.score is None else {"validation/score": self.score})

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed, with the first line of the error."""
        lines = str(error).strip().splitlines()
        self.status = "failed"
        self.error = lines[0] if lines else type(error).__name__


def _known(record_type: type, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the keys that a later version of the same format has added."""
    names = {field.name for field in fields(record_type)}
    return {name: value for name, value in values.items() if name in names}
