"""The jobs of a study: one for each run that differs from all others, as long as the budget says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtl_cli.build import instantiate
from mtl_cli.studies.lengths import Reference, Splits, limited, matched_length, reference_run, stretched
from mtl_cli.studies.plan import Kind, RunKey, StudyPlan, TaskInfo, needed_runs
from mtl_cli.studies.settings import StudySettings
from mtl_cli.sweeps import Job
from mtl_cli.training.length import RunLength, run_length

_LENGTH = ("epochs", "max_steps", "steps_per_epoch")


@dataclass(frozen=True)
class Draft:
    """A run but for its seed, its size and its length.

    Attributes:
        overrides: of `mtl train`.
        config: what they give.
    """

    overrides: tuple[str, ...]
    config: dict[str, Any]


class Planner:
    """Makes a job of each run that is needed."""

    def __init__(
        self,
        settings: StudySettings,
        base: dict[str, Any],
        drafts: Mapping[tuple[Kind, str], Draft],
        splits: Splits,
        tasks: dict[str, TaskInfo],
        notes: list[str],
    ) -> None:
        self.settings, self.base, self.drafts, self.splits, self.tasks = settings, base, drafts, splits, tasks
        self.notes = notes
        self.trainer, self.sampler = instantiate(base["trainer"]), instantiate(base["sampler"])
        # Runs that differ in the seed alone are to be averaged, so all seeds get the lengths of the first one.
        self.seed = settings.seeds[0]
        self._references: dict[int | None, Reference] = {}
        self._lengths: dict[tuple[Kind, str, int | None], tuple[RunLength, RunLength]] = {}

    def plan(self) -> StudyPlan:
        """Return the jobs, and which of them each run that is needed is made by."""
        runs: dict[RunKey, str] = {}
        jobs: dict[str, Job] = {}
        known: dict[str, str] = {}
        steps: dict[str, int] = {}
        for key in needed_runs(self.settings, list(self.tasks)):
            draft = self.drafts[key.kind, key.name]
            own, wanted = self._length(key)
            extra = [*self._of_size(key, draft), *self._of_length(key, draft.config, own, wanted)]
            same = json.dumps([draft.config | {"seed": key.seed}, extra], sort_keys=True, default=str)
            name = known.setdefault(same, key.job_name)
            runs[key] = name
            if name not in jobs:
                jobs[name] = Job(name=name, overrides=(*draft.overrides, *extra, f"seed={key.seed}"))
                steps[name] = wanted.total_steps
        if len(self.settings.seeds) == 1:
            self.notes.append("There is one seed: no interval, and only the bootstrap over examples tests anything.")
        return StudyPlan(
            self.settings, self.tasks, self.settings.named_variants(), runs, tuple(jobs.values()), steps, self.notes
        )

    def _of_length(self, key: RunKey, config: Mapping[str, Any], own: RunLength, wanted: RunLength) -> list[str]:
        """Return overrides that make a run so long, evaluated as many times over its course as the joint run."""
        overrides = []
        # With max_tokens, how many steps an epoch has depends on which rows come together, and so on the seed.
        if own != wanted or config["sampler"].get("max_tokens") is not None:
            overrides = [f"trainer.max_steps={wanted.total_steps}", f"trainer.steps_per_epoch={wanted.steps_per_epoch}"]
        every = config["trainer"].get("evaluate_every", "epoch")
        joint = self._reference(None).length.total_steps
        as_joint = every == self.base["trainer"].get("evaluate_every")
        if isinstance(every, int) and as_joint and wanted.total_steps != joint:
            overrides.append(f"trainer.evaluate_every={max(1, round(every * wanted.total_steps / joint))}")
        return overrides

    def _of_size(self, key: RunKey, draft: Draft) -> list[str]:
        sizes = {task: size for task, size in self._sizes(key.size).items() if task in draft.config["tasks"]}
        return [f"tasks.{task}.max_train_examples={size}" for task, size in sizes.items()]

    def _sizes(self, size: int | None) -> dict[str, int]:
        if size is None:
            return {}
        named = self.settings.low_resource_task
        return dict.fromkeys(self.tasks if named is None else [named], size)

    def _reference(self, size: int | None) -> Reference:
        """The joint run by the overrides that all runs share, on all examples or on fewer of them."""
        if size not in self._references:
            self._references[size] = self._joint(size, 0) if size is None else self._joint_on_few(size)
        return self._references[size]

    def _joint(self, size: int | None, least_steps: int) -> Reference:
        splits = limited(self.splits, self._sizes(size))
        return reference_run(self.trainer, self.sampler, splits, self.seed, least_steps)

    def _joint_on_few(self, size: int) -> Reference:
        """So long that neither it nor the runs of single tasks, which see as many rows, are too short to learn."""
        joint = self._joint(size, min(self.settings.min_steps, self._reference(None).length.total_steps))
        if self.settings.budget == "steps":
            return joint
        factors = [
            self._least_steps("single", task) / self._matched(joint, "single", task, size).total_steps
            for task in self._sizes(size)
        ]
        longer = math.ceil(joint.length.total_steps * max(factors))
        return self._joint(size, longer) if longer > joint.length.total_steps else joint

    def _length(self, key: RunKey) -> tuple[RunLength, RunLength]:
        """How long a run would be by its own configuration, and how long it should be."""
        place = (key.kind, key.name, key.size)
        if place not in self._lengths:
            self._lengths[place] = self._find_length(*place)
        return self._lengths[place]

    def _find_length(self, kind: Kind, name: str, size: int | None) -> tuple[RunLength, RunLength]:
        config = self.drafts[kind, name].config
        own = run_length(
            instantiate(config["trainer"]), instantiate(config["sampler"]), self._splits_of(config, size), self.seed
        )
        if kind == "variant" and any(config["trainer"].get(key) != self.base["trainer"].get(key) for key in _LENGTH):
            return own, own if size is None else stretched(own, self._least_steps(kind, name))  # what it is about
        reference = self._reference(size)
        if kind == "variant" and config["sampler"] == self.base["sampler"]:
            return own, reference.length
        return own, self._matched(reference, kind, name, size)

    def _matched(self, reference: Reference, kind: Kind, name: str, size: int | None) -> RunLength:
        config = self.drafts[kind, name].config
        splits = self._splits_of(config, size)
        return matched_length(reference, instantiate(config["sampler"]), splits, self.seed, self.settings.budget)

    def _splits_of(self, config: Mapping[str, Any], size: int | None) -> Splits:
        cut = limited(self.splits, self._sizes(size))
        return {name: cut[name] for name in config["tasks"]}

    def _least_steps(self, kind: Kind, name: str) -> int:
        """Runs on few examples are not to be shorter than `min_steps`, unless those on all examples are."""
        return min(self.settings.min_steps, self._length(RunKey(kind, name, None, self.seed))[1].total_steps)
