"""The plan of a search, read from a command line and YAML in the sweep syntax of Hydra's own grammar, and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    Transformer,
)
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_cli.check_config import ConfigError, check_config, check_settings
from mtl_cli.errors import UserError
from mtl_cli.launching import Words, hydra_session, plain_config
from mtl_cli.overrides import force_values, groups_in, option_problems
from mtl_cli.quoting import quoted
from mtl_cli.search.search_folder import Plan
from mtl_cli.search.settings import CAN_CHANGE_ON_RESUMING, SearchSettings
from mtl_cli.search.space import Choice, Dimension, Float, Integer, Simplex, Space
from mtl_cli.tracking.masking import MASK, mask_argument
from mtl_cli.tracking.run_folder import remove_if_empty

SIMPLEX = "simplex"
_SEVERAL_MAGNITUDES = 100
_OWN = ("search", "hydra")
_OF_ONE_RUN = ("resume", "dry_run")


@dataclass(frozen=True)
class Sorted:
    """The overrides of `mtl search`: what is searched, what all trials have, and what is about the search itself."""

    swept: dict[str, str] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)


def sort_overrides(arguments: Sequence[str], words: Words) -> Sorted:
    """Sort the overrides; those whose value is a sweep, or the word `simplex`, are searched.

    Raises:
        ConfigError: overrides that Hydra cannot read, or a flag that asks for a sweep.
    """
    found = Sorted()
    problems = []
    if {"-m", "--multirun"} & set(arguments):
        problems.append("-m: a search is many runs by itself; leave it out")
    for word in words.overrides:
        key, _, value = word.lstrip("+").partition("=")
        if key.startswith(("hydra/launcher", "hydra.launcher")):
            problems.append(f"{key}: a search runs its trials itself; for several at once give search.workers=2")
            continue
        if any(key == own or key.startswith((f"{own}.", f"{own}/")) for own in _OWN):
            found.own.append(word)
            continue
        try:
            parsed = _parse(word)
        except UserError as error:
            problems.append(str(error))
            continue
        if parsed.is_sweep_override() or parsed.value() == SIMPLEX:
            found.swept[key] = value
        else:
            found.fixed.append(word)
    if problems:
        raise ConfigError(problems)
    return found


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except HydraException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "hydra.cc" not in line]
        lines = [line for line in lines if not line.startswith("Error parsing override")]
        raise UserError(f"{word}: {' '.join(lines)}") from error


def _as_word(item: Any) -> str:
    """Write an item of a YAML list as a value on the command line that means the same."""
    if not isinstance(item, str):
        return Transformer.str(item)
    try:
        reads_the_same = _parse(f"key={item}").value() == item
    except UserError:
        reads_the_same = False
    return item if reads_the_same else quoted(item)


def read_dimension(key: str, value: Any, groups: Mapping[str, Sequence[str]]) -> Dimension | None:
    """Return the dimension that a sweep describes; None for the word `simplex`, which needs the tasks.

    Args:
        key: of the setting, or a config group.
        value: text in Hydra's sweep syntax, or a list of values.
        groups: options of config groups, for glob(...).

    Raises:
        UserError: what it describes is no range of values.
    """
    if isinstance(value, list):
        return _named(key, lambda: Choice(tuple(map(_as_word, value))))
    if not isinstance(value, str):
        raise UserError(
            f"{key}: found {value!r}, needs something to search, such as interval(0,1), choice(a,b), range(1,5), or a "
            f"list; a setting that all trials have is given as {key}={value}"
        )
    if value.strip() == SIMPLEX:
        return None
    parsed = _parse(f"{key}={value}")
    sweep = parsed._value  # `value()` gives no Glob
    if not isinstance(sweep, Sweep | Glob):
        raise UserError(
            f"{key}: found {value!r}, which is one value; to search give interval(0,1), choice(a,b), range(1,5), ..."
        )
    _check_tags(key, sweep)
    return _named(key, lambda: _dimension(key, parsed, sweep, groups))


def _check_tags(key: str, sweep: Sweep | Glob) -> None:
    tags = sweep.tags if isinstance(sweep, Sweep) else set()
    unknown = sorted(tags - {"log"})
    if unknown:
        raise UserError(f"{key}: found the tag {unknown[0]!r}, allowed: log")
    if tags and not isinstance(sweep, IntervalSweep | RangeSweep):
        raise UserError(f"{key}: found tag(log, ...) around choices; it goes with interval(...) and range(...)")


def _named(key: str, make: Callable[[], Dimension]) -> Dimension:
    try:
        return make()
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _dimension(key: str, parsed: Override, sweep: Sweep | Glob, groups: Mapping[str, Sequence[str]]) -> Dimension:
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        log_scale = "log" in sweep.tags
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return Integer(sweep.start, sweep.end, log_scale)
        return Float(float(sweep.start), float(sweep.end), log_scale)
    if isinstance(sweep, RangeSweep):
        return _range(sweep)
    if isinstance(sweep, Glob):
        options = sweep.filter(list(groups.get(key, ())))
        if not options:
            raise UserError(f"found glob({','.join(sweep.include)}), which fits no option of a group {key!r}")
        return Choice(tuple(options))
    assert isinstance(sweep, ChoiceSweep)
    return Choice(tuple(parsed.sweep_string_iterator()))


def advice(key: str, dimension: Dimension) -> str | None:
    """Say where a range over several orders of magnitude is drawn evenly, which is seldom meant."""
    if not isinstance(dimension, Float) or dimension.log or dimension.step is not None:
        return None
    if dimension.low <= 0 or dimension.high / dimension.low < _SEVERAL_MAGNITUDES:
        return None
    low, high = dimension.low, dimension.high
    return (
        f"{key}: is drawn evenly from {low:g} to {high:g}, so that nine of ten values are above "
        f"{low + (high - low) / 10:.3g}; {key}=tag(log,interval({low:g},{high:g})) draws values of every magnitude"
    )


def _range(sweep: RangeSweep) -> Dimension:
    """As everywhere in Hydra, the values are start, start + step, ... without `stop`."""
    values = list(sweep.range())
    if not values:
        raise UserError(f"found range({sweep.start},{sweep.stop},{sweep.step}), which holds no value")
    if len(values) == 1:
        return Choice((str(values[0]),))
    low, high, step = min(values), max(values), abs(sweep.step)
    if all(isinstance(value, int) for value in values):
        return Integer(int(low), int(high), "log" in sweep.tags, int(step))
    if "log" in sweep.tags:
        raise UserError("found tag(log, range(...)) with fractions; give tag(log, interval(...))")
    return Float(float(low), float(high), step=float(step))


class _Composer:
    """Composes and checks the configuration of trials."""

    def __init__(self, hydra: Any, groups: dict[str, list[str]], dirs: Sequence[Path]) -> None:
        self._hydra = hydra
        self._groups = groups
        self._dirs = dirs

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the plain configuration of `mtl train` with these overrides; UserError where there is none."""
        problems = option_problems(overrides, self._dirs, self._groups)
        if problems:
            raise ConfigError(problems)
        try:
            config = self._hydra.compose_config(
                config_name="train",
                overrides=force_values(list(overrides), self._groups),
                run_mode=RunMode.RUN,
                with_log_configuration=False,
            )
            # Hydra's own node holds what only a run that has begun can resolve.
            return plain_config(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(" ".join(str(error).split())) from error

    def problems(self, overrides: Sequence[str]) -> list[str]:
        """Say what is wrong with a trial that has these overrides."""
        try:
            config = self.compose(overrides)
            check_config(config, config.get("allow_targets"))
        except ConfigError as error:
            return error.problems
        except UserError as error:
            return [str(error)]
        return []


def resuming(words: Words, node: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the search to go on with, and the settings that are to change.

    Raises:
        UserError: settings that cannot change any more.
    """
    settings = check_settings(SearchSettings, node, "search.")
    given = [word.lstrip("+").partition("=")[0] for word in words.overrides]
    allowed = [f"search.{name}" for name in CAN_CHANGE_ON_RESUMING]
    others = [key for key in given if key not in (*allowed, "debug")]
    if others:
        raise UserError(
            f"search.resume: a search goes on with the settings it was started with; leave out {', '.join(others)} "
            f"(what may be given: {', '.join(allowed[1:])}), or start a new search"
        )
    assert settings.resume is not None
    changed = [name for name in CAN_CHANGE_ON_RESUMING[1:] if f"search.{name}" in given]
    return Path(settings.resume), {name: getattr(settings, name) for name in changed}


def plan_search(words: Words, overrides: Sorted, node: Mapping[str, Any], conf_dir: Path, folder: Path) -> Plan:
    """Make the plan of a search and check it: every choice, and both ends of every range, in a whole configuration.

    Args:
        words: the command line.
        overrides: its overrides.
        node: `search` of the composed configuration.
        conf_dir: the shipped configuration.
        folder: that Hydra has made for the search; taken away again where there is a problem.

    Raises:
        ConfigError: all problems.
    """
    try:
        return _plan(words, overrides, node, conf_dir)
    except UserError:
        remove_if_empty(folder)
        raise


def _plan(words: Words, overrides: Sorted, node: Mapping[str, Any], conf_dir: Path) -> Plan:
    dirs = [conf_dir, *([words.config_dir] if words.config_dir else [])]
    groups = groups_in(dirs)
    problems = _words_problems(words, overrides)
    settings = SearchSettings()
    try:
        settings = check_settings(SearchSettings, node, "search.")
        problems += settings.problems()
    except ConfigError as error:
        problems += error.problems
    dimensions, found = _dimensions(_swept(settings.space, overrides), groups)
    problems += found
    if not dimensions and not problems:
        problems.append(
            "search.space: found nothing to search; give values in Hydra's sweep syntax, such as "
            "'optimizer.lr=tag(log,interval(1e-5,1e-3))' sharing=hard,cross_stitch"
        )
    fixed = tuple(overrides.fixed)
    with hydra_session(conf_dir, words.config_dir) as hydra:
        composer = _Composer(hydra, groups, dirs)
        space, found = _with_tasks(dimensions, fixed, composer)
        found = found or _check_points(space, fixed, composer)
        if not found:
            fixed, found = _check_objectives(settings.objectives, space, fixed, composer)
    problems += found
    if settings.sampler == "grid":
        try:
            space.grid()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    for key, dimension in space.dimensions.items():
        if said := advice(key, dimension):
            print(f"warning: {said}", file=sys.stderr)
    return Plan(
        settings=settings,
        space=space,
        fixed=fixed,
        config_arguments=tuple(words.config_arguments),
        working_folder=str(Path.cwd()),
        command=(*words.config_arguments, *words.overrides),
    )


def _words_problems(words: Words, overrides: Sorted) -> list[str]:
    problems = []
    if words.config_name is not None:
        problems.append("--config-name: the trials are runs of `mtl train`; leave it out")
    for word in [*overrides.fixed, *(f"{key}={value}" for key, value in overrides.swept.items())]:
        key = word.lstrip("+~").partition("=")[0]
        if key in _OF_ONE_RUN:
            problems.append(f"{key}: is for one run of `mtl train`; a search goes on with search.resume=DIR")
        if MASK in mask_argument(word):
            problems.append(f"{key}: found a secret, which would be written down; give it by an environment variable")
    return problems


def _swept(in_yaml: Mapping[str, Any], overrides: Sorted) -> dict[str, Any]:
    """What is searched: of the YAML what the command line does not set, then the command line's own."""
    set_by_hand = {word.lstrip("+~").partition("=")[0] for word in overrides.fixed}
    kept = {key: value for key, value in _flat(in_yaml) if key not in set_by_hand}
    return {**kept, **overrides.swept}


def _flat(space: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys, and nested ones, which mean the same: {optimizer: {lr: ...}}."""
    for key, value in space.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _dimensions(
    swept: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Dimension | None], list[str]]:
    dimensions: dict[str, Dimension | None] = {}
    problems = []
    for key, value in swept.items():
        try:
            dimensions[key] = read_dimension(key, value, groups)
        except UserError as error:
            problems.append(str(error))
    return dimensions, problems


def _with_tasks(
    dimensions: Mapping[str, Dimension | None], fixed: Sequence[str], composer: _Composer
) -> tuple[Space, list[str]]:
    """Put the tasks of the trials into simplexes."""
    known = {key: dimension for key, dimension in dimensions.items() if dimension is not None}
    simplexes = [key for key, dimension in dimensions.items() if dimension is None]
    if not simplexes:
        return Space(known), []
    if "task" in dimensions:
        return Space(known), [
            f"{simplexes[0]}: a simplex needs the same tasks in all trials, but task is searched, too"
        ]
    others = Space(known)
    try:
        tasks = tuple(composer.compose([*fixed, *others.overrides(others.points_to_check()[0])])["tasks"])
        return Space({key: Simplex(tasks) if d is None else d for key, d in dimensions.items()}), []
    except ConfigError as error:
        return others, error.problems
    except UserError as error:
        return others, [str(error)]


def _check_points(space: Space, fixed: Sequence[str], composer: _Composer) -> list[str]:
    first, *others = ([*space.overrides(point)] for point in space.points_to_check())
    problems = composer.problems([*fixed, *first])
    for point in others:
        if new := [problem for problem in composer.problems([*fixed, *point]) if problem not in problems]:
            problems += [f"{_difference(first, point)}: {p}" if _difference(first, point) not in p else p for p in new]
    return problems


def _difference(first: Sequence[str], other: Sequence[str]) -> str:
    """Name the first override in which two points differ."""
    return next((b for a, b in zip(first, other, strict=True) if a != b), "")


def _check_objectives(
    objectives: Sequence[str], space: Space, fixed: tuple[str, ...], composer: _Composer
) -> tuple[tuple[str, ...], list[str]]:
    """Refuse unknown objectives, and have a single one choose the best checkpoint unless the user says what does."""
    key = "trainer.best_metric"
    first = space.overrides(space.points_to_check()[0])
    problems = [
        problem.replace(key, "search.objectives")
        for objective in objectives
        for problem in composer.problems([*fixed, *first, f"{key}={objective}"])
    ]
    given = {word.lstrip("+~").partition("=")[0] for word in (*fixed, *first)}
    if len(objectives) == 1 and objectives[0] != "score" and key not in given:
        fixed = (*fixed, f"{key}={objectives[0]}")
    return fixed, problems
