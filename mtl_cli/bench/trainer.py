"""`mtl bench of=trainer`: our training of all tasks together against a run for each task as others would train it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from mtl_cli.bench.epoch import Epoch, check_one_pass
from mtl_cli.bench.hf_trainer import BATCH_SIZE, TrainerRuns
from mtl_cli.bench.our_training import OurTraining
from mtl_cli.bench.peak_of_variant import Rerun, run_alone
from mtl_cli.bench.protocol import STEP_0_TOLERANCE, Spread, check_step_0, machine_record
from mtl_cli.bench.report import BenchReport
from mtl_cli.bench.settings import Baseline, BenchSettings
from mtl_cli.bench.single_task import heads_of
from mtl_cli.bench.sorted_batches import SortedBatches
from mtl_cli.bench.speed import (
    COLUMNS,
    Speed,
    TrainingVariant,
    add_peaks,
    cells,
    check_same_work,
    figures_of,
    measure,
    remarks,
)
from mtl_cli.bench.work import Work
from mtl_cli.errors import UserError
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import HardSharing

OURS = "ours"
NAMES: dict[Baseline, str] = {
    "B1": "B1: Trainer as run_glue sets it",
    "B2": "B2: Trainer, tuned",
    "B3": "B3: sorted batches, a task a run",
}
AIMS: dict[Baseline, float] = {"B1": 5.0, "B2": 1.6}


def make_baseline(key: Baseline, work: Work, model: MultiTaskModel | None) -> TrainingVariant:
    """Build a baseline whose heads begin as our model's."""
    heads = heads_of(work, model)
    makers: dict[Baseline, Callable[[], TrainingVariant]] = {
        "B1": lambda: TrainerRuns(work, heads, tuned=False),
        "B2": lambda: TrainerRuns(work, heads, tuned=True),
        "B3": lambda: SortedBatches(work, heads),
    }
    return makers[key]()


def bench_trainer(work: Work, settings: BenchSettings, load: float, rerun: Rerun) -> BenchReport | None:
    """Compare speeds; None where only the memory of a variant was asked for."""
    if settings.only is not None:
        run_alone(_only(str(settings.only), work, settings), work.device)
        return None
    epoch = Epoch.of(work.config["sampler"], work.train_splits, work.config["seed"])
    check_one_pass(epoch, work.config["sampler"], work.train_splits)
    keys = {OURS: OURS, **{NAMES[key]: key for key in settings.baselines}}
    found, ceilings, gap = _compare(work, settings, epoch)
    if settings.memory:  # the variants are gone
        found = add_peaks(found, keys, lambda key: _only(key, work, settings), work.device, rerun)
    figures = {**figures_of(found, ceilings, work), "step_0_gap": gap}
    notes = remarks(settings, ceilings, found, work)
    agreed = "was not compared: the sharing strategy makes it another model" if gap is None else f"at most {gap:.1e}"
    notes += [
        f"{len(work.tasks)} tasks ({', '.join(work.tasks)}), {next(iter(figures['work']['tasks'].values())):,} rows of "
        f"each, which every variant goes over once a round; ours is one run of all, the others a run for each with "
        f"{BATCH_SIZE} rows a batch (B3: or 1,024 tokens)",
        f"difference of the losses before the first update: {agreed}",
    ]
    aims: dict[str, bool | None] = {
        f"{factor} x {key}": found[NAMES[key]].ratio.median >= factor
        for key, factor in AIMS.items()
        if NAMES[key] in found
    }
    return BenchReport(
        "trainer",
        f"mtl bench of=trainer: {figures['work']['encoder']}; ours and B2, B3 in {work.precision}, B1 in fp32",
        machine_record(work.device, load),
        ["variant", *COLUMNS],
        [[name, *cells(speed)] for name, speed in found.items()],
        figures,
        notes,
        aims,
    )


def _compare(
    work: Work, settings: BenchSettings, epoch: Epoch
) -> tuple[dict[str, Speed], dict[str, Spread], float | None]:
    """Measure ours and the baselines: figures, ceilings, and how far their first losses are apart."""
    with ExitStack() as stack:
        ours = OurTraining(work, settings.rounds)
        stack.callback(ours.close)
        variants: dict[str, TrainingVariant] = {OURS: ours}
        for key in dict.fromkeys(settings.baselines):
            variants[NAMES[key]] = variant = make_baseline(key, work, ours.model)
            stack.callback(variant.close)
        gap = _step_0(work, variants, ours.model)
        found, ceilings = measure(work, variants, settings, epoch.tokens / epoch.steps, check_same_work(work))
    return found, ceilings, gap


def _step_0(work: Work, variants: dict[str, TrainingVariant], model: MultiTaskModel) -> float | None:
    if not isinstance(model.sharing, HardSharing):
        return None
    tolerance = STEP_0_TOLERANCE[work.precision]
    return check_step_0({name: variant.first_losses() for name, variant in variants.items()}, tolerance)


def _only(name: str, work: Work, settings: BenchSettings) -> TrainingVariant:
    """Build the one variant; of a baseline the task with the most tokens, as its runs come one after the other."""
    if name == OURS:
        return OurTraining(work, settings.rounds)
    for key in NAMES:
        if key == name:
            return make_baseline(key, work.of_one_task(), None)
    raise UserError(f"bench.only: found {name!r}, allowed: {OURS}, {', '.join(NAMES)}")
