"""The settings of a study: the node `study` of conf/study.yaml."""

# No `from __future__ import annotations`: the configuration check reads the annotations.

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mtl_cli.types import NonNegativeInt, PositiveInt, UserError

_SAFE = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclass(kw_only=True)
class StudySettings:
    """Settings of `mtl study`.

    Args:
        variants: what is compared with learning alone: overrides of `mtl train` in one text (or a list of them), by
            name or as a list. None: one variant, `joint`, which is what the other overrides say.
        single: overrides of the single-task runs; sharing and weighting of the other overrides do not reach these.
        seeds: each run is made once for each of them.
        split: what differences and tests in the report are about first; the other split stands beside it.
        budget: epochs: each task's rows are seen as often alone as together; steps: all runs have as many updates.
        low_resource: sizes of training splits, and `all`, for learning curves; None: none.
        low_resource_task: the task whose training split is cut to these sizes; None: all tasks' at once.
        min_steps: runs on cut training splits have at least so many updates, or as many as on all examples if those are
            fewer; alone and together they are lengthened by the same factor.
        generalisation: score the training split, too, and report by how much it is ahead of validation.
        generalisation_examples: training examples of each task that are scored for it, at most.
        pairs: train every pair of tasks as the first variant says; draw who helps whom and propose groups.
        resamples: draws of the bootstrap over examples.
        resume: the folder of a study to go on with, or to report on again.
    """

    variants: dict[str, str | list[str]] | list[str] | None = None
    single: str | list[str] = "sharing=hard weighting=equal"
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [1, 2, 3])
    split: Literal["validation", "test"] = "validation"
    budget: Literal["epochs", "steps"] = "epochs"
    low_resource: list[PositiveInt | Literal["all"]] | None = None
    low_resource_task: str | None = None
    min_steps: NonNegativeInt = 200
    generalisation: bool = False
    generalisation_examples: PositiveInt = 2000
    pairs: bool = False
    resamples: PositiveInt = 1000
    resume: str | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UserError: no seeds or one twice, no sizes or one twice, variants without a usable name.
        """
        if not self.seeds:
            raise UserError("study.seeds: found [], allowed: one number or more, such as [1,2,3]")
        for key in ("seeds", "low_resource"):
            values = getattr(self, key) or []
            if len(set(values)) < len(values):
                raise UserError(f"study.{key}: found {values}, which has a value twice")
        if self.low_resource is not None and not self.sizes:
            found = f"[{', '.join(map(str, self.low_resource))}]"
            raise UserError(
                f"study.low_resource: found {found}, which cuts no training split; allowed: sizes such as "
                "[100,300,all], or null"
            )
        if self.low_resource_task is not None and not self.low_resource:
            raise UserError("study.low_resource_task: has no effect without study.low_resource=[100,300,all]")
        self.named_variants()

    def named_variants(self) -> dict[str, tuple[str, ...]]:
        """Return the overrides of each variant by its name."""
        if self.variants is None:
            return {"joint": ()}
        if not self.variants:
            raise UserError("study.variants: found none; leave it out, or name overrides, such as [weighting=pcgrad]")
        if isinstance(self.variants, list):
            found: dict[str, tuple[str, ...]] = {}
            for text in self.variants:
                overrides = overrides_in(text)
                name = _name_of(overrides)
                found[name if name not in found else f"{name}-{len(found) + 1}"] = overrides
            return found
        for name in self.variants:
            if name == "single" or not _SAFE.fullmatch(name):
                raise UserError(
                    f"study.variants.{name}: a name becomes part of a folder's name; allowed are letters, digits and "
                    "_ . + - and any name but `single`"
                )
        return {name: overrides_in(text) for name, text in self.variants.items()}

    @property
    def sizes(self) -> list[int]:
        """The sizes of `low_resource` in ascending order, without `all`."""
        return sorted(size for size in self.low_resource or [] if size != "all")

    @property
    def split_order(self) -> tuple[str, str]:
        """The split that the report is about first, and the other."""
        return ("validation", "test") if self.split == "validation" else ("test", "validation")


def overrides_in(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the overrides that stand in one text with spaces between, or one by one in a list."""
    if not isinstance(text, str):
        return tuple(text)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"study.variants: {text!r} cannot be read: {error}") from error


def _name_of(overrides: Sequence[str]) -> str:
    """A name from overrides: `pcgrad+hard` for weighting=pcgrad sharing=hard, `lr=0.1` for optimizer.lr=0.1."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        parts.append(f"{key.rpartition('.')[2]}={value}" if "." in key else value)
    name = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", "+".join(parts)).strip("-")
    return {"": "joint", "single": "single-variant"}.get(name, name)
