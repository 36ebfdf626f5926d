"""Modules that belong to one task each, and the partition of parameters that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from mtl_cli.types import UserError

SHARED = "shared"
"""The part of the partition that all tasks train."""


class TaskModules(nn.ModuleDict):
    """A module a task: task name -> module. Its parameters are task-specific, each task's its own."""


def check_task_names(names: Iterable[str]) -> None:
    """Refuse names that cannot be part of a parameter's name.

    Raises:
        UserError: a name is empty, holds a dot, or is "shared" or the name of a method of `nn.ModuleDict`.
    """
    for name in names:
        if not name or "." in name or name == SHARED or hasattr(nn.ModuleDict, name) or name == "training":
            raise UserError(
                f"tasks.{name}: a task cannot be called '{name}'. Give it another name, without dots, such as "
                f"'my_{name.replace('.', '_')}'."
            )


def parameter_partition(model: nn.Module) -> dict[str, str]:
    """Return which part each trainable parameter belongs to: name -> "shared" or the name of a task.

    Raises:
        RuntimeError: a parameter belongs to two parts, for example because two tasks' modules share a tensor.
    """
    task_of_prefix: dict[str, str] = {
        f"{path}.{task}." if path else f"{task}.": task
        for path, module in model.named_modules()
        if isinstance(module, TaskModules)
        for task in module
    }
    parts: dict[int, dict[str, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            parts.setdefault(id(parameter), {})[name] = _part_of(name, task_of_prefix)
    partition = {}
    for part_of_name in parts.values():
        if len(set(part_of_name.values())) > 1:
            raise RuntimeError(f"One parameter in several parts of the model: {part_of_name}.")
        name, part = next(iter(part_of_name.items()))
        partition[name] = part
    return partition


def _part_of(parameter_name: str, task_of_prefix: Mapping[str, str]) -> str:
    owners = {task for prefix, task in task_of_prefix.items() if parameter_name.startswith(prefix)}
    if len(owners) > 1:
        raise RuntimeError(f"The parameter {parameter_name} lies inside modules of several tasks: {sorted(owners)}.")
    return owners.pop() if owners else SHARED
