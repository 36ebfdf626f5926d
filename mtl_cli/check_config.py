"""Every error of a configuration at once, before any data or model is loaded.

A node with a `_target_` is checked against the constructor that it names: the target must be a class of an allowed
package and of the kind that its place asks for, each key an argument, each value of the argument's annotated type and
range. Then the (light) objects are made, whose constructors check what several arguments say together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from mtl_cli.build import instantiate
from mtl_cli.sweeps.settings import SweepSettings
from mtl_cli.types import NonNegativeInt, UserError

ALLOWED_PACKAGES = ("mtl_cli", "torch", "transformers")

# What each top-level node must be.
_KINDS = {
    "encoder": "mtl_cli.encoders.EncoderSpec",
    "sharing": "mtl_cli.sharing.SharingStrategy",
    "weighting": "mtl_cli.weighting.Weighting",
    "sampler": "mtl_cli.sampling.Sampler",
    "optimizer": "mtl_cli.training.AdamW",
    "schedule": "mtl_cli.training.Schedule",
    "trainer": "mtl_cli.training.Trainer",
}
_KINDS_OF_MEMBERS = {"tasks": "mtl_cli.tasks.Task", "loggers": "mtl_cli.tracking.RunLogger"}
# Config groups whose YAMLs become members of another node.
_GROUPS_OF_MEMBERS = {"task": "tasks", "logger": "loggers"}


_HYDRAS_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}


@dataclasses.dataclass(kw_only=True)
class RunSettings:
    """The run-level scalars of conf/train.yaml."""

    seed: NonNegativeInt = 1
    resume: str | None = None
    dry_run: bool = False
    cache_dir: str | None = None
    allow_targets: list[str] = dataclasses.field(default_factory=list)
    debug: bool = False


class ConfigError(UserError):
    """All that is wrong with a configuration."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        super().__init__(f"{count} in the configuration:\n" + "\n".join(f"  - {problem}" for problem in problems))


def check_config(config: Mapping[str, Any], allow_targets: list[str] | None = None) -> None:
    """Raise ConfigError with all problems of a training configuration.

    Args:
        config: plain, resolved configuration.
        allow_targets: packages that a `_target_` may name besides ALLOWED_PACKAGES; never taken from `config` itself,
            which may be somebody else's.
    """
    checker = _Checker((*ALLOWED_PACKAGES, *(allow_targets or ())))
    settings = {f.name: f for f in dataclasses.fields(RunSettings)}
    hints = typing.get_type_hints(RunSettings, include_extras=True)
    nodes = [*_KINDS, *_KINDS_OF_MEMBERS]
    for key, value in config.items():
        if key == "sweep":
            checker.settings(SweepSettings, value, "sweep.")
        elif key in settings:
            checker.value(key, value, hints[key])
        elif key in _GROUPS_OF_MEMBERS:
            member = _GROUPS_OF_MEMBERS[key]
            checker.problems.append(
                f"{key}: a YAML of the group {key!r} does not say where it belongs; its first line must be "
                f"`# @package {member}.NAME`, with a name of your choice"
            )
        elif key not in nodes:
            checker.problems.append(f"{key}: no such key{_nearest(key, [*nodes, *settings, 'sweep'])}")
    for key, kind in _KINDS.items():
        if config.get(key) is None:
            checker.problems.append(f"{key}: missing; choose one with {key}=NAME (`mtl tasks {key}` lists them)")
        else:
            checker.node(key, config[key], _import(kind))
    for key, kind in _KINDS_OF_MEMBERS.items():
        for name, node in (config.get(key) or {}).items():
            if isinstance(node, Mapping) and not node.get("_target_") and len(node) and key == "tasks":
                checker.problems.append(_not_a_member(name, node, list(config[key])))
            else:
                checker.node(f"{key}.{name}", node, _import(kind))
    if not config.get("tasks"):
        checker.problems.append(
            "tasks: none chosen; name at least one with task=[NAME,...] (`mtl tasks task` lists them)"
        )
    if not checker.problems:
        checker.problems += _check_together(checker.objects)
    if checker.problems:
        raise ConfigError(checker.problems)


def check_tasks(nodes: Mapping[str, Any], allow_targets: list[str] | None = None) -> None:
    """Raise ConfigError with all problems of the tasks of a run folder's configuration."""
    checker = _Checker((*ALLOWED_PACKAGES, *(allow_targets or ())))
    for name, node in nodes.items():
        checker.node(f"tasks.{name}", node, _import(_KINDS_OF_MEMBERS["tasks"]))
    if checker.problems:
        raise ConfigError(checker.problems)


