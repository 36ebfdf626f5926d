"""Sharing strategies: which tasks share which parameters."""

from mtl_cli.sharing.adapters import Adapters
from mtl_cli.sharing.adashare import AdaShare
from mtl_cli.sharing.cross_stitch import CrossStitch
from mtl_cli.sharing.grouped import Grouped
from mtl_cli.sharing.hard import HardSharing
from mtl_cli.sharing.hierarchical import Hierarchical
from mtl_cli.sharing.hyperadapter import HyperAdapter
from mtl_cli.sharing.layer_mix import LayerMix
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.lora import LoRA
from mtl_cli.sharing.mmoe import MMoE
from mtl_cli.sharing.moe import MoE
from mtl_cli.sharing.mtl_lora import MTLLoRA
from mtl_cli.sharing.mtrl import MTRL
from mtl_cli.sharing.pal import PAL
from mtl_cli.sharing.ple import PLE
from mtl_cli.sharing.sluice import Sluice
from mtl_cli.sharing.soft_l2 import SoftL2
from mtl_cli.sharing.soft_trace_norm import SoftTraceNorm
from mtl_cli.sharing.strategy import SharingStrategy, TrainingMoment
from mtl_cli.sharing.task_conditioning import TaskConditioning
from mtl_cli.sharing.task_modules import TaskModules, check_task_names, parameter_partition
from mtl_cli.sharing.wrappers import Wrapper

__all__ = [
    "MTRL",
    "PAL",
    "PLE",
    "AdaShare",
    "Adapters",
    "CrossStitch",
    "Grouped",
    "HardSharing",
    "Hierarchical",
    "HyperAdapter",
    "LayerMix",
    "Learnt",
    "LoRA",
    "MMoE",
    "MTLLoRA",
    "MoE",
    "SharingStrategy",
    "Sluice",
    "SoftL2",
    "SoftTraceNorm",
    "TaskConditioning",
    "TaskModules",
    "TrainingMoment",
    "Wrapper",
    "check_task_names",
    "parameter_partition",
]
