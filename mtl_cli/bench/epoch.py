"""What an epoch of ours holds, as the composition's sampler mixes it: the rows of a baseline's epoch, or others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtl_cli.build import instantiate
from mtl_cli.data import EncodedSplit
from mtl_cli.errors import UserError
from mtl_cli.sampling import StepStream, count_steps_per_epoch

# Settings of samplers with which an epoch is one pass over the rows, or may be.
_ONE_PASS = {"epoch": "largest", "mixed": True, "max_tokens": None}


@dataclass(frozen=True)
class Epoch:
    """The first epoch of a run.

    Attributes:
        steps: of it.
        rows: of each task.
        tokens: of all rows.
        most_rows: of a step.
    """

    steps: int
    rows: Mapping[str, int]
    tokens: int
    most_rows: int

    @classmethod
    def of(cls, sampler_node: Mapping[str, Any], splits: Mapping[str, EncodedSplit], seed: int) -> Epoch:
        """Draw an epoch's rows without looking at more than their lengths."""
        sampler = instantiate(sampler_node)
        steps = count_steps_per_epoch(sampler, splits, seed=seed)
        stream = StepStream(sampler, splits, seed=seed, total_steps=steps)
        rows, tokens, most_rows = dict.fromkeys(splits, 0), 0, 0
        for number in range(steps):
            drawn = stream.next_step(number)
            most_rows = max(most_rows, sum(len(of_task) for of_task in drawn.values()))
            for task, of_task in drawn.items():
                rows[task] += len(of_task)
                tokens += int(splits[task].lengths[of_task].sum())
        return cls(steps, rows, tokens, most_rows)


def check_one_pass(epoch: Epoch, sampler_node: Mapping[str, Any], splits: Mapping[str, EncodedSplit]) -> None:
    """Refuse a sampler whose epoch is not one pass over the rows of each task: the baselines' is.

    Raises:
        UserError: with the settings that are to blame, and what an epoch holds.
    """
    other = {task: found for task, found in epoch.rows.items() if found != len(splits[task])}
    if not other:
        return
    causes = [
        f"sampler.{key}: found {sampler_node[key]!r}, allowed: {'null' if allowed is None else allowed}"
        for key, allowed in _ONE_PASS.items()
        if sampler_node.get(key, allowed) != allowed
    ]
    if isinstance(sampler_node.get("batch_size"), Mapping):
        causes.append(
            f"sampler.batch_size: found {dict(sampler_node['batch_size'])}, allowed: one number for all tasks"
        )
    if not causes:
        causes.append(f"sampler: found {sampler_node['_target_'].split('.')[-1]}, allowed: sampler=proportional")
    rows = ", ".join(f"{found:,} of {task}'s {len(splits[task]):,} rows" for task, found in other.items())
    raise UserError(
        f"{'; '.join(causes)}. An epoch of ours holds {rows}, while the baselines go over each row once: they would "
        "not do the same work. sampler=proportional sampler.batch_size=32 does"
    )
