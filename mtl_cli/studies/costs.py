"""What single-task training and each variant took: parameters, tokens, passes, steps, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mtl_cli.studies.measured import Measured
from mtl_cli.tracking.results import Results


@dataclass(frozen=True)
class Cost:
    """Means over seeds; of single-task training sums over its runs, one a task.

    Attributes:
        parameters: of all models that one needs.
        tokens: trained on.
        steps: optimizer updates.
        seconds: of training and validation.
        tokens_of_tasks: task -> tokens; of the seeds that counted them.
        passes_of_tasks: task -> passes over its training rows; of the seeds that counted them.
    """

    parameters: float
    tokens: float
    steps: float
    seconds: float
    tokens_of_tasks: dict[str, float]
    passes_of_tasks: dict[str, float]


def costs_of(measured: Measured) -> dict[str, Cost]:
    """Return the cost of `single` and of each variant whose runs are there: the seeds for which all of them are."""
    plan, found = measured.plan, {}
    systems = {"single": [("single", task) for task in plan.tasks]}
    systems |= {variant: [("variant", variant)] for variant in plan.variants}
    for system, parts in systems.items():
        of_seeds = [
            [measured.run(kind, name, seed) for kind, name in parts]  # type: ignore[arg-type]
            for seed in plan.settings.seeds
        ]
        whole = [[run for run in runs if run is not None] for runs in of_seeds if None not in runs]
        if whole:
            found[system] = _mean(whole)
    return found


def _mean(of_seeds: Sequence[Sequence[Results]]) -> Cost:
    seen = [{task: seen for run in runs for task, seen in run.seen.items()} for runs in of_seeds]
    tasks = dict.fromkeys(task for of_seed in seen for task in of_seed)  # runs of older versions did not count all
    of_tasks = {task: [of_seed[task] for of_seed in seen if task in of_seed] for task in tasks}
    return Cost(
        parameters=fmean(sum(run.parameters.total for run in runs) for runs in of_seeds),
        tokens=fmean(sum(run.training.tokens for run in runs) for runs in of_seeds),
        steps=fmean(sum(run.training.steps for run in runs) for runs in of_seeds),
        seconds=fmean(sum(run.training.seconds for run in runs) for runs in of_seeds),
        tokens_of_tasks={task: fmean(seen.tokens for seen in found) for task, found in of_tasks.items()},
        passes_of_tasks={task: fmean(seen.passes for seen in found) for task, found in of_tasks.items()},
    )
