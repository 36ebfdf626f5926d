"""`mtl bench`: how fast this machine trains what is composed, and the benchmarks of docs/performance.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mtl_cli.bench.peak_of_variant import Rerun
from mtl_cli.bench.protocol import LoadWatch, machine_record
from mtl_cli.bench.report import BenchReport
from mtl_cli.bench.settings import BenchChoice, BenchSettings
from mtl_cli.check_config import check_config, check_settings
from mtl_cli.commands import train as train_command
from mtl_cli.errors import UserError
from mtl_cli.precision import choose_device
from mtl_cli.training.allocator import keep_freed_memory

log = logging.getLogger(__name__)

_OWN = ("of", "bench")
_WIDTH = 160  # of a table that goes to a file


def bench(config: Mapping[str, Any], rerun: Rerun, words: list[str]) -> int:
    """Measure as `config` (conf/bench.yaml) says, print the table, write the files; return the exit code.

    Args:
        config: plain, resolved configuration.
        rerun: from further words to the command line that runs this benchmark with them.
        words: of `mtl train` that give the composition.
    """
    choice = check_settings(BenchChoice, {"of": config.get("of", "step")})
    settings = check_settings(BenchSettings, config.get("bench") or {}, prefix="bench.")
    composed = {key: value for key, value in config.items() if key not in _OWN}
    for key in ("resume", "dry_run"):
        if composed.get(key):
            raise UserError(f"{key}: a benchmark trains nothing that is kept; leave it out")
    if choice.of == "tasks" and isinstance(composed.get("sharing"), Mapping):
        from mtl_cli.bench.synthetic import told_of_tasks

        composed["sharing"] = told_of_tasks(composed["sharing"], list(composed.get("tasks") or {}))
    check_config(composed, composed.get("allow_targets"))
    if settings.only is not None and choice.of not in ("step", "trainer", "tasks"):
        raise UserError(f"bench.only: of={choice.of} has no variants; leave it out")
    for warning in settings.without_effect(choice.of):
        log.warning("%s", warning)
    watch = LoadWatch(settings.force)
    try:
        report = _measure(choice.of, composed, settings, watch.load, rerun, words)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU ran out of memory in what was measured ({str(error).splitlines()[0]}). Lower sampler.batch_size, "
            "set trainer.batch_tokens=auto or trainer.activation_checkpointing=true, or lower tasks.<name>.max_length"
        ) from error
    if report is not None:
        report.machine = {**report.machine, **watch.end()}
        report.notes += watch.warnings()
        console = Console()
        report.show(console if console.is_terminal else Console(width=_WIDTH))
        report.write(settings.json, settings.markdown)
    return 0


def _measure(
    of: str, config: dict[str, Any], settings: BenchSettings, load: float, rerun: Rerun, words: list[str]
) -> BenchReport | None:
    device = choose_device(config["trainer"].get("device", "auto"))
    if of == "startup":
        from mtl_cli.bench.startup import bench_startup

        name = " ".join(words) or "mtl train"
        return bench_startup({name: [*words, "logger=none"]}, settings, machine_record(device, load))
    if of == "loop":
        return _loop(config, settings, machine_record(device, load))
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    from mtl_cli.bench.work import Work

    if of == "trainer" and settings.scores:
        from mtl_cli.bench.scores import bench_scores, check_settings_of_both

        check_settings_of_both(config)

        def work_of_seed(seed: int) -> Work:
            of_seed = {**config, "seed": seed}
            return Work.of(of_seed, train_command.load(of_seed))

        return bench_scores(work_of_seed, settings.seeds, load)
    loaded = train_command.load(config)
    # What the sampler gives depends on the tasks' sizes: only what is compared is cut.
    work = Work.of(config, loaded, settings.rows if of == "trainer" else None, alone=settings.only is not None)
    if of == "tasks":
        from mtl_cli.bench.tasks import bench_tasks

        return bench_tasks(work, settings, load, rerun)
    if of == "trainer":
        from mtl_cli.bench.trainer import bench_trainer

        return bench_trainer(work, settings, load, rerun)
    from mtl_cli.bench.step import bench_step

    return bench_step(work, settings, load, rerun)


def _loop(config: dict[str, Any], settings: BenchSettings, machine: Mapping[str, Any]) -> BenchReport:
    from mtl_cli.bench.loop import bench_loop

    tasks = ", ".join(config["tasks"])
    encoder = config["encoder"].get("path") or config["encoder"]["_target_"].split(".")[-1]

    def run(output: Path) -> None:
        train_command.train(deepcopy(config), output, [])

    return bench_loop(
        run,
        [
            (train_command, "_score_and_save", "final scores, the rest"),
            (train_command, "save_model", "saving the model"),
        ],
        settings,
        f"mtl bench of=loop: {encoder}, {tasks}",
        machine,
        choose_device(config["trainer"].get("device", "auto")),
    )
