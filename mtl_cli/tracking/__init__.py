"""Run folder, metrics, environment record, loggers, progress and console output."""

from mtl_cli.tracking.console_log import ConsoleLog
from mtl_cli.tracking.environment import environment_record
from mtl_cli.tracking.logger import NoLogger, RunInfo, RunLogger, is_better, lower_is_better
from mtl_cli.tracking.loggers import Loggers
from mtl_cli.tracking.metrics_file import CLOCK_KEYS, MetricsFile, NoMetricsFile, read_metrics, without_clock
from mtl_cli.tracking.progress import Progress
from mtl_cli.tracking.results import ParameterCounts, Results, Seen, Status, TaskResults, TrainingCost
from mtl_cli.tracking.run_folder import FORMAT_VERSION, RunFolder
from mtl_cli.tracking.tensorboard import TensorBoardLogger
from mtl_cli.tracking.wandb import WandbLogger

__all__ = [
    "CLOCK_KEYS",
    "FORMAT_VERSION",
    "ConsoleLog",
    "Loggers",
    "MetricsFile",
    "NoLogger",
    "NoMetricsFile",
    "ParameterCounts",
    "Progress",
    "Results",
    "RunFolder",
    "RunInfo",
    "RunLogger",
    "Seen",
    "Status",
    "TaskResults",
    "TensorBoardLogger",
    "TrainingCost",
    "WandbLogger",
    "environment_record",
    "is_better",
    "lower_is_better",
    "read_metrics",
    "without_clock",
]
