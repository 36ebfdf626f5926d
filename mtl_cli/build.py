"""Composition root: from a configuration to objects. The only place that instantiates what a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate as _hydra_instantiate


def instantiate(node: Mapping[str, Any]) -> Any:
    """Construct the object that a node names by `_target_`, and those inside it.

    Callers check the node first (`mtl_cli.check_config`): nothing here refuses a target.
    """
    return _hydra_instantiate(dict(node), _convert_="all")


def build_tasks(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Construct the tasks of a run, in the order in which they were named."""
    return {name: instantiate(node) for name, node in nodes.items()}
