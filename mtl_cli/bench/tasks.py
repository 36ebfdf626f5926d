"""`mtl bench of=tasks`: what more tasks cost at the same tokens a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import yaml

from mtl_cli.bench.ceiling import Ceiling, EncoderSize
from mtl_cli.bench.our_training import padding_of
from mtl_cli.bench.peak_of_variant import Rerun, peak_alone, run_alone
from mtl_cli.bench.protocol import Measured, Spread, interleave, machine_record, ratios, wait_for
from mtl_cli.bench.report import BenchReport, mebibytes, share
from mtl_cli.bench.settings import BenchSettings
from mtl_cli.bench.speed import remarks_on_peaks
from mtl_cli.bench.synthetic import SyntheticRun, fewest_tokens, moments_past_warm_ups, told_of_tasks
from mtl_cli.bench.work import Work
from mtl_cli.build import instantiate
from mtl_cli.encoders.compiling import compile_blocks
from mtl_cli.errors import UserError
from mtl_cli.sharing import SharingStrategy
from mtl_cli.shipped_conf import conf_dir
from mtl_cli.training import AdamW, Trainer
from mtl_cli.weighting import Weighting

log = logging.getLogger(__name__)

AIM = 1.05
_STEPS_OF_ROUND = 2
_HALVES = "the sharing strategy is told of the tasks by halves, the first half lower or together"
_COLUMNS = (
    "tasks", "x one task's step", "tokens/s", "CPU of one thread, x",
    "padding, linear", "attention", "of the ceiling", "peak MiB",
)  # fmt: skip
_NOT_FOLLOWED = ("num_micro_batches", "batch_tokens", "max_grad_norm", "parallelism")
"""Settings of the trainer that change a step of `mtl train`, and none of these."""


class StepOfTasks:
    """One round: a few training steps of K tasks on the same number of tokens."""

    def __init__(self, work: Work, num_tasks: int, num_tokens: int) -> None:
        names = [f"task{i}" for i in range(num_tasks)]
        sharing = instantiate(told_of_tasks(work.config["sharing"], names))
        weighting = instantiate(work.config["weighting"])
        assert isinstance(sharing, SharingStrategy)
        assert isinstance(weighting, Weighting)
        if weighting.num_batches > 1:
            raise UserError(
                f"weighting: {type(weighting).__name__} cuts a step into batches, which of=tasks does not do"
            )
        try:
            sharing.check_tasks(names)
        except UserError as error:
            raise UserError(
                f"sharing: {type(sharing).__name__} cannot be measured with of=tasks, which deals its rows to tasks of "
                f"its own, {names[0]} to {names[-1]} ({error}). of=step measures it on your tasks"
            ) from error
        self.run = SyntheticRun(
            deepcopy(work.encoder), sharing, num_tasks, num_tokens, work.device, precision=work.precision
        )
        trainer = instantiate(work.config["trainer"])
        assert isinstance(trainer, Trainer)
        if trainer.activation_checkpointing:
            self.run.model.encoder.checkpoint_activations()
        if trainer.compile:
            compile_blocks(self.run.model.encoder)
        self.engine = self.run.engine(weighting)
        self._moments = moments_past_warm_ups()

    def round(self) -> Measured:
        """Make the steps."""
        wait_for(self.run.device)
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(_STEPS_OF_ROUND):
            self.run.model.sharing.start_step(self.run.model, next(self._moments))
            self.run.catch_up()
            self.engine.step([[self.run.step_of_rows]])
            self.run.update()
            self.engine.after_update()
        wait_for(self.run.device)
        seconds = (time.perf_counter() - wall) / _STEPS_OF_ROUND
        tokens = sum(batch.num_tokens for batch in self.run.step_of_rows.values())
        return Measured(seconds, tokens, (time.thread_time() - cpu) / _STEPS_OF_ROUND)

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention."""
        lengths = {name: batch.lengths_B.numpy() for name, batch in self.run.step_of_rows.items()}
        return padding_of([lengths], self.run.model)

    def close(self) -> None:
        """Nothing to remove."""


def settings_without_effect(config: Mapping[str, Any]) -> list[str]:
    """Return a warning for each setting of a training step that differs from its default and is not followed.

    A step is whole, of made-up rows, its gradients are clipped to a norm of 1, and AdamW has the same settings and
    learning rate whatever is composed.
    """
    # The learning rate is the encoder's where none is given.
    optimizer = AdamW(lr=config["encoder"].get("default_lr", config["optimizer"].get("lr", AdamW().lr)))
    default = {
        "trainer": {key: value for key, value in vars(Trainer()).items() if key in _NOT_FOLLOWED},
        "optimizer": vars(optimizer),
    }
    for name, shipped in (("sampler", "all_tasks"), ("schedule", "linear")):
        default[name] = yaml.safe_load((conf_dir() / name / f"{shipped}.yaml").read_text(encoding="utf-8"))
    return [
        f"{name}.{key}: found {config[name][key]!r}, which has no effect with of=tasks"
        for name, settings in default.items()
        for key, value in settings.items()
        if key in config[name] and config[name][key] != value
    ]


