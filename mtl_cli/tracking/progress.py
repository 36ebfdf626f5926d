"""What a person sees while a run goes on: bars on a terminal, one short line now and then anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from mtl_cli.tracking.console_log import ALREADY_SHOWN
from mtl_cli.tracking.results import Results
from mtl_cli.tracking.results_table import plain_table, rich_table, training_line

_log = logging.getLogger(__name__)

_SHORTEST_REFRESH_SECONDS = 0.2
_LONGEST_REFRESH_SECONDS = 5.0
_LARGEST_SHARE = 0.01  # of the run's time that drawing bars may take


class Progress:
    """Progress of one run on the console; every line it prints also goes to the log file.

    Drawing bars takes at most 1 % of the time and happens at most five times a second. Losses may be tensors: they are
    read, which waits for an accelerator, only when something is drawn.

    Args:
        console: where to; None: standard output.
        enabled: False prints nothing at all (all processes of a run but one).
        line_seconds: without a terminal, the time between two lines.
        clock: seconds, monotonic; for tests.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        enabled: bool = True,
        line_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(highlight=False)
        self._enabled = enabled
        self._clock = clock
        self._draws_bars = enabled and self._console.is_terminal and not self._console.is_dumb_terminal
        self._interval = _SHORTEST_REFRESH_SECONDS if self._draws_bars else line_seconds
        self._bars: Bars | None = None
        self._run_bar: TaskID | None = None
        self._tasks: tuple[str, ...] = ()
        self._losses: dict[str, SupportsFloat] = {}
        self._step = self._initial_step = self._total_steps = 0
        self._epoch = self._tokens_per_second = 0.0
        self._started = 0.0
        self._last_drawn: float | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self, total_steps: int, initial_step: int, tasks: Sequence[str]) -> None:
        """Begin training after `initial_step` (0, or the step of the checkpoint) of `total_steps`."""
        self._total_steps, self._initial_step, self._step = total_steps, initial_step, initial_step
        self._tasks = tuple(tasks)
        self._losses = {}
        self._started = self._clock()
        self._last_drawn = None
        if self._draws_bars:
            self._run_bar = self._open_bars().add_task("train", total=total_steps, completed=initial_step, text="")
            self._draw()

    def step(
        self,
        step: int,
        losses: Mapping[str, SupportsFloat] | None = None,
        tokens_per_second: float | None = None,
        epoch: float | None = None,
    ) -> None:
        """Show that `step` updates are done. What is None, and tasks that `losses` lacks, keep their last value."""
        self._step = step
        if losses:
            self._losses.update(losses)
        if tokens_per_second is not None:
            self._tokens_per_second = tokens_per_second
        if epoch is not None:
            self._epoch = epoch
        # The first line waits for the first losses: it would have nothing to say.
        due = self._is_due() if self._losses else False
        if self._enabled and (due or step == self._total_steps):
            self._draw()

    @contextmanager
    def evaluation(self, split: str, task: str, num_rows: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show that a task is being scored on a split; the function it gives takes the number of rows just done."""
        began = self._clock()
        bars = self._open_bars() if self._draws_bars else None
        bar = None if bars is None else bars.add_task(f"{split} {task}", total=num_rows, text="")
        if bars is not None:
            bars.refresh()

        def advance(rows: int) -> None:
            if bars is not None and bar is not None:
                bars.update(bar, advance=rows)
                if self._is_due():
                    self._refresh()

        try:
            yield advance
        finally:
            if bars is not None and bar is not None:
                bars.remove_task(bar)
            # Time left is reckoned from training steps alone.
            self._started += self._clock() - began

    def evaluation_summary(
        self,
        split: str,
        step: int,
        metrics: Mapping[str, Mapping[str, float]],
        score: float | None = None,
        is_best: bool = False,
    ) -> None:
        """Print one line: the metrics of each task (task -> metric -> value) and the score."""
        parts = [
            f"{task} " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            for task, values in metrics.items()
        ]
        if score is not None:
            parts.append(f"score {score:.4f}" + (" (best so far)" if is_best else ""))
        self.message(f"{split} at step {step:,}  " + "  ".join(parts))

    def message(self, text: str) -> None:
        """Print a line, above the bars where there are any."""
        _log.info("%s", text, extra={ALREADY_SHOWN: True})
        if self._enabled:
            self._print(text)

    def results_table(
        self, results: Results, main_metrics: Mapping[str, str], run_folder: str | Path | None = None
    ) -> None:
        """Print the final table, what the run took, and, as the last line, the path of the run.

        Args:
            results: of the run.
            main_metrics: task -> the metric that stands first.
            run_folder: the path to print; None: none.
        """
        self.close()
        text = plain_table(results, main_metrics)
        _log.info("results\n%s", text, extra={ALREADY_SHOWN: True})
        if not self._enabled:
            return
        self._console.print()
        if self._draws_bars:
            self._console.print(rich_table(results, main_metrics))
        else:
            self._print(text)
        self.message(training_line(results))
        if run_folder is not None:
            self.message(str(run_folder))

    def close(self) -> None:
        """Take the bars off the terminal. Messages and the table can still be printed, and a new start made."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._run_bar = None

    def _open_bars(self) -> Bars:
        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                auto_refresh=False,
                transient=True,
                # Where standard error is a file of its own, what goes there must not come to the terminal.
                redirect_stderr=sys.stderr.isatty(),
            )
            self._bars.start()
        return self._bars

    def _is_due(self) -> bool:
        return self._last_drawn is None or self._clock() - self._last_drawn >= self._interval

    def _draw(self) -> None:
        if self._draws_bars:
            if self._bars is not None and self._run_bar is not None:
                self._bars.update(self._run_bar, completed=self._step, text=self._state())
                self._refresh()
            return
        self._last_drawn = self._clock()
        total = f"{self._total_steps:,}"
        self.message(f"step {self._step:>{len(total)},}/{total}  {self._state()}")

    def _refresh(self) -> None:
        assert self._bars is not None
        began = self._clock()
        self._bars.refresh()
        self._last_drawn = self._clock()
        wanted = (self._last_drawn - began) / _LARGEST_SHARE
        self._interval = min(max(wanted, _SHORTEST_REFRESH_SECONDS), _LONGEST_REFRESH_SECONDS)

    def _state(self) -> str:
        parts = [f"epoch {self._epoch:.2f}"]
        if self._step > self._initial_step:
            parts += [f"{self._tokens_per_second:,.0f} tokens/s", f"{_duration(self._seconds_left())} left"]
        # Last, because a narrow terminal cuts the end off.
        losses = [f"{task} {float(self._losses[task]):.4f}" for task in self._tasks if task in self._losses]
        return "  ".join([*parts, *(["loss " + " ".join(losses)] if losses else [])])

    def _seconds_left(self) -> float:
        """Steps to go at the pace so far; evaluations, which come and go, are not foreseen."""
        pace = (self._clock() - self._started) / (self._step - self._initial_step)
        return pace * (self._total_steps - self._step)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
