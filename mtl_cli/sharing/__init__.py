"""Sharing strategies: which tasks share which parameters."""

from mtl_cli.sharing.hard import HardSharing
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.strategy import SharingStrategy, TrainingMoment
from mtl_cli.sharing.task_blocks import TaskBlocks
from mtl_cli.sharing.task_modules import TaskModules, check_task_names, parameter_partition
from mtl_cli.sharing.wrappers import Wrapper

__all__ = [
    "HardSharing",
    "Learnt",
    "SharingStrategy",
    "TaskBlocks",
    "TaskModules",
    "TrainingMoment",
    "Wrapper",
    "check_task_names",
    "parameter_partition",
]
