"""Composition root: from a configuration to objects. The only place that instantiates what a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate as _hydra_instantiate

if TYPE_CHECKING:
    from mtl_cli.data import TaskData
    from mtl_cli.model import MultiTaskModel
    from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder, RunInfo
    from mtl_cli.training import TrainingRun


def instantiate(node: Mapping[str, Any]) -> Any:
    """Construct the object that a node names by `_target_`, and those inside it.

    Callers check the node first (`mtl_cli.check_config`): nothing here refuses a target.
    """
    return _hydra_instantiate(dict(node), _convert_="all")


def build_tasks(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Construct the tasks of a run, in the order in which they were named."""
    return {name: instantiate(node) for name, node in nodes.items()}


def build_training_run(
    config: Mapping[str, Any],
    model: MultiTaskModel,
    data: Mapping[str, TaskData],
    folder: RunFolder,
    metrics_file: MetricsFile,
    loggers: Loggers,
    progress: Progress,
    info: RunInfo,
) -> TrainingRun:
    """Construct what a run trains with besides the model: sampler, weighting, optimizer, schedule."""
    from mtl_cli.training import TrainingRun

    return TrainingRun(
        model=model,
        data=data,
        sampler=instantiate(config["sampler"]),
        weighting=instantiate(config["weighting"]),
        optimizer=instantiate(config["optimizer"]),
        schedule=instantiate(config["schedule"]),
        folder=folder,
        metrics_file=metrics_file,
        loggers=loggers,
        progress=progress,
        seed=config["seed"],
        info=info,
    )
