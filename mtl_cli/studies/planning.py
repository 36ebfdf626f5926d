"""From the overrides of a study to its runs: compose and check each configuration; `planner` makes jobs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtl_cli.build import build_tasks
from mtl_cli.check_config import ConfigError, check_config
from mtl_cli.errors import UserError
from mtl_cli.studies.lengths import Splits
from mtl_cli.studies.plan import (
    Kind,
    StudyPlan,
    TaskInfo,
    pair_name,
    removed_tasks,
    without_groups,
)
from mtl_cli.studies.planner import Draft, Planner
from mtl_cli.studies.settings import StudySettings, overrides_in

Compose = Callable[[Sequence[str]], dict[str, Any]]
"""From overrides of `mtl train` to the plain configuration that they give."""

Load = Callable[[dict[str, Any]], Splits]
"""From a configuration to the training split of each task."""

_COMPARED = ("sharing", "weighting", "sampler")
_OF_NO_MATTER = ("loggers", "seed", "cache_dir", "debug", "allow_targets")


def plan_study(settings: StudySettings, common: Sequence[str], compose: Compose, load: Load) -> StudyPlan:
    """Return the runs of a study; every configuration is checked first, and all problems are told at once.

    Args:
        settings: of the study.
        common: overrides of `mtl train` that all runs share.
        compose: of configurations.
        load: of data, called once, when all configurations are sound.

    Raises:
        UserError: configurations, sizes or data that cannot be used.
    """
    drafts, base, notes = _check_all(settings, common, compose)
    splits = load(base)
    tasks = {
        name: TaskInfo(task.main_metric, task.higher_is_better(task.main_metric), splits[name].num_examples)
        for name, task in build_tasks(base["tasks"]).items()
    }
    _check_sizes(settings, tasks)
    return Planner(settings, base, drafts, splits, tasks, notes).plan()


def _check_all(
    settings: StudySettings, common: Sequence[str], compose: Compose
) -> tuple[dict[tuple[Kind, str], Draft], dict[str, Any], list[str]]:
    """Compose and check what all runs are made of; return drafts, the configuration of `common`, and notes."""
    problems = [
        f"seed: a study has its seeds in study.seeds (found {o})" for o in common if o.partition("=")[0] == "seed"
    ]
    base = compose(common)
    allowed = base.get("allow_targets")
    _collect(problems, "", lambda: check_config(base, allowed))
    if problems:
        raise ConfigError(problems)
    names = list(base["tasks"])
    if len(names) < 2:
        problems.append(f"task: a study compares learning together with learning alone; found one task, {names[0]}")
    if settings.low_resource_task is not None and settings.low_resource_task not in names:
        problems.append(
            f"study.low_resource_task: found {settings.low_resource_task!r}, allowed: a task of the study "
            f"({', '.join(names)})"
        )
    drafts: dict[tuple[Kind, str], Draft] = {}
    notes: list[str] = []

    def draft(kind: Kind, name: str, tasks: Sequence[str], overrides: Sequence[str], where: str) -> None:
        def make() -> None:
            removed = removed_tasks(compose(overrides), tasks) if len(tasks) < len(names) else []
            config = compose([*overrides, *removed])
            if list(config["tasks"]) != list(tasks):
                raise UserError(f"trains {', '.join(config['tasks'])}, where the study is about {', '.join(tasks)}")
            check_config(config, allowed)
            drafts[kind, name] = Draft((*overrides, *removed), config)

        _collect(problems, where, make)

    variants = settings.named_variants()
    for name, own in variants.items():
        draft("variant", name, names, [*common, *own], f"study.variants.{name}: " if own else "")
        if ("variant", name) in drafts:
            notes += _changes(name, base, drafts["variant", name].config)
    alone = [*without_groups(common, ("sharing", "weighting")), *overrides_in(settings.single)]
    for name in names:
        draft("single", name, [name], alone, f"study.single, task {name}: ")
    if settings.pairs:
        together = [*common, *next(iter(variants.values()))]
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                pair = pair_name((first, second))
                draft("pair", pair, [first, second], together, f"study.pairs, {pair}: ")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return drafts, base, notes


def _collect(problems: list[str], where: str, check: Callable[[], None]) -> None:
    """Add what a check raises to the problems, with the place in front."""
    try:
        check()
    except ConfigError as error:
        problems += [f"{where}{problem}" for problem in error.problems]
    except UserError as error:
        problems.append(f"{where}{error}")


def _changes(name: str, base: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Say where a variant differs in more than how tasks are learnt together."""
    others = [key for key in config if key not in (*_COMPARED, *_OF_NO_MATTER) and config[key] != base.get(key)]
    if not others:
        return []
    return [
        f"{name} also changes {', '.join(others)}: its difference to single-task training is not that of learning "
        "together alone."
    ]


def _check_sizes(settings: StudySettings, tasks: Mapping[str, TaskInfo]) -> None:
    of_sizes = tasks if settings.low_resource_task is None else [settings.low_resource_task]
    problems = [
        f"study.low_resource: found {size}, but the training split of {task} has {tasks[task].num_train:,} examples; "
        "allowed are less than that, and `all`"
        for size in settings.sizes
        for task in of_sizes
        if size >= tasks[task].num_train
    ]
    if problems:
        raise ConfigError(problems)
