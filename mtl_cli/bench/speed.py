"""Real tokens a second, padding, memory and the share of the ceiling of some variants of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import torch

from mtl_cli.bench.ceiling import Ceiling, EncoderSize
from mtl_cli.bench.peak_of_variant import Peak, Rerun, peak_alone
from mtl_cli.bench.protocol import Measured, Spread, Variant, interleave, ratios
from mtl_cli.bench.report import mebibytes, share
from mtl_cli.bench.settings import BenchSettings
from mtl_cli.bench.work import Work
from mtl_cli.errors import UserError


class TrainingVariant(Protocol):
    """A way to train the work's rows once a round."""

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Of its forward passes."""

    @property
    def size(self) -> EncoderSize:
        """Of the encoder, with what is trained of it."""

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention."""

    def round(self) -> Measured:
        """Train for an epoch."""

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""

    def close(self) -> None:
        """Remove what was written."""


Make = Callable[[str], TrainingVariant]


@dataclass(frozen=True)
class Speed:
    """What a variant reached.

    Attributes:
        tokens_per_second: real tokens.
        seconds: of a round.
        tokens: real tokens of a round.
        rows: of a round.
        updates: of the optimizer in a round.
        rows_of_update: how many it sees on average.
        padding_linear: share of padding among the slots of linear layers.
        padding_attention: the same of attention.
        precision: of forward passes.
        operations_of_token: of a real token, on average, forward and backward.
        ceiling_share: of the matrix-product rate in this precision in the same round, by the operations of real tokens.
        ratio: how many times as many real tokens a second the first variant trains, round by round.
        peak: of memory in a round; None where it was not measured.
    """

    tokens_per_second: Spread
    seconds: Spread
    tokens: int
    rows: int
    updates: int
    rows_of_update: float
    padding_linear: float
    padding_attention: float
    precision: Literal["bf16", "fp32"]
    operations_of_token: float
    ceiling_share: Spread
    ratio: Spread
    peak: Peak | None = None


COLUMNS = (
    "real tokens/s", "ours is", "updates", "rows an update",
    "padding, linear", "attention", "of the ceiling", "peak MiB",
)  # fmt: skip


def cells(speed: Speed) -> list[str]:
    """The figures of a variant, under `COLUMNS`."""
    return [
        speed.tokens_per_second.text(0),
        f"{speed.ratio.text()} x",
        f"{speed.updates:,}",
        f"{speed.rows_of_update:,.1f}",
        share(speed.padding_linear),
        share(speed.padding_attention),
        share(speed.ceiling_share.median),
        mebibytes(None if speed.peak is None else speed.peak.above),
    ]


def measure(
    work: Work,
    variants: Mapping[str, TrainingVariant],
    settings: BenchSettings,
    tokens_of_step: float,
    check: Callable[[str, Measured], None] = lambda name, found: None,
) -> tuple[dict[str, Speed], dict[str, Spread]]:
    """Measure variants in turn, with the ceiling among them; the first one is what the others are compared with.

    Args:
        work: what is trained.
        variants: by name.
        settings: how to measure.
        tokens_of_step: of ours: what the ceiling's products are measured on.
        check: of each round.

    Returns:
        The figures of each variant, and for each precision the ceiling's rate in operations a second.
    """
    precisions = dict.fromkeys([work.precision, *(variant.precision for variant in variants.values())])
    ceilings = {p: Ceiling(work.size, max(256, round(tokens_of_step)), p, work.device) for p in precisions}
    taking_turns: dict[str, Variant] = {**variants, **{f"ceiling, {p}": ceiling for p, ceiling in ceilings.items()}}
    rounds = interleave(taking_turns, settings.rounds, check)
    speeds = {name: [r.tokens / r.seconds for r in rounds[name]] for name in variants}
    ours = speeds[next(iter(variants))]
    found = {}
    for name, variant in variants.items():
        seconds = [r.seconds for r in rounds[name]]
        operations = [variant.size.operations(r.tokens, r.squares) for r in rounds[name]]
        rows, updates = (sum(getattr(r, what) for r in rounds[name]) for what in ("rows", "updates"))
        linear, attention = variant.padding
        found[name] = Speed(
            tokens_per_second=Spread.of(speeds[name]),
            seconds=Spread.of(seconds),
            tokens=rounds[name][-1].tokens,
            rows=rounds[name][-1].rows,
            updates=rounds[name][-1].updates,
            rows_of_update=rows / updates,
            padding_linear=linear,
            padding_attention=attention,
            precision=variant.precision,
            operations_of_token=sum(operations) / sum(r.tokens for r in rounds[name]),
            ceiling_share=ceilings[variant.precision].shares(operations, seconds),
            ratio=ratios(ours, speeds[name]),
        )
    return found, {p: Spread.of(ceiling.rates[-settings.rounds :]) for p, ceiling in ceilings.items()}


