"""TensorBoard: event files in <run>/tensorboard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_cli.tracking.json_files import jsonable
from mtl_cli.tracking.logger import RunInfo, RunLogger
from mtl_cli.tracking.masking import mask_config
from mtl_cli.tracking.results import Status
from mtl_cli.types import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(kw_only=True)
class TensorBoardLogger(RunLogger):
    """Writes scalars, confusion matrices and example predictions for `tensorboard --logdir <folder of runs>`.

    Args:
        num_prediction_examples: how many predictions a task and split to show; 0 for none.
        flush_seconds: how long a value may wait before it reaches the file.
    """

    num_prediction_examples: NonNegativeInt = 50
    flush_seconds: PositiveInt = 10
    _writer: SummaryWriter | None = field(default=None, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)

    def start(self, run: RunInfo) -> None:
        """Open an event file; a resumed run hides what was logged after its checkpoint."""
        from torch.utils.tensorboard.writer import SummaryWriter

        resumed = run.initial_step > 0
        self._step = run.initial_step
        self._writer = SummaryWriter(
            log_dir=str(run.folder / "tensorboard"),
            # 0 for a run that starts again from its beginning, because it was killed before its first checkpoint.
            purge_step=run.initial_step + 1 if resumed else 0,
            flush_secs=self.flush_seconds,
        )
        if not resumed:
            config = json.dumps(jsonable(mask_config(run.config)), indent=2, ensure_ascii=False)
            self._writer.add_text("config", "\n".join(f"    {line}" for line in config.splitlines()))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one scalar a metric."""
        self._step = step
        for name, value in metrics.items():
            self._open.add_scalar(name, value, step)

    def log_confusion_matrix(self, task: str, split: str, labels: Sequence[str], matrix: np.ndarray) -> None:
        """Add the counts as a table."""
        header = ["label \\ prediction", *labels]
        rows = [[label, *map(str, counts)] for label, counts in zip(labels, matrix.tolist(), strict=True)]
        self._add_table(f"{split}/{task}/confusion_matrix", header, rows)

    def log_predictions(self, task: str, split: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Add the first predictions as a table."""
        shown = list(islice(records, self.num_prediction_examples))
        if not shown:
            return
        columns = list(dict.fromkeys(name for record in shown for name in record))
        rows = [[_cell(record.get(name)) for name in columns] for record in shown]
        self._add_table(f"{split}/{task}/predictions", columns, rows)

    def finish(self, summary: Mapping[str, Any], status: Status) -> None:
        """Add the final figures as text and close the file."""
        if self._writer is not None:
            rows = [["status", status], *([name, _cell(value)] for name, value in summary.items())]
            self._add_table("summary", ["name", "value"], rows)
            self._writer.close()
            self._writer = None

    @property
    def _open(self) -> SummaryWriter:
        assert self._writer is not None, "start() comes first"
        return self._writer

    def _add_table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._open.add_text(name, _markdown_table(header, rows), self._step)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])
