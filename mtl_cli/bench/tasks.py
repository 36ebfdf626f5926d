"""`mtl bench of=tasks`: what more tasks cost at the same tokens a step."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import asdict
from itertools import count

import numpy as np
import torch

from mtl_cli.bench.ceiling import Ceiling, EncoderSize
from mtl_cli.bench.protocol import Measured, Spread, interleave, machine_record, ratios, wait_for
from mtl_cli.bench.report import BenchReport, share
from mtl_cli.bench.settings import BenchSettings
from mtl_cli.bench.synthetic import SyntheticRun, fewest_tokens, told_of_tasks
from mtl_cli.bench.work import Work
from mtl_cli.build import instantiate
from mtl_cli.errors import UserError
from mtl_cli.sharing import SharingStrategy, TrainingMoment
from mtl_cli.weighting import Weighting

AIM = 1.05
_STEPS_OF_ROUND = 2
_HALVES = "the sharing strategy is told of the tasks by halves, the first half lower or together"
_TOTAL_STEPS, _STEPS_PER_EPOCH = 1000, 100  # of the run that the steps are said to be of


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
        self.engine = self.run.engine(weighting)
        self._steps = count()

    def round(self) -> Measured:
        """Make the steps."""
        wait_for(self.run.device)
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(_STEPS_OF_ROUND):
            moment = TrainingMoment(next(self._steps), _TOTAL_STEPS, _STEPS_PER_EPOCH)
            self.run.model.sharing.start_step(self.run.model, moment)
            self.run.catch_up()
            self.engine.step([[self.run.step_of_rows]])
            self.run.update()
            self.engine.after_update()
        wait_for(self.run.device)
        seconds = (time.perf_counter() - wall) / _STEPS_OF_ROUND
        tokens = sum(batch.num_tokens for batch in self.run.step_of_rows.values())
        return Measured(seconds, tokens, (time.thread_time() - cpu) / _STEPS_OF_ROUND)


def bench_tasks(work: Work, settings: BenchSettings, load: float) -> BenchReport:
    """Measure a step for each number of tasks, against one task's."""
    counts = sorted({1, *settings.num_tasks})
    if settings.tokens < fewest_tokens(counts[-1]):
        raise UserError(
            f"bench.tokens: found {settings.tokens}, too few for a row of each of {counts[-1]} tasks; allowed: at "
            f"least {fewest_tokens(counts[-1])}, or a smaller bench.num_tasks"
        )
    variants = {str(number): StepOfTasks(work, number, settings.tokens) for number in counts}
    step = variants["1"].run.step_of_rows
    lengths = torch.cat([batch.lengths_B for batch in step.values()]).numpy()
    size = EncoderSize.of(work.encoder)
    ceiling = Ceiling(size, settings.tokens, work.precision, work.device)
    rounds = interleave({**variants, "ceiling": ceiling}, settings.rounds)
    operations = size.operations(float(lengths.sum()), float(np.square(lengths).sum()))
    seconds = {name: [measured.seconds for measured in rounds[name]] for name in variants}
    rows, figures = [], {}
    for name in variants:
        ratio = ratios(seconds[name], seconds["1"])
        cpu = ratios([m.cpu_seconds for m in rounds[name]], [m.cpu_seconds for m in rounds["1"]])
        speed = Spread.of([rounds[name][0].tokens / s for s in seconds[name]])
        of_ceiling = ceiling.shares([operations] * settings.rounds, seconds[name])
        rows.append([name, ratio.text(3), speed.text(0), f"{cpu.median:.3f}", share(of_ceiling.median)])
        figures[name] = {
            "ratio": asdict(ratio),
            "cpu_ratio": asdict(cpu),
            "seconds": asdict(Spread.of(seconds[name])),
            "tokens_per_second": asdict(speed),
            "ceiling_share": asdict(of_ceiling),
        }
    rates = ceiling.rates[-settings.rounds :]
    parts = [type(part).__name__ for part in (variants["1"].run.model.sharing, variants["1"].engine.weighting)]
    return BenchReport(
        "tasks",
        f"mtl bench of=tasks: {int(lengths.sum())} tokens a step, {', '.join(parts)}, {work.precision}",
        machine_record(work.device, load),
        ["tasks", "x one task's step", "tokens/s", "CPU of one thread, x", "of the ceiling"],
        rows,
        {"tokens": int(lengths.sum()), "tasks": figures, "ceiling_operations_per_second": asdict(Spread.of(rates))},
        [
            f"ceiling: {Spread.of(rates).median / 1e9:,.0f} G operations a second; {settings.rounds} rounds of "
            f"{_STEPS_OF_ROUND} steps, medians and quartiles of ratios within a round",
            "rows of 16 to 112 random tokens, the same for each number of tasks; each task classifies texts",
            *([_HALVES] if {"order", "groups"} & set(work.config["sharing"]) else []),
        ],
        {f"{AIM} x one task's step": all(figures[name]["ratio"]["median"] <= AIM for name in variants)},
    )
