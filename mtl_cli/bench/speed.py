"""Real tokens a second, padding, memory and the share of the ceiling of some variants of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from mtl_cli.bench.ceiling import Ceiling
from mtl_cli.bench.peak_of_variant import Rerun, peak_of, print_peak
from mtl_cli.bench.protocol import Measured, Spread, interleave, ratios
from mtl_cli.bench.report import mebibytes, share
from mtl_cli.bench.settings import LEAST_ROUNDS, BenchSettings
from mtl_cli.bench.work import Work
from mtl_cli.training import peak_memory_bytes


class TrainingVariant(Protocol):
    """A way to train the work's rows once a round."""

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention."""

    def round(self) -> Measured:
        """Train for an epoch."""

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""

    def close(self) -> None:
        """Remove what was written."""


Make = Callable[[], TrainingVariant]


@dataclass(frozen=True)
class Speed:
    """What a variant reached.

    Attributes:
        tokens_per_second: real tokens.
        seconds: of a round.
        tokens: real tokens of a round.
        padding_linear: share of padding among the slots of linear layers.
        padding_attention: the same of attention.
        ceiling_share: of the matrix-product rate of the same round, by the operations of real tokens.
        ratio: how many times as many real tokens a second the first variant trains, round by round.
        peak_bytes: peak memory; None where it was not measured.
    """

    tokens_per_second: Spread
    seconds: Spread
    tokens: int
    padding_linear: float
    padding_attention: float
    ceiling_share: Spread
    ratio: Spread
    peak_bytes: int | None = None


COLUMNS = ("real tokens/s", "ours is", "padding, linear", "attention", "of the ceiling", "peak MiB")


def cells(speed: Speed) -> list[str]:
    """The figures of a variant, under `COLUMNS`."""
    return [
        speed.tokens_per_second.text(0),
        f"{speed.ratio.text()} x",
        share(speed.padding_linear),
        share(speed.padding_attention),
        share(speed.ceiling_share.median),
        mebibytes(speed.peak_bytes),
    ]


def measure(
    work: Work, variants: Mapping[str, TrainingVariant], settings: BenchSettings
) -> tuple[dict[str, Speed], Spread]:
    """Measure variants in turn, with the ceiling among them; the first one is what the others are compared with.

    Returns:
        The figures of each variant, and the ceiling's rate in operations a second.
    """
    size, lengths = work.size, work.lengths
    ceiling = Ceiling(size, _tokens_of_step(work), work.precision, work.device)
    rounds = interleave({**variants, "ceiling": ceiling}, settings.rounds)
    rates = ceiling.rates[-settings.rounds :]
    operations_of_token = size.operations(lengths) / float(lengths.sum())
    speeds = {name: [r.tokens / r.seconds for r in rounds[name]] for name in variants}
    ours = speeds[next(iter(variants))]
    found = {}
    for name, variant in variants.items():
        linear, attention = variant.padding
        found[name] = Speed(
            Spread.of(speeds[name]),
            Spread.of([r.seconds for r in rounds[name]]),
            rounds[name][-1].tokens,
            linear,
            attention,
            Spread.of([s * operations_of_token / rate for s, rate in zip(speeds[name], rates, strict=True)]),
            ratios(ours, speeds[name]),
        )
    return found, Spread.of(rates)


def _tokens_of_step(work: Work) -> int:
    """About as many tokens as a step of ours has: what the ceiling's products are measured on."""
    batch = work.config["sampler"].get("batch_size", 32)
    rows = sum(batch.values()) if isinstance(batch, dict) else batch * len(work.tasks)
    return max(256, int(rows * work.lengths.mean()))


def run_alone(variant: TrainingVariant, device: torch.device) -> int:
    """Do one round of a variant, print the peak memory and return the exit code."""
    variant.round()
    print_peak(peak_memory_bytes(device))
    variant.close()
    return 0


def add_peaks(
    found: Mapping[str, Speed],
    keys: Mapping[str, str],
    variants: Mapping[str, TrainingVariant],
    work: Work,
    rerun: Rerun,
) -> dict[str, Speed]:
    """Measure peak memory: on a GPU here, else in a process for each variant, which `bench.only` calls by its key."""
    peaks: dict[str, int | None] = {}
    for name, variant in variants.items():
        if work.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(work.device)
            variant.round()
            peaks[name] = peak_memory_bytes(work.device)
        else:
            peaks[name] = peak_of(keys[name], rerun)
    return {name: Speed(**{**vars(speed), "peak_bytes": peaks[name]}) for name, speed in found.items()}


def figures_of(found: Mapping[str, Speed], ceiling: Spread, work: Work) -> dict[str, Any]:
    """All figures as plain values."""
    return {
        "work": work.describe(),
        "ceiling_operations_per_second": asdict(ceiling),
        "ceiling_tokens_per_second": ceiling.median * float(work.lengths.sum()) / work.size.operations(work.lengths),
        "variants": {name: asdict(speed) for name, speed in found.items()},
    }


def remarks(settings: BenchSettings, ceiling: Spread, work: Work) -> list[str]:
    """What a reader of the table should know."""
    size = work.size
    tokens = ceiling.median * float(work.lengths.sum()) / size.operations(work.lengths)
    found = [
        f"ceiling: {ceiling.median / 1e9:,.0f} ({ceiling.low / 1e9:,.0f} to {ceiling.high / 1e9:,.0f}) G operations a "
        f"second in {work.precision}, {tokens:,.0f} tokens a second at 6 N + 12 L H T operations a token, "
        f"N = {size.num_parameters / 1e6:.1f} M",
        f"{settings.rounds} rounds, medians and quartiles; {work.lengths.mean():.1f} tokens a row",
    ]
    if settings.rounds < LEAST_ROUNDS:
        found.append(f"fewer than the {LEAST_ROUNDS} rounds of the protocol: for a first look only")
    return found
