"""`mtl bench`: how fast this machine trains what is composed."""

from __future__ import annotations

from typing import Any

from mtl_cli.bench.our_training import OurTraining
from mtl_cli.bench.peak_of_variant import Rerun, run_alone
from mtl_cli.bench.protocol import machine_record
from mtl_cli.bench.report import BenchReport
from mtl_cli.bench.settings import BenchSettings
from mtl_cli.bench.speed import COLUMNS, TrainingVariant, add_peaks, cells, figures_of, measure, remarks
from mtl_cli.bench.work import Work
from mtl_cli.errors import UserError

_NAME = "ours"


def bench_step(work: Work, settings: BenchSettings, load: float, rerun: Rerun) -> BenchReport | None:
    """Measure our training of the composition; None where only the memory of a variant was asked for."""
    if settings.only not in (None, _NAME):
        raise UserError(f"bench.only: found {settings.only!r}, allowed: {_NAME}; of=trainer has others")
    ours = OurTraining(work, settings.rounds, settings.rows)
    if settings.only is not None:
        run_alone(ours, work.device)
        return None
    variants: dict[str, TrainingVariant] = {_NAME: ours}
    found, ceilings = measure(work, variants, settings, ours.epoch.tokens / ours.epoch.steps)
    epoch_steps = ours.epoch.steps
    ours.close()
    del ours, variants
    if settings.memory:
        found = add_peaks(
            found, {_NAME: _NAME}, lambda key: OurTraining(work, settings.rounds, settings.rows), work.device, rerun
        )
    speed = found[_NAME]
    seconds_of_step = speed.seconds.median / speed.updates
    figures: dict[str, Any] = {
        **figures_of(found, ceilings, work),
        "seconds_of_step": seconds_of_step,
        "steps_of_epoch": epoch_steps,
        "seconds_of_epoch": seconds_of_step * epoch_steps,
    }
    described = figures["work"]
    columns = ["sharing, weighting", "step, ms", *(column for column in COLUMNS if column != "ours is")]
    shown = cells(speed)
    del shown[1]
    notes = [
        *remarks(settings, ceilings, found, work),
        f"a round is {speed.updates:,} {'step' if speed.updates == 1 else 'steps'} with about {speed.rows:,} rows, "
        "which the sampler takes from all data",
        f"an epoch over all of the data: {epoch_steps:,} steps, about {_duration(seconds_of_step * epoch_steps)} "
        "besides evaluation and checkpoints",
    ]
    return BenchReport(
        "step",
        f"mtl bench: {described['encoder']}, {', '.join(work.tasks)}; {described['sampler']}",
        machine_record(work.device, load),
        columns,
        [[f"{described['sharing']}, {described['weighting']}", f"{1000 * seconds_of_step:,.0f}", *shown]],
        figures,
        notes,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
