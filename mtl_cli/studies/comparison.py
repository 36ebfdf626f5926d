"""Variants against single-task training: means, differences, tests, relative gain, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mtl_cli.studies.bootstrap import Bootstrap
from mtl_cli.studies.measured import Measured
from mtl_cli.studies.statistics import (
    Interval,
    PairedTest,
    delta_m,
    holm,
    mean_interval,
    mean_ranks,
    paired_test,
)

LEVEL = 0.05
"""Below this corrected p, a difference counts as beyond noise."""

Bootstraps = Mapping[tuple[str, str], Bootstrap]
"""(variant, task) -> what the bootstrap over examples says, for one seed."""


@dataclass(frozen=True)
class TaskComparison:
    """A variant on one task.

    Attributes:
        values: seed -> main metric.
        mean: of the values.
        gain: what it is better by than single-task training over the seeds that both have; positive means better, also
            where the metric is an error.
        p_holm: of the gain, corrected over tasks.
        bootstrap: over examples, for one seed.
        bootstrap_p_holm: of the bootstrap, corrected over tasks.
        decided_by: seeds: `p_holm` says whether the difference is beyond noise; examples: `bootstrap_p_holm` does, as
            in studies of one seed. The same in all of a study.
    """

    values: dict[int, float]
    mean: Interval | None
    gain: PairedTest | None
    p_holm: float | None
    bootstrap: Bootstrap | None
    bootstrap_p_holm: float | None
    decided_by: Literal["seeds", "examples"]

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference is significant: over seeds where the study has several, else over examples."""
        return (p := self.decisive_p) is not None and p < LEVEL

    @property
    def decisive_p(self) -> float | None:
        """The corrected p that `beyond_noise` goes by; None where nothing could be tested."""
        return self.p_holm if self.decided_by == "seeds" else self.bootstrap_p_holm

    @property
    def direction(self) -> int:
        """1: better than single-task training, -1: worse, 0: the same or not known."""
        gain = self.gain.difference.mean if self.gain is not None else 0.0
        return (gain > 0) - (gain < 0)


@dataclass(frozen=True)
class VariantComparison:
    """A variant on all tasks.

    Attributes:
        tasks: of the study.
        delta_m: mean relative gain over single-task training in per cent over seeds; None where it is not defined.
        mean_rank: over tasks, 1 the best of single-task training and all variants.
        better: tasks on which it is better beyond noise.
        worse: tasks on which it is worse beyond noise: negative transfer.
        untested: tasks with values of which no test can tell: one seed without predictions, differences that are
            all equal, or values that are not finite.
    """

    tasks: dict[str, TaskComparison]
    delta_m: Interval | None
    mean_rank: float | None
    better: list[str]
    worse: list[str]
    untested: list[str]


@dataclass(frozen=True)
class Comparison:
    """All variants on one split.

    Attributes:
        split: validation or test.
        single: task -> mean over seeds of single-task training.
        single_values: task -> seed -> main metric.
        single_rank: mean rank of single-task training.
        variants: name -> comparison.
    """

    split: str
    single: dict[str, Interval | None]
    single_values: dict[str, dict[int, float]]
    single_rank: float | None
    variants: dict[str, VariantComparison]


def compare(measured: Measured, split: str, bootstraps: Bootstraps) -> Comparison:
    """Compare every variant with single-task training on one split; tasks without labels there are left out."""
    tasks = {name: info for name, info in measured.plan.tasks.items() if measured.has_values(name, split)}
    higher = {name: info.higher_is_better for name, info in tasks.items()}
    single = {name: measured.values("single", name, name, split) for name in tasks}
    of_variants = {
        variant: {name: measured.values("variant", variant, name, split) for name in tasks}
        for variant in measured.plan.variants
    }
    means = {
        system: {task: m.mean for task, seeds in values.items() if (m := mean_interval(list(seeds.values())))}
        for system, values in {"": single, **of_variants}.items()
    }
    decided_by: Literal["seeds", "examples"] = "seeds" if len(measured.plan.settings.seeds) > 1 else "examples"
    ranks = mean_ranks({system: found for system, found in means.items() if found}, higher)
    return Comparison(
        split=split,
        single={name: mean_interval(list(values.values())) for name, values in single.items()},
        single_values=single,
        single_rank=ranks.get(""),
        variants={
            variant: _compare_variant(variant, values, single, higher, ranks.get(variant), bootstraps, decided_by)
            for variant, values in of_variants.items()
        },
    )


def _compare_variant(
    variant: str,
    values: Mapping[str, dict[int, float]],
    single: Mapping[str, dict[int, float]],
    higher: Mapping[str, bool],
    rank: float | None,
    bootstraps: Bootstraps,
    decided_by: Literal["seeds", "examples"],
) -> VariantComparison:
    gains = {task: gain_over(values[task], single[task], higher[task]) for task in values}
    corrected = holm([gain.p if gain is not None else None for gain in gains.values()])
    drawn = [bootstraps.get((variant, task)) for task in values]
    drawn_corrected = holm([found.p if found is not None else None for found in drawn])
    tasks = {
        task: TaskComparison(
            values[task],
            mean_interval(list(values[task].values())),
            gains[task],
            p,
            bootstrap,
            bootstrap_p,
            decided_by,
        )
        for task, p, bootstrap, bootstrap_p in zip(values, corrected, drawn, drawn_corrected, strict=True)
    }
    beyond = {task: found.direction for task, found in tasks.items() if found.beyond_noise}
    return VariantComparison(
        tasks=tasks,
        delta_m=delta_m_over_seeds(values, single, higher),
        mean_rank=rank,
        better=[task for task, direction in beyond.items() if direction > 0],
        worse=[task for task, direction in beyond.items() if direction < 0],
        untested=[
            task for task, cell in tasks.items() if cell.decisive_p is None and set(values[task]) & set(single[task])
        ],
    )


def gain_over(values: Mapping[int, float], baselines: Mapping[int, float], higher_is_better: bool) -> PairedTest | None:
    """Test what is gained over the baselines, over the seeds that both have; positive means better."""
    seeds = [seed for seed in values if seed in baselines]
    sign = 1 if higher_is_better else -1
    return paired_test([sign * values[seed] for seed in seeds], [sign * baselines[seed] for seed in seeds])


def delta_m_over_seeds(
    values: Mapping[str, Mapping[int, float]],
    baselines: Mapping[str, Mapping[int, float]],
    higher_is_better: Mapping[str, bool],
) -> Interval | None:
    """Return delta_m (see `statistics.delta_m`) of each seed that all tasks have, as mean and interval.

    None where no seed has all tasks, or where a baseline of one of them is too near to zero.
    """
    if not values:
        return None
    seeds = set.intersection(*(set(values[task]) & set(baselines[task]) for task in values))
    of_seeds = [
        delta_m(
            {task: values[task][seed] for task in values},
            {task: baselines[task][seed] for task in values},
            higher_is_better,
        )
        for seed in sorted(seeds)
    ]
    known = [value for value in of_seeds if value is not None]
    return mean_interval(known) if len(known) == len(of_seeds) else None
