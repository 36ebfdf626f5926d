"""Weights & Biases: online with an API key, else offline to be uploaded later; files in <run>/wandb."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mtl_cli.tracking.heat_map import cosine_heat_map
from mtl_cli.tracking.json_files import jsonable, write_text
from mtl_cli.tracking.logger import RunInfo, RunLogger, is_better
from mtl_cli.tracking.masking import mask_command, mask_config, mask_text
from mtl_cli.tracking.results import Status
from mtl_cli.types import NonNegativeInt, PositiveFloat, PositiveInt

_log = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline", "disabled"]
_MOST_CELLS = 10_000  # rows of a table behind a W&B chart
_EXIT_CODES: dict[Status, int] = {"running": 1, "interrupted": 130, "finished": 0, "failed": 1}


@dataclass(kw_only=True)
class WandbLogger(RunLogger):
    """Logs to Weights & Biases. No network, or a failing one, never stops a run: it goes on offline.

    Args:
        project: W&B project.
        entity: team or user; None: the account's default.
        group: runs shown as one, such as the seeds of an experiment; None: the sweep, study or search of the run.
        name: the run's name; None: the name of its folder.
        tags: words to filter runs by.
        notes: a longer description.
        job_type: a second level of grouping below `group`.
        mode: auto: what WANDB_MODE says, else online where an API key is configured (WANDB_API_KEY or `wandb login`),
            else offline. Upload an offline run with `wandb sync`.
        num_prediction_examples: how many predictions a task and split to show; 0 for none.
        cosines_every_records: after so many lines with cosines between the tasks' gradients (`train/cosine/...`) log
            the heat map `train/cosines`, a file of its own, of their means over these lines; what is left at the end of
            the run makes the last one. None: no heat map.
        init_timeout_seconds: how long to wait for the server at the start before going on offline.
        finish_timeout_seconds: how long to wait for the upload at the end; what is left stays in the run folder.
    """

    project: str = "mtl"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    job_type: str | None = "train"
    mode: Mode = "auto"
    num_prediction_examples: NonNegativeInt = 50
    cosines_every_records: PositiveInt | None = 10
    init_timeout_seconds: PositiveFloat = 30.0
    finish_timeout_seconds: PositiveFloat = 60.0
    _wandb: Any = field(default=None, init=False, repr=False)
    _run: Any = field(default=None, init=False, repr=False)
    _best: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _first_step: int = field(default=0, init=False, repr=False)
    _charts_work: bool = field(default=True, init=False, repr=False)
    _tasks: tuple[str, ...] = field(default=(), init=False, repr=False)
    _cosine_records: list[tuple[int, dict[tuple[str, str], float]]] = field(
        default_factory=list, init=False, repr=False
    )

    def start(self, run: RunInfo) -> None:
        """Open the run, or continue the one whose id the run folder holds."""
        import wandb

        self._wandb = wandb
        self._best, self._charts_work = {}, True
        self._tasks, self._cosine_records = run.tasks, []
        wandb.setup(settings=wandb.Settings(silent=True))
        mode = self._resolve_mode()
        if mode == "online":
            try:
                self._run = self._init(run, "online")
            except Exception as error:  # no network, a refused key, a server that does not answer
                _log.warning("W&B cannot be reached (%s); this run goes on offline.", _reason(error))
                mode = "offline"
                # Its service process still holds the run's id, and would refuse it.
                wandb.teardown()
        if self._run is None:
            self._run = self._init(run, mode)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        # An online run that continues already has the rows up to the moment when it was killed.
        self._first_step = _last_step(self._run) if run.initial_step > 0 and mode == "online" else 0
        if mode == "online":
            _log.info("W&B: %s", self._run.url)
        elif mode == "offline":
            _log.info("W&B: offline; upload with `wandb sync %s`", _relative(Path(self._run.dir).parent))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a row with `step` as its axis; the best value of each validation metric goes into the summary.

        From time to time a row of its own holds the heat map of the cosines between tasks.
        """
        if step < self._first_step:
            return
        self._run.log({**metrics, "step": step})
        improved = {}
        for name, value in metrics.items():
            if name.startswith("validation/") and is_better(name, value, self._best_so_far(name)):
                improved[name] = self._best[name] = value
        if improved:
            self._run.summary.update({f"best/{name}": value for name, value in improved.items()})
        self._collect_cosines(metrics, step)

    def log_confusion_matrix(self, task: str, split: str, labels: Sequence[str], matrix: np.ndarray) -> None:
        """Add the counts as W&B's confusion matrix chart."""
        cells: list[list[Any]] = [
            [label, prediction, int(count)]
            for label, counts in zip(labels, matrix.tolist(), strict=True)
            for prediction, count in zip(labels, counts, strict=True)
        ]
        if len(cells) > _MOST_CELLS:
            cells = sorted((cell for cell in cells if cell[2]), key=lambda cell: -cell[2])[:_MOST_CELLS]
        columns = ["Actual", "Predicted", "nPredictions"]
        self._log_chart(
            f"{split}/{task}/confusion_matrix",
            lambda: self._wandb.plot_table(
                vega_spec_name="wandb/confusion_matrix/v1",
                data_table=self._wandb.Table(columns=columns, data=cells),
                fields={column: column for column in columns},
                string_fields={"title": f"{split}/{task}"},
            ),
        )

    def log_predictions(self, task: str, split: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Add the first predictions as a table; lists and mappings become JSON text."""
        shown = list(islice(records, self.num_prediction_examples))
        if not shown:
            return
        columns = list(dict.fromkeys(name for record in shown for name in record))
        rows = [[_cell(record.get(name)) for name in columns] for record in shown]
        self._log_chart(f"{split}/{task}/predictions", lambda: self._wandb.Table(columns=columns, data=rows))

    def finish(self, summary: Mapping[str, Any], status: Status) -> None:
        """Set the final figures and upload what is left, for `finish_timeout_seconds` at most."""
        if self._run is not None:
            self._log_cosines()
            self._run.summary.update(jsonable({**summary, "status": status}))
            self._run.finish(exit_code=_EXIT_CODES[status])
            self._run = None

    def _best_so_far(self, name: str) -> float | None:
        """Of this process, or of the run that it continues."""
        if name not in self._best:
            known = self._run.summary.get(f"best/{name}")
            if not isinstance(known, int | float):
                return None
            self._best[name] = known
        return self._best[name]

    def _collect_cosines(self, metrics: Mapping[str, float], step: int) -> None:
        if self.cosines_every_records is None or not self._charts_work:
            return
        found = {
            (first, second): value
            for pair in combinations(self._tasks, 2)
            for first, second in (pair, pair[::-1])
            if math.isfinite(value := metrics.get(f"train/cosine/{first}/{second}", math.nan))
        }
        if found:
            self._cosine_records.append((step, found))
            if len(self._cosine_records) == self.cosines_every_records:
                self._log_cosines()

    def _log_cosines(self) -> None:
        """Log the heat map of the records collected since the last one, if there are any."""
        records, self._cosine_records = self._cosine_records, []
        if not records:
            return
        values: dict[tuple[str, str], list[float]] = {}
        for _, cosines in records:
            for pair, value in cosines.items():
                values.setdefault(pair, []).append(value)
        means = {pair: sum(of_pair) / len(of_pair) for pair, of_pair in values.items()}
        first, last = records[0][0], records[-1][0]
        when = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
        page = cosine_heat_map(self._tasks, means, f"Cosines between the tasks' gradients, lines of {when}")
        # Without W&B's own head, which would fetch a style sheet.
        self._log_chart("train/cosines", lambda: self._wandb.Html(page, inject=False, data_is_not_path=True), last)

    def _log_chart(self, name: str, make: Callable[[], Any], step: int | None = None) -> None:
        """Log what is more than a number, in a row of its own. W&B's other process uploads numbers; a table asks the
        server while the run waits (about 20 seconds at most), and a heat map writes a file. Where that fails, numbers
        go on being logged, and no further chart is tried.
        """
        if not self._charts_work:
            return
        try:
            self._run.log({name: make()} if step is None else {name: make(), "step": step})
        except Exception as error:
            self._charts_work = False
            _log.warning("W&B: %s and further charts and tables are left out (%s)", name, _reason(error))

    def _resolve_mode(self) -> str:
        if self.mode == "auto":
            chosen = os.environ.get("WANDB_MODE", "").strip().lower()
            # W&B's older names of two modes.
            chosen = {"dryrun": "offline", "run": "online"}.get(chosen, chosen)
            if chosen in ("offline", "disabled"):
                return chosen
        if self.mode in ("offline", "disabled"):
            return self.mode
        if _api_key_configured(self._wandb):
            return "online"
        if self.mode == "online":
            # W&B would ask for a key on the terminal, and a job without a terminal would wait or fail.
            _log.warning("W&B: mode is online, but no API key is configured; this run goes on offline (`wandb login`).")
        return "offline"

    def _init(self, run: RunInfo, mode: str) -> Any:
        wanted = {
            "silent": True,
            "console": "off",
            "init_timeout": self.init_timeout_seconds,
            "finish_timeout": self.finish_timeout_seconds,
            # Retries go on in W&B's own process, and bound how long a dead network is tried.
            "x_graphql_retry_max": 5,
        }
        known = self._wandb.Settings.model_fields
        with _masked_command_line():
            return self._wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group or run.group,
                name=self.name or run.name,
                tags=list(self.tags) or None,
                notes=self.notes,
                job_type=self.job_type,
                mode=mode,
                dir=str(run.folder),
                id=_run_id(run.folder),
                # None: the server writes a run of the same id anew.
                resume="allow" if mode == "online" and not run.replaces else None,
                reinit="finish_previous",
                config=jsonable(mask_config(run.config)),
                settings=self._wandb.Settings(**{name: value for name, value in wanted.items() if name in known}),
            )


def _api_key_configured(wandb: Any) -> bool:
    """Whether W&B would find credentials without asking."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        from wandb.sdk.lib.wbauth import read_netrc_auth
    except ImportError:  # before W&B 0.22
        return bool(wandb.api.api_key)
    settings = wandb.setup().settings
    return bool(settings.api_key or read_netrc_auth(host=settings.base_url))


def _run_id(folder: Path) -> str:
    """Return the id under which the server knows this run; made once, so that resuming continues the same one."""
    file = folder / "wandb_id.txt"
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    # The server of a W&B sweep has given the run its id, and W&B heeds no other.
    of_sweep = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    run_id = of_sweep or uuid.uuid4().hex[:12]
    write_text(file, run_id + "\n")
    return run_id


@contextmanager
def _masked_command_line() -> Iterator[None]:
    """W&B records the words of the command line, and takes them from sys.argv: hide secrets while it looks."""
    words = sys.argv
    sys.argv = [words[0], *mask_command(words[1:])] if words else words
    try:
        yield
    finally:
        sys.argv = words


def _reason(error: Exception) -> str:
    return mask_text((str(error).splitlines() or [type(error).__name__])[0])


def _last_step(run: Any) -> int:
    step = run.summary.get("step")
    return int(step) if isinstance(step, int | float) else 0


def _cell(value: Any) -> str | float | int | bool | None:
    value = jsonable(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
