"""Training: the loop, checkpoints, the optimizer and its schedule."""

from mtl_cli.stopping import Interrupted, StopRequest
from mtl_cli.training.agreement import agreed_signal
from mtl_cli.training.checkpoint import Checkpoints
from mtl_cli.training.optimizer import AdamW
from mtl_cli.training.peak_memory import peak_memory_bytes
from mtl_cli.training.run import Progression, TrainingRun
from mtl_cli.training.schedule import Constant, Cosine, Linear, Schedule
from mtl_cli.training.seeding import seed_everything
from mtl_cli.training.trainer import Trainer

__all__ = [
    "AdamW",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Interrupted",
    "Linear",
    "Progression",
    "Schedule",
    "StopRequest",
    "Trainer",
    "TrainingRun",
    "agreed_signal",
    "peak_memory_bytes",
    "seed_everything",
]
