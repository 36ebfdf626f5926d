"""`mtl bench of=loop`: the share of a run's time outside of forward, backward and optimizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from mtl_cli.bench.moments import Moments, replaced
from mtl_cli.bench.protocol import Spread, wait_for
from mtl_cli.bench.report import BenchReport, share
from mtl_cli.evaluation import Evaluator
from mtl_cli.gradients import GradientEngine
from mtl_cli.model import MultiTaskModel
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder
from mtl_cli.training import AdamW, Checkpoints
from mtl_cli.training import loop as training_loop
from mtl_cli.training.loop import Loop

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


def bench_loop(
    run: Callable[[], object], further: Sequence[Watched], title: str, machine: Mapping[str, Any], device: torch.device
) -> BenchReport:
    """Watch a run of `mtl train` from its first step to its end.

    Args:
        run: makes it.
        further: what else to watch: the moments after training.
        title: what is run.
        machine: what on.
        device: where it computes; on a GPU each moment waits for it, so that its share is an upper bound.
    """
    moments = Moments(wait=lambda: wait_for(device))
    shares: list[float] = []  # of each step, outside of compute
    began = time.perf_counter()
    with (
        moments.watch(*_WATCHED, *further),
        replaced(AdamW, "build", lambda build: _watched_build(build, moments)),
        replaced(Loop, "_train_step", lambda step: _shared_step(step, moments, shares)),
    ):
        run()
    whole = time.perf_counter() - began
    inside = sum(moments.seconds.values())
    outside = inside - sum(moments.seconds.get(name, 0.0) for name in COMPUTE)
    order = [*COMPUTE, *sorted(set(moments.seconds) - set(COMPUTE), key=lambda name: -moments.seconds[name])]
    rows = [
        [name, f"{moments.seconds[name]:.2f}", share(moments.seconds[name] / inside), f"{moments.calls.get(name, 0):,}"]
        for name in order
        if name in moments.seconds
    ]
    rows.append(["all of it", f"{inside:.2f}", share(1.0), ""])
    rows.append(["outside of forward, backward, optimizer", f"{outside:.2f}", share(outside / inside), ""])
    per_step = Spread.of(shares[1:]) if len(shares) > 1 else None
    figures = {
        "seconds": moments.seconds,
        "calls": moments.calls,
        "outside_share": outside / inside,
        "outside_share_of_steps": asdict(per_step) if per_step else None,
        "setup_seconds": whole - inside,
    }
    notes = [
        f"set-up before the first step: {whole - inside:.1f} s more, which `of=startup` is about",
        "each moment's own time: what is called inside of it and has a row counts there alone",
    ]
    if per_step is not None:
        low, median, high = (share(value) for value in (per_step.low, per_step.median, per_step.high))
        notes.append(
            f"within a step, without what comes between steps: {median} outside ({low} to {high}) of {len(shares) - 1} "
            "steps, the first dropped"
        )
    return BenchReport(
        "loop",
        title,
        machine,
        ["moment", "seconds", "share", "calls"],
        rows,
        figures,
        notes,
        {f"at most {share(AIM)} outside": outside / inside <= AIM},
    )


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