def check_loggers(nodes: Mapping[str, Any], allow_targets: list[str] | None = None) -> None:
    """Raise ConfigError with all problems of loggers' settings."""
    checker = _Checker((*ALLOWED_PACKAGES, *(allow_targets or ())))
    for name, node in nodes.items():
        checker.node(f"loggers.{name}", node, _import(_KINDS_OF_MEMBERS["loggers"]))
    if checker.problems:
        raise ConfigError(checker.problems)


T = typing.TypeVar("T")


def check_settings(settings: type[T], config: Mapping[str, Any], prefix: str = "") -> T:
    """Make a settings dataclass from a configuration without nodes; raise ConfigError with all of its problems.

    Args:
        settings: the dataclass.
        config: plain, resolved configuration.
        prefix: what leads to the keys on the command line: "sweep.", for settings that are a node.
    """
    checker = _Checker(())
    checker.settings(settings, config, prefix)
    if checker.problems:
        raise ConfigError(checker.problems)
    return settings(**config)


def _not_a_member(name: str, node: Mapping[str, Any], names: list[str]) -> str:
    """`tasks.snil.max_length=64` makes a node that names no task: say so, not that `_target_` is missing."""
    others = [n for n in names if n != name]
    return (
        f"tasks.{name}: no such task in this run (found the keys {', '.join(node)}); tasks are {', '.join(others)}"
        f"{_nearest(name, others)}"
    )


def _import(path: str) -> type:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


class _Checker:
    """Walks a configuration and collects problems; the objects of nodes without a problem are in `objects`."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages
        self.problems: list[str] = []
        self.objects: dict[str, Any] = {}

    def node(self, path: str, node: Any, kind: type) -> None:
        """Check a node that must name a class of `kind`."""
        before = len(self.problems)
        self._refuse_hidden(path, node)
        target = self._target(path, node, kind)
        if target is None:
            return
        parameters = inspect.signature(target).parameters
        hints = _hints(target)
        given = {key: value for key, value in node.items() if not key.startswith("_")}
        for key in node:
            if key.startswith("_") and key != "_target_":
                self.problems.append(f"{path}.{key}: not allowed; a node holds _target_ and the arguments of its class")
        for key, value in given.items():
            if key not in parameters:
                known = ", ".join(parameters) or "none"
                self.problems.append(
                    f"{path}.{key}: {target.__name__} has no such setting{_nearest(key, list(parameters))} "
                    f"(it has {known})"
                )
            elif key in hints:
                self.value(f"{path}.{key}", value, hints[key])
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in given:
                self.problems.append(f"{path}.{key}: missing; {target.__name__} needs it")
        if len(self.problems) == before:
            try:
                self.objects[path] = instantiate(node)
            except Exception as error:
                # Hydra wraps what a constructor raises.
                cause = error.__cause__ if error.__cause__ is not None else error
                text = str(cause)
                self.problems.append(text if text.startswith(path) else f"{path}: {text}")

    def settings(self, settings: type, config: Mapping[str, Any], prefix: str = "") -> None:
        """Check the keys and values of a settings dataclass; `prefix` leads to its node."""
        hints = typing.get_type_hints(settings, include_extras=True)
        for key, value in config.items():
            if key in hints:
                self.value(f"{prefix}{key}", value, hints[key])
            else:
                known = f"{_nearest(key, list(hints))} (there are {', '.join(hints)})"
                self.problems.append(f"{prefix}{key}: no such key{known}")

    def _refuse_hidden(self, path: str, value: Any) -> None:
        """Refuse what Hydra would act on inside plain values, where no annotation asks for an object.

        Only a chain of nodes may lead to a `_target_`: inside a list, or inside a mapping that is no node itself, Hydra
        would construct it unchecked.
        """
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        is_node = isinstance(value, Mapping) and "_target_" in value
        for key, item in items:
            inside = f"{path}.{key}"
            if isinstance(item, Mapping):
                reserved = [k for k in item if isinstance(k, str) and k in _HYDRAS_KEYS]
                if reserved and not (is_node and "_target_" in item):
                    self.problems.append(f"{inside}.{reserved[0]}: not allowed inside a plain value")
            if isinstance(item, Mapping | list) and not (is_node and isinstance(item, Mapping) and "_target_" in item):
                self._refuse_hidden(inside, item)

    def _target(self, path: str, node: Any, kind: type) -> type | None:
        """Return the class that a node names, or None after noting what is wrong with it."""
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str):
            self.problems.append(f"{path}: found {node!r}, needs _target_, the class of a {kind.__name__}")
            return None
        package = target.partition(".")[0]
        if package not in self.packages and not any(target.startswith(f"{p}.") for p in self.packages):
            self.problems.append(
                f"{path}._target_: found {target!r}, allowed packages are {', '.join(self.packages)}; if you trust it, "
                f"add it with allow_targets=[{package}]"
            )
            return None
        try:
            found = _import_object(target)
        except (ImportError, AttributeError) as error:
            self.problems.append(f"{path}._target_: {target!r} cannot be imported ({error})")
            return None
        if not (isinstance(found, type) and issubclass(found, kind)):
            self.problems.append(f"{path}._target_: found {target!r}, which is not a {kind.__name__}")
            return None
        if inspect.isabstract(found):
            self.problems.append(f"{path}._target_: {target!r} is an abstract class; name one of its subclasses")
            return None
        return found

    def value(self, path: str, value: Any, hint: Any) -> None:
        """Check a value against an annotation."""
        if value == "???":
            self.problems.append(f"{path}: required and not set; give {path}=VALUE")
            return
        if isinstance(value, Mapping) and "_target_" in value:
            kinds = [t for t in _alternatives(hint) if isinstance(t, type)]
            if kinds:
                self.node(path, value, kinds[0])
            else:
                self.problems.append(f"{path}: found a node with _target_, allowed: {_describe(hint)}")
            return
        try:
            adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
        except PydanticUserError:  # the annotation has a configuration of its own (a dataclass)
            adapter = TypeAdapter(hint)
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            reasons = sorted({_reason(path, entry) for entry in error.errors()})
            self.problems.append(f"{path}: found {value!r}, {'; or '.join(reasons)}")


def _reason(path: str, entry: Any) -> str:
    inside = [str(part) for part in entry["loc"] if isinstance(part, int)]
    where = f"{path}.{'.'.join(inside)}: " if inside else ""
    message = entry["msg"]
    return where + message[:1].lower() + message[1:]


def _describe(hint: Any) -> str:
    return str(hint).replace("typing.", "")


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union, without annotations such as bounds."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [a for member in typing.get_args(hint) for a in _alternatives(member)]
    return [hint]


def _hints(target: type) -> dict[str, Any]:
    """Annotations of a constructor's arguments, bounds included; without those that only a type checker can resolve."""
    constructor: Any = target.__init__  # type: ignore[misc]
    owners = list(reversed(target.__mro__)) if dataclasses.is_dataclass(target) else [constructor]
    hints: dict[str, Any] = {}
    for owner in owners:
        own = inspect.get_annotations(owner) if isinstance(owner, type | types.FunctionType) else {}
        for name, annotation in own.items():
            holder = type("Holder", (), {"__annotations__": {name: annotation}, "__module__": owner.__module__})
            with contextlib.suppress(NameError):
                hints.update(typing.get_type_hints(holder, include_extras=True))
    return hints


