"""Time, parameters and memory of a training step under each sharing strategy, against hard sharing on the same tokens.

    python scripts/bench_sharing.py                          # MiniLM, all strategies, K = 2, 4, 8
    python scripts/bench_sharing.py --strategies cross_stitch lora --tasks 4
    python scripts/bench_sharing.py --strategies hard:num_shared_layers=3 adapters:train_encoder=false --no-memory

One process; a strategy and hard sharing make a step in turn, who begins changes each round, and the first round is
dropped. What is reported is the median over rounds of a strategy's step divided by hard sharing's of the same round,
with the lower and upper quartile; the row `hard` is a second model of hard sharing, so that it shows the noise. A step
is what training does with rows at hand: the strategy's own work before it, forward, backward, clipping, and AdamW with
rows of the word embedding updated when they are read, with dropout, on rows of 16 to 112 random tokens, the same for
each number of tasks K; the tasks classify texts.

The floor is what the time would be if only matrix products cost any: their operations in a forward and a backward
pass, counted, divided by hard sharing's. It leaves out the optimizer, which goes by the parameters, and all that is no
matrix product. Peak memory is measured in a process of its own for each strategy, on a CPU the libraries included.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from bench_steps import ENCODERS, Bench, summary, timed, watch_load
from rich.console import Console
from rich.table import Table

from mtl_cli.bench.synthetic import moments_past_warm_ups, told_of_tasks
from mtl_cli.build import instantiate
from mtl_cli.commands.dry_run import operations_of
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.sharing import HardSharing, SharingStrategy
from mtl_cli.training import peak_memory_bytes
from mtl_cli.training.allocator import keep_freed_memory
from mtl_cli.weighting import Equal

CONF = Path(__file__).parents[1] / "conf/sharing"
MEMORY_STEPS = 3

Step = Callable[[], None]


def make_sharing(name: str, task_names: list[str]) -> SharingStrategy:
    """The strategy of a YAML; `name:key=value,key=value` with other settings, the values as in YAML."""
    name, _, given = name.partition(":")
    settings: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    settings = told_of_tasks(settings, task_names)
    for item in filter(None, given.split(",")):
        key, _, value = item.partition("=")
        settings[key] = yaml.safe_load(value)
    strategy = instantiate(settings)
    assert isinstance(strategy, SharingStrategy)
    strategy.check_tasks(task_names)
    return strategy


def make_bench(args: argparse.Namespace, name: str, num_tasks: int, device: torch.device) -> Bench:
    strategy = make_sharing(name, [f"task{i}" for i in range(num_tasks)])
    return Bench(args.encoder, strategy, num_tasks, args.tokens, device)


def make_step(bench: Bench) -> Step:
    """A function that makes one training step."""
    engine = bench.engine(Equal())
    moments = moments_past_warm_ups()

    def step() -> None:
        bench.model.sharing.start_step(bench.model, next(moments))
        bench.catch_up()
        engine.step([[bench.step_of_rows]])
        bench.update()
        engine.after_update()

    return step


def measure(args: argparse.Namespace, name: str, hard: Bench, device: torch.device) -> dict[str, Any]:
    """Build a strategy's model and measure it beside hard sharing's."""
    bench = make_bench(args, name, len(hard.model.tasks), device)
    counts = bench.model.parameter_counts()
    operations, of_hard = (operations_of(b.model, b.step_of_rows) for b in (bench, hard))
    steps = {"hard": make_step(hard), "strategy": make_step(bench)}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in steps}
    for round_number in range(args.rounds + 1):
        for side in sorted(steps, reverse=round_number % 2 == 1):
            taken = timed(steps[side], device)
            if round_number > 0:
                times[side].append(taken)
    found = summary(times["strategy"], times["hard"])
    floor = operations / of_hard
    return {
        **found,
        "hard_seconds": summary(times["hard"], times["hard"])["seconds"],
        "operations": operations,
        "floor": floor,
        "ratio_to_floor": found["ratio"] / floor,
        "parameters": counts | {"trained": counts["shared"] + counts["task_specific"]},
    }


def measure_all(
    args: argparse.Namespace, num_tasks: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of the strategies, and why others are left out."""
    hard = Bench(args.encoder, HardSharing(), num_tasks, args.tokens, device)
    figures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in args.strategies:
        try:
            figures[name] = measure(args, name, hard, device)
            print(f"K = {num_tasks} {name}: " + " | ".join(cells(figures[name])), flush=True)
        except Exception as error:  # whatever is wrong with one strategy, the others are measured
            left_out[name] = reason_of(error)
            print(f"left out: {name} with {num_tasks} tasks ({left_out[name]})", flush=True)
        gc.collect()  # the model that is done with: wrappers and modules refer to each other
    return figures, left_out


