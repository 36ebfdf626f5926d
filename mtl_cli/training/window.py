"""What the steps since the last line of metrics.jsonl were like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtl_cli.gradients import StepResult


@dataclass
class Window:
    """Sums over steps, of numbers and text alone, so that a checkpoint can hold them.

    Attributes:
        losses: task -> sum of losses, number of steps that held the task.
        weights: the same of weights, without steps in which a task has no single weight; with a weight a group of
            parameters also under task/group.
        norms: the same of the norms of its gradient, where gradients were looked at.
        cosines: task -> another task -> sum of cosines, number of them, number of negative ones.
        penalties: name -> the same of what the sharing strategy adds to the objective.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    norms: dict[str, list[float]] = field(default_factory=dict)
    cosines: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    penalties: dict[str, list[float]] = field(default_factory=dict)

    def add(self, result: StepResult) -> None:
        """Take in a step."""
        for task, loss in result.losses.items():
            _add(self.losses, task, float(loss))
        for task, weight in result.weights.items():
            if (value := float(weight)) == value:
                _add(self.weights, task, value)
        for task, groups in result.group_weights.items():
            for group, weight in groups.items():
                _add(self.weights, f"{task}/{group}", float(weight))
        for name, penalty in result.penalties.items():
            _add(self.penalties, name, float(penalty))
        if result.conflict is None:
            return
        for task, norm in zip(result.conflict.tasks, result.conflict.norms_K.tolist(), strict=True):
            _add(self.norms, task, norm)
        for first, second, cosine in result.conflict.pairs():
            entry = self.cosines.setdefault(first, {}).setdefault(second, [0.0, 0, 0])
            entry[0] += cosine
            entry[1] += 1
            entry[2] += cosine < 0

    def record(self) -> dict[str, float]:
        """Return the means, by the names under which they are logged, and the share of pairs in conflict."""
        found = {
            **_means("train/loss", self.losses),
            **_means("train/weight", self.weights),
            **_means("train/grad_norm", self.norms),
            **_means("train/penalty", self.penalties),
        }
        pairs = negative = 0.0
        for first, others in self.cosines.items():
            for second, (total, count, below) in others.items():
                found[f"train/cosine/{first}/{second}"] = total / count
                pairs += count
                negative += below
        if pairs:
            found["train/conflict_rate"] = negative / pairs
        return found


def _add(sums: dict[str, list[float]], task: str, value: float) -> None:
    entry = sums.setdefault(task, [0.0, 0])
    entry[0] += value
    entry[1] += 1


def _means(name: str, sums: Mapping[str, list[float]]) -> dict[str, float]:
    return {f"{name}/{task}": total / count for task, (total, count) in sums.items()}
