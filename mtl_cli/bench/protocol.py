"""The protocol of all benchmarks: one process, variants in turn, the first round dropped, medians with quartiles."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import psutil
import torch

from mtl_cli.errors import UserError
from mtl_cli.sweeps.resources import usable_cores

_Value = TypeVar("_Value")

MAX_BUSY = 0.25
"""Most share of the cores that we may use which other programs may take."""
_LOOK_SECONDS = 2.0

STEP_0_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}
"""How far apart the variants' losses before the first update may be."""


@dataclass(frozen=True)
class Measured:
    """One round of one variant.

    Attributes:
        seconds: wall time.
        tokens: real tokens; padding is not work.
        cpu_seconds: CPU time of the thread that drives the variant.
        rows: rows that these tokens are of.
        squares: each row's tokens squared, added up: what attention costs.
        updates: of the optimizer.
    """

    seconds: float
    tokens: int = 0
    cpu_seconds: float = 0.0
    rows: int = 0
    squares: int = 0
    updates: int = 0


class Variant(Protocol):
    """Something that is measured: does the same work each round."""

    def round(self) -> Measured:
        """Do the work of one round."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise some values."""
        low, median, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        )
        return cls(low, median, high)

    def text(self, digits: int = 2) -> str:
        """Write the median, and the quartiles in brackets."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def interleave(
    variants: Mapping[str, Variant], num_rounds: int, check: Callable[[str, Measured], None] = lambda name, found: None
) -> dict[str, list[Measured]]:
    """Let the variants do a round each in turn; who begins moves on each time. The first round is dropped.

    Args:
        variants: by name.
        num_rounds: rounds that count.
        check: looks at each round of each variant as soon as it is done; raises where it was not the work to do.

    Returns:
        The `num_rounds` rounds that count of each variant, in their order.
    """
    names = list(variants)
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(num_rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            measured = variants[name].round()
            check(name, measured)
            if number > 0:
                found[name].append(measured)
    return found


def ratios(found: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Ratios to the baseline of the same round: what disturbs a round disturbs both."""
    return Spread.of([a / b for a, b in zip(found, baseline, strict=True)])


def summary(found: Sequence[tuple[float, float]], baseline: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Ratios of (wall, CPU) times to the baseline's of the same round: medians and quartiles."""
    wall = ratios([a for a, _ in found], [b for b, _ in baseline])
    cpu = ratios([a for _, a in found], [b for _, b in baseline])
    return {
        "ratio": wall.median,
        "ratio_low": wall.low,
        "ratio_high": wall.high,
        "cpu_ratio": cpu.median,
        "seconds": statistics.median(seconds for seconds, _ in found),
    }


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall time and CPU time of this thread, in seconds."""
    wait_for(device)
    wall, cpu = time.perf_counter(), time.thread_time()
    step()
    wait_for(device)
    return time.perf_counter() - wall, time.thread_time() - cpu


def refuse_busy(force: bool) -> float:
    """Return the load a core over the last minute; refuse where other work would be measured too.

    What is in use at this moment decides: the load is also that of work that has ended by now, such as the benchmark
    before, and is still low where work has just begun.

    Raises:
        UserError: the machine is busy, and `force` is not set.
    """
    load = _load()
    busy = 0.0 if force else _share_in_use()
    if busy > MAX_BUSY:
        raise UserError(
            f"the machine is busy: other programs use {busy:.0%} of the processor now (at most {MAX_BUSY:.0%}); the "
            f"load was {load:.2f} a core over the last minute. Measure when it is quiet; bench.force=true, or --force, "
            "measures all the same"
        )
    return load


class LoadWatch:
    """Looks at the machine's load before and after a benchmark, and at what others took of it meanwhile.

    Attributes:
        load: a core, over the minute before.
    """

    def __init__(self, force: bool) -> None:
        """Look at the load; refuse as `refuse_busy` does."""
        self.load = refuse_busy(force)
        self._began = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()
        self._others = 0.0

    def end(self) -> dict[str, float]:
        """Return the load a core now, which is our own, too, and the share of the processor that others used."""
        seconds = (time.perf_counter() - self._began) * usable_cores()
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        self._others = min(1.0, max(0.0, others / seconds))
        return {"load_at_end": _load(), "used_by_others": self._others}

    def warnings(self) -> list[str]:
        """Say, after the end, that the machine was busy."""
        if self._others <= MAX_BUSY:
            return []
        return [
            f"the machine was busy while this was measured: other programs used {self._others:.0%} of the processor "
            f"(at most {MAX_BUSY:.0%}); measure again when it is quiet"
        ]


def _load() -> float:
    return psutil.getloadavg()[0] / usable_cores()


def _share_in_use() -> float:
    """Share of our cores that is in use over the next moments, while nothing of ours runs."""
    return statistics.mean(_of_our_cores(psutil.cpu_percent(interval=_LOOK_SECONDS, percpu=True))) / 100


def _busy_seconds() -> float:
    """CPU time of all programs on our cores since the machine began."""
    times = _of_our_cores(psutil.cpu_times(percpu=True))
    return float(sum(core.user + core.system + getattr(core, "nice", 0.0) for core in times))


def _of_our_cores(of_all: Sequence[_Value]) -> list[_Value]:
    """Of a value for each core of the machine, those of the cores that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return list(of_all)
    # Where a core is off, those behind it may have other numbers than their places.
    return [of_all[core] for core in os.sched_getaffinity(0) if core < len(of_all)] or list(of_all)


def _own_seconds() -> float:
    """CPU time of this process and of the children that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def check_step_0(losses: Mapping[str, Mapping[str, float]], tolerance: float) -> float:
    """Return how far apart the variants' losses before the first update are, at most over tasks.

    Raises:
        UserError: further than `tolerance`, relative where a loss is above 1: they do not do the same work.
    """
    (first, expected), *others = losses.items()
    largest = 0.0
    for name, found in others:
        for task, loss in found.items():
            gap = abs(loss - expected[task]) / max(1.0, abs(expected[task]))
            largest = max(largest, gap)
            if not gap <= tolerance:
                raise UserError(
                    f"losses before the first update differ: {task} {expected[task]:.6f} in {first}, {loss:.6f} in "
                    f"{name}; allowed: {tolerance:g}. They do not compute the same, so their times say nothing"
                )
    return largest


def machine_record(device: torch.device, load: float) -> dict[str, Any]:
    """What figures were measured on."""
    from mtl_cli.tracking import environment_record

    environment = environment_record()
    return {
        "device": str(device),
        "processor": environment["cpu"]["model"],
        "capability": environment["cpu"]["capability"],
        "cores": environment["cpu"]["usable_cores"],
        "threads": torch.get_num_threads(),
        "gpus": [gpu["name"] for gpu in environment["gpus"]],
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": environment["packages"].get("transformers"),
        "load": load,
    }
