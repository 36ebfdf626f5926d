"""`mtl bench of=loop`: the share of a run's time outside of forward, backward and optimizer."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mtl_cli.bench.moments import Moments, replaced
from mtl_cli.bench.protocol import Spread, wait_for
from mtl_cli.bench.report import BenchReport, share
from mtl_cli.bench.settings import BenchSettings
from mtl_cli.evaluation import Evaluator
from mtl_cli.gradients import GradientEngine
from mtl_cli.model import MultiTaskModel
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder
from mtl_cli.training import AdamW, Checkpoints
from mtl_cli.training import loop as training_loop
from mtl_cli.training.loop import Loop

log = logging.getLogger(__name__)

AIM = 0.03
COMPUTE = ("forward", "backward, weighting", "optimizer, clipping")
"""The moments that training is about; all others are what it costs to run it."""

Watched = tuple[Any, str, str]
_WATCHED: tuple[Watched, ...] = (
    (MultiTaskModel, "forward", "forward"),
    (GradientEngine, "step", "backward, weighting"),
    (GradientEngine, "after_update", "backward, weighting"),
    (training_loop, "clip_gradients", "optimizer, clipping"),
    (Loop, "_parts_of_step", "data"),
    (Loop, "_check_finite", "checks and means of losses"),
    (Loop, "_log_window", "logging"),
    (MetricsFile, "append", "logging"),
    (Loggers, "log", "logging"),
    (Progress, "step", "progress"),
    (Progress, "evaluation_summary", "progress"),
    (Evaluator, "evaluate", "evaluation, besides forward"),
    (Checkpoints, "save", "checkpoints"),
    (Checkpoints, "save_best", "checkpoints"),
    (Checkpoints, "load_best", "checkpoints"),
    (RunFolder, "write_predictions", "predictions"),
    (Loop, "run_to_end", "loop, the rest"),
)


@dataclass(frozen=True)
class WatchedRun:
    """Where the time of one run went.

    Attributes:
        seconds: moment -> its own seconds.
        calls: moment -> how often.
        shares_of_steps: of each step, the share outside of compute.
        setup_seconds: before the first step.
    """

    seconds: dict[str, float]
    calls: dict[str, int]
    shares_of_steps: list[float]
    setup_seconds: float

    @property
    def inside(self) -> float:
        """Seconds of all moments."""
        return sum(self.seconds.values())

    @property
    def outside(self) -> float:
        """Seconds of what is neither forward, backward nor optimizer."""
        return self.inside - sum(self.seconds.get(name, 0.0) for name in COMPUTE)

    @property
    def outside_share(self) -> float:
        """Share of that."""
        return self.outside / self.inside


def watch_run(run: Callable[[], object], further: Sequence[Watched], device: torch.device) -> WatchedRun:
    """Watch a run of `mtl train` from its first step to its end.

    Args:
        run: makes it.
        further: what else to watch: the moments after training.
        device: where it computes; on a GPU each moment waits for it, so that its share is an upper bound.
    """
    moments = Moments(wait=lambda: wait_for(device))
    shares: list[float] = []
    began = time.perf_counter()
    with (
        moments.watch(*_WATCHED, *further),
        replaced(AdamW, "build", lambda build: _watched_build(build, moments)),
        replaced(Loop, "_train_step", lambda step: _shared_step(step, moments, shares)),
    ):
        run()
    whole = time.perf_counter() - began
    return WatchedRun(moments.seconds, moments.calls, shares, whole - sum(moments.seconds.values()))


def bench_loop(
    run: Callable[[Path], object],
    further: Sequence[Watched],
    settings: BenchSettings,
    title: str,
    machine: Mapping[str, Any],
    device: torch.device,
) -> BenchReport:
    """Watch whole runs, one after the other; the first, which loads what later ones find loaded, stands by itself.

    Each `mtl train` is such a first run of its process: the aim is judged of both.

    Args:
        run: makes a run in this folder, which is removed after it.
        further: what else to watch.
        settings: how to measure.
        title: what is run.
        machine: what on.
        device: where it computes.
    """
    runs = []
    for number in range(settings.rounds + 1):
        with TemporaryDirectory(prefix="mtl-bench-") as folder:
            runs.append(watch_run(partial(run, Path(folder) / "run"), further, device))
        log.info("run %d of %d: %s outside", number + 1, settings.rounds + 1, share(runs[-1].outside_share))
    first, *runs = runs
    names = {name: None for one in runs for name in one.seconds}
    seconds = {name: Spread.of([one.seconds.get(name, 0.0) for one in runs]) for name in names}
    shares = {name: Spread.of([one.seconds.get(name, 0.0) / one.inside for one in runs]) for name in names}
    order = [*COMPUTE, *sorted(set(names) - set(COMPUTE), key=lambda name: -seconds[name].median)]
    rows = [
        [name, f"{seconds[name].median:.2f}", _shares(shares[name]), f"{runs[-1].calls.get(name, 0):,}"]
        for name in order
        if name in seconds
    ]
    inside, outside = (statistics.median(values) for values in ([r.inside for r in runs], [r.outside for r in runs]))
    outside_share = Spread.of([one.outside_share for one in runs])
    rows.append(["all of it", f"{inside:.2f}", share(1.0), ""])
    rows.append(["outside of forward, backward, optimizer", f"{outside:.2f}", _shares(outside_share), ""])
    rows.append(["outside in the first run", f"{first.outside:.2f}", share(first.outside_share), ""])
    of_steps = [value for one in runs for value in one.shares_of_steps[1:]]
    per_step = Spread.of(of_steps) if of_steps else None
    setup = statistics.median(one.setup_seconds for one in runs)
    figures = {
        "seconds": {name: asdict(spread) for name, spread in seconds.items()},
        "calls": runs[-1].calls,
        "outside_share": asdict(outside_share),
        "outside_share_of_first_run": first.outside_share,
        "outside_share_of_steps": asdict(per_step) if per_step else None,
        "setup_seconds": setup,
        "runs": [asdict(one) for one in (first, *runs)],
    }
    notes = [
        f"{settings.rounds + 1} runs one after the other in one process: medians and quartiles of {settings.rounds}, "
        "and the first by itself, in which what later ones find loaded is loaded (scikit-learn, for one), as in each "
        "mtl train",
        f"set-up before the first step: {setup:.1f} s more, which `of=startup` is about",
        "each moment's own time: what is called inside of it and has a row counts there alone",
    ]
    if per_step is not None:
        notes.append(
            f"within a step, without what comes between steps: {_shares(per_step)} outside, of {len(of_steps)} steps, "
            "the first of each run dropped"
        )
    notes += settings.remarks()
    return BenchReport(
        "loop",
        title,
        machine,
        ["moment", "seconds", "share", "calls"],
        rows,
        figures,
        notes,
        {
            f"at most {share(AIM)} outside": outside_share.median <= AIM,
            f"at most {share(AIM)} outside in the first run": first.outside_share <= AIM,
        },
    )


def _shares(spread: Spread) -> str:
    return f"{share(spread.median)} ({share(spread.low)} to {share(spread.high)})"


def _compute_seconds(moments: Moments) -> float:
    return sum(moments.seconds.get(name, 0.0) for name in COMPUTE)


def _watched_build(build: Callable[..., torch.optim.Optimizer], moments: Moments) -> Callable[..., Any]:
    """Let the optimizer that is built count its own steps."""

    def built(*arguments: Any, **more: Any) -> torch.optim.Optimizer:
        optimizer = build(*arguments, **more)
        for attribute in ("step", "zero_grad", "catch_up"):
            setattr(optimizer, attribute, moments.wrapped(getattr(optimizer, attribute), "optimizer, clipping"))
        return optimizer

    return built


def _shared_step(step: Callable[[Loop], None], moments: Moments, shares: list[float]) -> Callable[[Loop], None]:
    """Add each step's share outside of compute to `shares`."""

    def shared(loop: Loop) -> None:
        compute, began = _compute_seconds(moments), time.perf_counter()
        step(loop)
        shares.append(1 - (_compute_seconds(moments) - compute) / (time.perf_counter() - began))

    return shared
