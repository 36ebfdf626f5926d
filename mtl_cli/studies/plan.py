"""Which runs a study is made of: each is made once, whatever it is used for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from mtl_cli.studies.settings import StudySettings
from mtl_cli.sweeps import Job

Kind = Literal["single", "variant", "pair"]


@dataclass(frozen=True)
class RunKey:
    """What a run is for.

    Attributes:
        kind: a task alone, a variant on all tasks, or two tasks as the first variant says.
        name: of the task, of the variant, or of both tasks with a plus sign between.
        size: training examples of the task or tasks that `low_resource_task` names; None: all.
        seed: of the run.
    """

    kind: Kind
    name: str
    size: int | None
    seed: int

    @property
    def job_name(self) -> str:
        """The name of its folder, unless another run is the same."""
        size = "" if self.size is None else f",size={self.size}"
        return f"{self.kind}={self.name}{size},seed={self.seed}"


@dataclass(frozen=True)
class TaskInfo:
    """What the report must know of a task.

    Attributes:
        metric: its main metric.
        higher_is_better: whether greater values of it are.
        num_train: examples of its training split.
    """

    metric: str
    higher_is_better: bool
    num_train: int


@dataclass(frozen=True)
class StudyPlan:
    """The runs of a study.

    Attributes:
        settings: of the study.
        tasks: in the order of the configuration.
        variants: name -> overrides.
        runs: what each run is for -> the name of the job that makes it.
        jobs: the runs to make, in order.
        steps: optimizer updates of each job.
        notes: what the reader of the report should know about the comparison, a sentence each.
    """

    settings: StudySettings
    tasks: dict[str, TaskInfo]
    variants: dict[str, tuple[str, ...]]
    runs: dict[RunKey, str]
    jobs: tuple[Job, ...]
    steps: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def used_by(self, job_name: str) -> list[RunKey]:
        """Return what a job's run is for."""
        return [key for key, name in self.runs.items() if name == job_name]

    def size_in_words(self) -> str:
        """Return how many runs the study is, and what each option adds."""
        parts, counted = [], set[str]()
        for title, keys in self._sections():
            new = {self.runs[key] for key in keys} - counted
            counted |= new
            if keys:
                parts.append(f"{len(new)} {title}")
        total = sum(self.steps.values())
        return f"this study is {len(self.jobs)} runs of {total:,} steps together: {', '.join(parts)}"

    def _sections(self) -> list[tuple[str, list[RunKey]]]:
        full = [key for key in self.runs if key.size is None]
        return [
            (f"of single tasks ({len(self.tasks)})", [key for key in full if key.kind == "single"]),
            (f"of variants ({len(self.variants)})", [key for key in full if key.kind == "variant"]),
            ("for study.low_resource", [key for key in self.runs if key.size is not None]),
            ("for study.pairs", [key for key in full if key.kind == "pair"]),
        ]


def needed_runs(settings: StudySettings, tasks: Sequence[str]) -> list[RunKey]:
    """Return what runs are needed for, whether or not some of them are the same, in the order in which they are made.

    The comparison comes first, seed by seed, so that a study that is stopped early has something to say.
    """
    variants = list(settings.named_variants())
    keys = [key for seed in settings.seeds for key in _comparison(tasks, variants, None, seed)]
    of_sizes = tasks if settings.low_resource_task is None else [settings.low_resource_task]
    keys += [
        key for size in settings.sizes for seed in settings.seeds for key in _comparison(of_sizes, variants, size, seed)
    ]
    if settings.pairs:
        pairs = [pair_name(pair) for pair in combinations(tasks, 2)]
        keys += [RunKey("pair", pair, None, seed) for seed in settings.seeds for pair in pairs]
    return keys


def _comparison(tasks: Iterable[str], variants: Iterable[str], size: int | None, seed: int) -> list[RunKey]:
    return [
        *(RunKey("single", task, size, seed) for task in tasks),
        *(RunKey("variant", variant, size, seed) for variant in variants),
    ]


def pair_name(pair: Iterable[str]) -> str:
    """Return the name of two tasks together."""
    return "+".join(pair)


def removed_tasks(config: Mapping[str, Any], kept: Iterable[str]) -> list[str]:
    """Return overrides that take tasks out of a configuration, and what its other nodes say of them.

    The names of tasks as keys of plain mappings (batch sizes, static weights, ...), a head that is shared with one of
    them, and a best metric of one of them go, too.
    """
    kept = list(kept)
    gone = [name for name in config["tasks"] if name not in kept]
    overrides = [f"~tasks.{name}" for name in gone]
    for name in kept:
        if config["tasks"].get(name, {}).get("share_head_with") in gone:
            overrides.append(f"tasks.{name}.share_head_with=null")
    for node in ("sampler", "weighting", "sharing"):
        overrides += [f"~{path}" for path in _paths_of(config.get(node), gone, node)]
    best = str(config["trainer"].get("best_metric", "score")).removeprefix("validation/")
    if best.partition("/")[0] in gone:
        overrides.append("trainer.best_metric=score")
    return overrides


def _paths_of(node: Any, names: Sequence[str], path: str) -> list[str]:
    if not isinstance(node, Mapping):
        return []
    plain = "_target_" not in node
    own = [f"{path}.{key}" for key in node if plain and key in names]
    below = {f"{path}.{key}": value for key, value in node.items() if f"{path}.{key}" not in own}
    inside = [found for place, value in below.items() for found in _paths_of(value, names, place)]
    return own + inside


def without_groups(overrides: Iterable[str], groups: Sequence[str]) -> list[str]:
    """Leave out overrides that choose an option of these groups or change a setting of it."""
    return [
        override for override in overrides if override.lstrip("+~").partition("=")[0].partition(".")[0] not in groups
    ]
