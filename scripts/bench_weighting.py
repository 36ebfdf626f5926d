"""Time and memory of a training step under each weighting, against `equal` on the same tokens.

    python scripts/bench_weighting.py                        # MiniLM, all methods, K = 1, 2, 4, 8, 16
    python scripts/bench_weighting.py --encoder bert_base --methods pcgrad cagrad --tasks 4 8
    python scripts/bench_weighting.py --torchjd --methods pcgrad --tasks 8

One process; in each round every method makes one step, one after the other, and the first round is dropped. What is
reported is the median over rounds of a method's step divided by `equal`'s of the same round, with the lower and upper
quartile. A step is what training does with rows at hand: forward, backward, combining, clipping, and AdamW with rows of
the word embedding updated when they are read (torchjd's engine: all in each step), with dropout, on rows of 16 to 112
random tokens, the same for each number of tasks K; the tasks classify texts. Beside the wall time stands the CPU time
of the thread that drives the step. Peak memory is measured in a process of its own for each method.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bench_steps import ENCODERS, Bench, summary, timed, watch_load
from rich.console import Console
from rich.table import Table

from mtl_cli.build import instantiate
from mtl_cli.gradients import GradientEngine
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.sharing import HardSharing
from mtl_cli.training import peak_memory_bytes
from mtl_cli.training.allocator import keep_freed_memory
from mtl_cli.types import Batch, UserError
from mtl_cli.weighting import Weighting

CONF = Path(__file__).parents[1] / "conf/weighting"


def make_parts(bench: Bench, weighting: Weighting) -> list[list[dict[str, Batch]]]:
    """The step, cut into the batches that a method asks for."""
    if weighting.num_batches == 1:
        return [[bench.step_of_rows]]
    if min(rows.num_rows for rows in bench.step_of_rows.values()) < weighting.num_batches:
        raise UserError(f"fewer than {weighting.num_batches} rows of a task")
    return [[cut_rows(bench.step_of_rows, i, weighting.num_batches)] for i in range(weighting.num_batches)]


def cut_rows(step: dict[str, Batch], part: int, num_parts: int) -> dict[str, Batch]:
    cut = {}
    for task, rows in step.items():
        chosen = np.arange(rows.num_rows)[part::num_parts]
        pieces = rows.input_ids_N.split(rows.lengths_B.tolist())
        assert rows.labels_M is not None
        cut[task] = Batch(
            torch.cat([pieces[row] for row in chosen]),
            rows.lengths_B[chosen],
            None,
            None,
            rows.labels_M[torch.from_numpy(chosen).to(rows.labels_M.device)],
            chosen,
        )
    return cut


def make_weighting(name: str) -> Weighting:
    """The weighting of a YAML; `name/per_task` with that engine."""
    name, _, engine = name.partition("/")
    settings: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    if engine:
        settings["engine"] = engine
    weighting = instantiate(settings)
    assert isinstance(weighting, Weighting)
    return weighting


def make_steps(bench: Bench, methods: list[str]) -> dict[str, Callable[[], None]]:
    """A function a method that makes one training step; methods that do not fit so few tasks or rows are left out."""
    steps: dict[str, Callable[[], None]] = {}
    for name in methods:
        try:
            weighting = make_weighting(name)
            engine, parts = bench.engine(weighting), make_parts(bench, weighting)
        except (UserError, RuntimeError) as error:
            print(f"left out: {name} with {len(bench.model.tasks)} tasks ({str(error).splitlines()[0]})")
            continue

        def step(engine: GradientEngine = engine, parts: Any = parts) -> None:
            bench.catch_up()
            engine.step(parts)
            bench.update()
            engine.after_update()

        steps[name] = step
    return steps


def make_torchjd_step(bench: Bench) -> Callable[[], None]:
    """The same step by torchjd's own engine, one backward pass a task through the joint graph."""
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    shared = bench.model.shared_parameters()
    own = [bench.model.task_specific_parameters(task) for task in bench.model.tasks]
    normalizers = bench.losses.normalizers([bench.step_of_rows], list(bench.step_of_rows))

    def step() -> None:
        features: list[torch.Tensor] = []
        hook = bench.model.encoder.register_forward_hook(lambda module, inputs, output: features.append(output))
        losses = list(bench.losses(bench.step_of_rows, normalizers).values())
        hook.remove()
        mtl_backward(losses, features=features[0], tasks_params=own, shared_params=shared, parallel_chunk_size=1)
        jac_to_grad(shared, PCGrad())
        bench.update()

    return step