def check_same_work(work: Work) -> Callable[[str, Measured], None]:
    """Make a check that a round of each variant went over each training row of the work once.

    Raises:
        UserError: from the check, with what was found.
    """
    rows, tokens = len(work.lengths), int(work.lengths.sum())

    def check(name: str, measured: Measured) -> None:
        if measured.updates and (measured.rows, measured.tokens) != (rows, tokens):
            max_tokens = work.config["sampler"].get("max_tokens")
            cause = "" if max_tokens is None else f"sampler.max_tokens: found {max_tokens}, allowed: null. "
            raise UserError(
                f"{cause}A round of {name} trained {measured.tokens:,} real tokens in {measured.rows:,} rows, but the "
                f"training rows of all tasks are {rows:,} with {tokens:,} tokens: the variants do not do the same "
                "work, so their times say nothing (a step of ours leaves out a task's rows where none has a label)"
            )

    return check


def add_peaks(
    found: Mapping[str, Speed], keys: Mapping[str, str], make: Make, device: torch.device, rerun: Rerun
) -> dict[str, Speed]:
    """Measure peak memory of each variant, by the key that `peak_alone` takes. The variants themselves are gone."""
    return {name: replace(found[name], peak=peak_alone(key, make, device, rerun)) for name, key in keys.items()}


def figures_of(found: Mapping[str, Speed], ceilings: Mapping[str, Spread], work: Work) -> dict[str, Any]:
    """All figures as plain values."""
    return {
        "work": work.describe(),
        "ceiling_operations_per_second": {precision: asdict(rate) for precision, rate in ceilings.items()},
        "variants": {name: asdict(speed) for name, speed in found.items()},
    }


def remarks(
    settings: BenchSettings, ceilings: Mapping[str, Spread], found: Mapping[str, Speed], work: Work
) -> list[str]:
    """What a reader of the table should know."""
    ours = next(iter(found.values()))
    rates = "; ".join(
        f"{Spread(r.low / 1e9, r.median / 1e9, r.high / 1e9).text(0)} G operations a second in {precision}"
        for precision, r in ceilings.items()
    )
    tokens = ceilings[ours.precision].median / ours.operations_of_token
    lines = [
        f"ceiling: {rates}; each variant's share is of that in its own precision. For ours {tokens:,.0f} tokens a "
        f"second at {ours.operations_of_token / 1e6:,.1f} M operations a token: 6 N + 12 L H T, less what is not done "
        f"for frozen parts; N = {work.size.num_parameters / 1e6:.1f} M",
        f"{settings.rounds} rounds, medians and quartiles; {ours.tokens / ours.rows:.1f} tokens a row; updates are "
        "those of a round. No variant draws a progress display",
    ]
    lines += remarks_on_peaks([speed.peak for speed in found.values() if speed.peak is not None])
    return lines + settings.remarks()


def remarks_on_peaks(peaks: Sequence[Peak]) -> list[str]:
    """What a column of peaks is of."""
    if any(peak.whole_process for peak in peaks):
        return ["peak MiB: of the whole process, loading included: this system cannot reset a peak"]
    if not peaks:
        return []
    standing = " / ".join(mebibytes(peak.standing) for peak in peaks)
    return [
        f"peak MiB: of a first round alone, above what stood before its first step ({standing} MiB, weights included)"
    ]