def _import_object(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _check_together(objects: Mapping[str, Any]) -> list[str]:
    """What no node can know alone."""
    problems = []
    tasks = {
        path.removeprefix("tasks."): task
        for path, task in objects.items()
        if path.startswith("tasks.") and path.count(".") == 1
    }
    names = list(tasks)
    for name, task in tasks.items():
        other = task.share_head_with
        if other is None:
            continue
        if other not in tasks or other == name:
            problems.append(
                f"tasks.{name}.share_head_with: found {other!r}, allowed: another task of the run "
                f"({', '.join(n for n in names if n != name) or 'there is none'})"
            )
        elif tasks[other].share_head_with is not None:
            problems.append(f"tasks.{name}.share_head_with: {other!r} shares a head itself; name the task that owns it")
        elif type(tasks[other]) is not type(task) or (
            task.labels is not None and tasks[other].labels is not None and task.labels != tasks[other].labels
        ):
            problems.append(f"tasks.{name}.share_head_with: {other!r} has another type or other labels")
    shape = objects["encoder"].known_shape()
    num_blocks = None if shape is None else shape.num_blocks
    for check in (
        lambda: objects["encoder"].check_settings(),
        lambda: objects["sharing"].check_tasks(names),
        lambda: num_blocks is None or objects["sharing"].check_num_blocks(num_blocks),
        lambda: _check_sharing_fits_encoder(objects["sharing"], shape),
        lambda: not (users := _users_of_heads(tasks)) or objects["sharing"].check_shared_heads(users),
        lambda: shape is None or objects["sharing"].check_heads(tasks, shape.hidden_size),
        lambda: objects["weighting"].start(names),
        lambda: (
            num_blocks is None
            or objects["weighting"].check_num_shared_blocks(objects["sharing"].num_shared_blocks(num_blocks))
        ),
        lambda: _check_frozen_encoder(objects["sharing"], objects["encoder"]),
        lambda: _check_weighting_fits_sharing(objects["weighting"], objects["sharing"], num_blocks),
        lambda: _check_segmented(objects, shape),
        lambda: objects["sampler"].batch_sizes(names),
        lambda: _check_sampler_fits(objects["weighting"], objects["sampler"]),
        lambda: objects["trainer"].check_tasks(tasks),
        lambda: objects["trainer"].check_parallelism(objects["weighting"], objects["sharing"], shape),
        lambda: _check_compile(objects, names, shape),
        lambda: _check_activation_checkpointing(objects["trainer"], shape),
    ):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))  # blocks may be asked for twice