def measure(args: argparse.Namespace, num_tasks: int, device: torch.device) -> dict[str, Any]:
    bench = Bench(args.encoder, HardSharing(), num_tasks, args.tokens, device)
    steps = make_steps(bench, args.methods)
    if args.torchjd:
        plain = Bench(
            args.encoder, HardSharing(), num_tasks, args.tokens, device, lazy=False
        )  # it takes dense gradients
        steps["torchjd's engine"] = make_torchjd_step(plain)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for round_number in range(args.rounds + 1):
        for name, step in steps.items():
            taken = timed(step, device)
            if round_number > 0:
                times[name].append(taken)
    return {name: summary(found, times["equal"]) for name, found in times.items()}


def peak_memory(args: argparse.Namespace, method: str, num_tasks: int) -> int:
    """Peak bytes of three steps, in a process of its own."""
    command = [
        sys.executable, __file__, "--encoder", args.encoder, "--tokens", str(args.tokens), "--device", args.device,
        "--methods", method, "--tasks", str(num_tasks), "--memory-of-one", "--force",
    ]  # fmt: skip
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(printed.split()[-1])


def print_peak_memory(args: argparse.Namespace, device: torch.device) -> None:
    bench = Bench(args.encoder, HardSharing(), args.tasks[0], args.tokens, device)
    (step,) = make_steps(bench, [args.methods[-1]]).values()
    for _ in range(3):
        step()
    print(peak_memory_bytes(device))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=ENCODERS, default="minilm")
    parser.add_argument("--methods", nargs="+", default=sorted(path.stem for path in CONF.glob("*.yaml")))
    parser.add_argument("--tasks", nargs="+", type=int, default=[1, 2, 4, 8, 16], metavar="K")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a step")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, besides the first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--torchjd", action="store_true", help="also torchjd's mtl_backward with PCGrad")
    parser.add_argument(
        "--plain-allocator", action="store_true", help="give freed memory back, as a program of torch's does"
    )
    parser.add_argument("--memory", nargs="*", metavar="METHOD", help="measure peak memory of these methods too")
    parser.add_argument("--memory-of-one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine too")
    args = parser.parse_args(arguments)
    args.methods = ["equal", *(name for name in args.methods if name != "equal")]
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    device = choose_device(args.device)
    if device.type == "cpu" and not args.plain_allocator:
        keep_freed_memory()  # as training does
    watch = watch_load(args.force)
    if args.memory_of_one:
        print_peak_memory(args, device)
        return
    figures: dict[str, Any] = {
        "encoder": args.encoder, "tokens": args.tokens, "rounds": args.rounds, "device": str(device),
        "precision": choose_precision("auto", device), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(), "load": watch.load, "tasks": {}, "memory": {},
    }  # fmt: skip
    for num_tasks in args.tasks:
        figures["tasks"][num_tasks] = measure(args, num_tasks, device)
        figures |= watch.end()
        for warning in watch.warnings():
            print(warning)
        show(figures, num_tasks)
        if args.memory is not None:
            equal = peak_memory(args, "equal", num_tasks)
            found = {name: peak_memory(args, name, num_tasks) / equal for name in args.memory}
            figures["memory"][num_tasks] = {"equal_bytes": equal, **found}
            print(f"peak memory at K = {num_tasks}: equal {equal / 2**20:,.0f} MiB; " + "; ".join(
                f"{name} {ratio:.2f} x" for name, ratio in found.items()
            ))  # fmt: skip
        if args.markdown:
            args.markdown.write_text(to_markdown(figures) + "\n", encoding="utf-8")
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def to_markdown(figures: dict[str, Any]) -> str:
    """A table of all methods (rows) and numbers of tasks (columns): the median ratio, and that of CPU time."""
    counts = sorted(figures["tasks"], key=int)
    names = {name: None for count in counts for name in figures["tasks"][count]}
    last = figures["tasks"][counts[-1]]
    lines = [
        "| weighting | " + " | ".join(f"K = {count}" for count in counts) + " |",
        "|---|" + "---|" * len(counts),
    ]
    for name in sorted(names, key=lambda found: last.get(found, {"ratio": math.inf})["ratio"]):
        cells = []
        for count in counts:
            row = figures["tasks"][count].get(name)
            cells.append("-" if row is None else f"{row['ratio']:.2f} ({row['cpu_ratio']:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(figures: dict[str, Any], num_tasks: int) -> None:
    found = figures["tasks"][num_tasks]
    table = Table(
        title=f"K = {num_tasks}, {figures['encoder']}, {figures['tokens']} tokens a step, {figures['device']}"
    )
    for column in ("weighting", "x equal", "quartiles", "CPU of one thread, x equal", "seconds"):
        table.add_column(column, justify="left" if column == "weighting" else "right")
    for name, row in sorted(found.items(), key=lambda item: item[1]["ratio"]):
        quartiles = f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
        table.add_row(name, f"{row['ratio']:.2f}", quartiles, f"{row['cpu_ratio']:.2f}", f"{row['seconds']:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
