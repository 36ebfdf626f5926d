"""What a logger leaves in a run folder: whether a run is in a dashboard already, and what a second writing replaces."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mtl_cli.tracking.run_folder import RunFolder

LoggerName = Literal["wandb", "tensorboard"]

OFFLINE = "offline-run-"
"""How the names of W&B's folders of runs begin that no server has seen."""

_PATTERNS: dict[LoggerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboard/events.out.tfevents.*",),
    "wandb": ("wandb/run-*", f"wandb/{OFFLINE}*"),
}


def logger_files(folder: RunFolder, logger: LoggerName) -> set[Path]:
    """Return what a logger wrote: event files of TensorBoard, folders of W&B with one run (or part of one) in each."""
    return {path for pattern in _PATTERNS[logger] for path in folder.path.glob(pattern)}


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