def _users_of_heads(tasks: Mapping[str, Any]) -> list[str]:
    """The tasks that use another task's head."""
    return [name for name, task in tasks.items() if task.share_head_with is not None]


def _check_sharing_fits_encoder(sharing: Any, shape: Any) -> None:
    """Refuse families without blocks for what is put into blocks, and what else does not fit; None is not known."""
    if shape is None:
        return
    if sharing.needs_blocks():
        shape.check_has_blocks("sharing")
    sharing.check_encoder(shape)


def _check_frozen_encoder(sharing: Any, encoder: Any) -> None:
    """Refuse to leave random weights as they are."""
    if not encoder.pretrained and getattr(sharing, "train_encoder", True) is False:
        raise UserError(
            "sharing.train_encoder: found false, but this encoder begins with random weights, which would never be "
            "trained; set sharing.train_encoder=true, or take a pretrained encoder, such as encoder=minilm"
        )


def _check_weighting_fits_sharing(weighting: Any, sharing: Any, num_blocks: int | None) -> None:
    """Refuse to balance gradients that a sharing strategy does not have."""
    from mtl_cli.weighting import GradientWeighting

    if not isinstance(weighting, GradientWeighting):
        return
    if not sharing.shares_parameters():
        raise UserError(
            f"weighting: {type(weighting).__name__} balances the tasks' gradients of shared parameters, but with these "
            f"settings {type(sharing).__name__} shares none; use a weighting of losses, such as weighting=equal"
        )
    if weighting.scope == "representation" and (reason := sharing.why_no_representation(num_blocks)) is not None:
        raise UserError(f"weighting.scope: found 'representation', but {reason}; use weighting.scope=all")


def _check_segmented(objects: Mapping[str, Any], shape: Any) -> None:
    """Refuse to form all tasks' gradients in one backward pass where the settings say that it cannot be.

    What only the model shows is left to `GradientEngine`.
    """
    from mtl_cli.weighting import GradientWeighting

    weighting = objects["weighting"]
    if not isinstance(weighting, GradientWeighting) or weighting.engine != "segmented":
        return
    if weighting.scope == "representation":  # refused by itself
        return
    padded = not _runs_packed(objects["encoder"], shape)
    reasons = [
        objects["sharing"].why_not_segmented,
        "the encoder runs padded rows" if padded else None,
        "the model is compiled (trainer.compile)" if objects["trainer"].compile else None,
    ]
    if found := " and ".join(filter(None, reasons)):
        raise UserError(f"weighting.engine: found 'segmented', but {found}; use auto or per_task")


def _runs_packed(encoder: Any, shape: Any) -> bool:
    """Whether the encoder will run packed rows, as far as the settings say; a shape of None is not known."""
    from mtl_cli.encoders.families import runs_packed

    packing = getattr(encoder, "packing", True)
    return bool(packing) if shape is None else runs_packed(packing, shape.family)


def _check_compile(objects: Mapping[str, Any], task_names: list[str], shape: Any) -> None:
    """Refuse to compile blocks that cannot be; a shape of None is not known."""
    from mtl_cli.encoders.compiling import check_can_compile

    if objects["trainer"].compile and shape is not None:
        check_can_compile(
            shape.family,
            packed=_runs_packed(objects["encoder"], shape),
            foreign_layers=objects["sharing"].has_layers_in_blocks(task_names, shape.num_blocks),
        )


def _check_activation_checkpointing(trainer: Any, shape: Any) -> None:
    """Refuse families that have none; a shape of None is not known."""
    if trainer.activation_checkpointing and shape is not None:
        shape.check_activation_checkpointing()


def _check_sampler_fits(weighting: Any, sampler: Any) -> None:
    """Refuse a sampler whose steps do not hold the tasks that the weighting needs."""
    from mtl_cli import sampling
    from mtl_cli.weighting import check_fit

    known = {}
    for name in sampling.__all__:
        kind = getattr(sampling, name)
        if isinstance(kind, type) and issubclass(kind, sampling.Sampler) and not inspect.isabstract(kind):
            known[re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()] = kind().tasks_per_step
    check_fit(weighting, sampler.tasks_per_step, type(sampler).__name__, known)
    sizes: dict[str, int] = {}
    with contextlib.suppress(UserError):  # said elsewhere
        sizes = sampler.batch_sizes(weighting.tasks)
    if sizes and min(sizes.values()) < weighting.num_batches:
        raise UserError(
            f"sampler.batch_size: found {sampler.batch_size}, but {type(weighting).__name__} cuts the rows of each "
            f"task in a step into {weighting.num_batches} batches; allowed: {weighting.num_batches} or more"
        )