def bench_tasks(work: Work, settings: BenchSettings, load: float, rerun: Rerun) -> BenchReport | None:
    """Measure a step for each number of tasks, against one task's; None where only one's memory was asked for."""
    counts = sorted({1, *settings.num_tasks})
    if settings.tokens < fewest_tokens(counts[-1]):
        raise UserError(
            f"bench.tokens: found {settings.tokens}, too few for a row of each of {counts[-1]} tasks; allowed: at "
            f"least {fewest_tokens(counts[-1])}, or a smaller bench.num_tasks"
        )

    def make(name: str) -> StepOfTasks:
        return StepOfTasks(work, int(name), settings.tokens)

    if settings.only is not None:
        name, allowed = str(settings.only), list(map(str, counts))
        if name not in allowed:
            raise UserError(f"bench.only: found {name!r}, allowed: a number of tasks, {', '.join(allowed)}")
        run_alone(make(name), work.device)
        return None
    for warning in settings_without_effect(work.config):
        log.warning("%s", warning)
    variants = {name: make(name) for name in map(str, counts)}
    step = variants["1"].run.step_of_rows
    lengths = torch.cat([batch.lengths_B for batch in step.values()]).numpy()
    size = EncoderSize.of(work.encoder)
    ceiling = Ceiling(size, settings.tokens, work.precision, work.device)
    rounds = interleave({**variants, "ceiling": ceiling}, settings.rounds)
    operations = size.operations(float(lengths.sum()), float(np.square(lengths).sum()))
    seconds = {name: [measured.seconds for measured in rounds[name]] for name in variants}
    parts = [type(part).__name__ for part in (variants["1"].run.model.sharing, variants["1"].engine.weighting)]
    padding = {name: variant.padding for name, variant in variants.items()}
    del variants
    peaks = {name: peak_alone(name, make, work.device, rerun) if settings.memory else None for name in seconds}
    rows: list[list[str]] = []
    figures: dict[str, dict[str, Any]] = {}
    for name in seconds:
        ratio = ratios(seconds[name], seconds["1"])
        cpu = ratios([m.cpu_seconds for m in rounds[name]], [m.cpu_seconds for m in rounds["1"]])
        speed = Spread.of([rounds[name][0].tokens / s for s in seconds[name]])
        of_ceiling = ceiling.shares([operations] * settings.rounds, seconds[name])
        linear, attention = padding[name]
        peak = peaks[name]
        paddings = [share(linear), share(attention)]
        memory = mebibytes(None if peak is None else peak.above)
        rows.append(
            [name, ratio.text(3), speed.text(0), f"{cpu.median:.3f}", *paddings, share(of_ceiling.median), memory]
        )
        figures[name] = {
            "ratio": asdict(ratio),
            "cpu_ratio": asdict(cpu),
            "seconds": asdict(Spread.of(seconds[name])),
            "tokens_per_second": asdict(speed),
            "ceiling_share": asdict(of_ceiling),
            "padding_linear": linear,
            "padding_attention": attention,
            "peak": None if peak is None else asdict(peak),
        }
    rates = ceiling.rates[-settings.rounds :]
    return BenchReport(
        "tasks",
        f"mtl bench of=tasks: {int(lengths.sum())} tokens a step, {', '.join(parts)}, {work.precision}",
        machine_record(work.device, load),
        list(_COLUMNS),
        rows,
        {"tokens": int(lengths.sum()), "tasks": figures, "ceiling_operations_per_second": asdict(Spread.of(rates))},
        [
            f"ceiling: {Spread.of(rates).median / 1e9:,.0f} G operations a second; {settings.rounds} rounds of "
            f"{_STEPS_OF_ROUND} steps, medians and quartiles of ratios within a round",
            "rows of 16 to 112 random tokens, the same for each number of tasks; each task classifies texts",
            *([_HALVES] if {"order", "groups"} & set(work.config["sharing"]) else []),
            *remarks_on_peaks([peak for peak in peaks.values() if peak is not None]),
            *settings.remarks(),
        ],
        {f"{AIM} x one task's step": all(figures[name]["ratio"]["median"] <= AIM for name in figures)},
    )