def reason_of(error: Exception) -> str:
    """An error in a line, or its cause where Hydra wrapped it."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"


def peak_memory(args: argparse.Namespace, name: str, num_tasks: int) -> int | None:
    """Peak bytes of a few steps, in a process of its own; None where it fails."""
    command = [
        sys.executable, __file__, "--encoder", args.encoder, "--tokens", str(args.tokens), "--device", args.device,
        "--strategies", name, "--tasks", str(num_tasks), "--memory-of-one", "--force",
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"no memory: {name} with {num_tasks} tasks ({(done.stderr.strip().splitlines() or ['?'])[-1]})")
        return None
    return int(done.stdout.split()[-1])


def peak_bytes_of_steps(args: argparse.Namespace, device: torch.device) -> int:
    """Peak bytes of this process, or of the GPU, over a few steps of the one strategy."""
    step = make_step(make_bench(args, args.strategies[0], args.tasks[0], device))
    for _ in range(MEMORY_STEPS):
        step()
    return peak_memory_bytes(device)


def add_memory(args: argparse.Namespace, figures: dict[str, Any], num_tasks: int) -> None:
    hard = peak_memory(args, "hard", num_tasks)
    for name, row in figures.items():
        row["peak_bytes"] = hard if name == "hard" else peak_memory(args, name, num_tasks)
        row["memory_ratio"] = row["peak_bytes"] / hard if row["peak_bytes"] and hard else None


COLUMNS = (
    "x hard", "quartiles", "floor", "x floor", "seconds",
    "parameters, M", "shared", "task-specific", "trained", "peak MiB", "x hard's",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of a strategy, under `COLUMNS`."""
    peak, ratio = row.get("peak_bytes"), row.get("memory_ratio")
    return [
        f"{row['ratio']:.2f}",
        f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}",
        f"{row['floor']:.2f}",
        f"{row['ratio_to_floor']:.2f}",
        f"{row['seconds']:.3f}",
        *(f"{row['parameters'][part] / 1e6:.2f}" for part in ("total", "shared", "task_specific", "trained")),
        "-" if peak is None else f"{peak / 2**20:,.0f}",
        "-" if ratio is None else f"{ratio:.2f}",
    ]


def by_ratio(figures: dict[str, Any]) -> list[str]:
    return sorted(figures, key=lambda name: figures[name]["ratio"])


def title_of(figures: dict[str, Any], num_tasks: int) -> str:
    return (
        f"K = {num_tasks}, {figures['encoder']}, {figures['tokens']} tokens a step, {figures['rounds']} rounds, "
        f"{figures['device']}, {figures['precision']}"
    )


def show(figures: dict[str, Any], num_tasks: int) -> None:
    found = figures["tasks"][num_tasks]
    table = Table(title=title_of(figures, num_tasks))
    table.add_column("sharing")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name in by_ratio(found):
        table.add_row(name, *cells(found[name]))
    Console(width=170).print(table)


def to_markdown(figures: dict[str, Any]) -> str:
    """A table for each number of tasks."""
    parts = []
    for num_tasks, found in figures["tasks"].items():
        lines = [f"| sharing | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
        lines += [f"| {name} | {' | '.join(cells(found[name]))} |" for name in by_ratio(found)]
        parts.append(f"{title_of(figures, num_tasks)}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=ENCODERS, default="minilm")
    parser.add_argument(
        "--strategies", nargs="+", default=sorted(path.stem for path in CONF.glob("*.yaml")), metavar="NAME[:KEY=VALUE]"
    )
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 4, 8], metavar="K")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a step")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, besides the first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--memory-of-one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    device = choose_device(args.device)
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    watch = watch_load(args.force)
    if args.memory_of_one:
        print(peak_bytes_of_steps(args, device))
        return
    figures: dict[str, Any] = {
        "encoder": args.encoder, "tokens": args.tokens, "rounds": args.rounds, "device": str(device),
        "precision": choose_precision("auto", device), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(), "load": watch.load, "tasks": {}, "left_out": {},
    }  # fmt: skip
    for num_tasks in args.tasks:
        found, figures["left_out"][num_tasks] = measure_all(args, num_tasks, device)
        if not args.no_memory:
            add_memory(args, found, num_tasks)
        figures["tasks"][num_tasks] = found
        figures |= watch.end()
        for warning in watch.warnings():
            print(warning)
        show(figures, num_tasks)
        if args.markdown:
            args.markdown.write_text(to_markdown(figures) + "\n", encoding="utf-8")
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
