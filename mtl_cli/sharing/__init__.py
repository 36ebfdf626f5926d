"""Sharing strategies: which tasks share which parameters."""

from mtl_cli.sharing.hard import HardSharing
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.sharing.task_blocks import TaskBlocks
from mtl_cli.sharing.task_modules import TaskModules, check_task_names, parameter_partition

__all__ = ["HardSharing", "SharingStrategy", "TaskBlocks", "TaskModules", "check_task_names", "parameter_partition"]
