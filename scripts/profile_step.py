"""Where the time of a training step goes, by kind of work: python scripts/profile_step.py [--dropout 0.1] [--json FILE]

A step holds rows of two tasks with the lengths of short texts and of sentence pairs, as the sampler makes them up. Each
operation counts by its own time, without what it calls; a backward operation belongs to the kind of its forward one.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_steps import ENCODERS, Bench, watch_load
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mtl_cli.encoders import attention, dropout, product_attention
from mtl_cli.sampling.row_stream import RowStream
from mtl_cli.sharing import HardSharing
from mtl_cli.training import AdamW
from mtl_cli.training.allocator import keep_freed_memory
from mtl_cli.training.clipping import clip_gradients
from mtl_cli.types import Batch
from mtl_cli.weighting import Equal

KINDS = (
    "matrix products",
    "attention",
    "dropout",
    "casts and copies",
    "embedding gradient",
    "optimizer",
    "gradient norm",
    "normalisation and activation",
    "other",
)
# Tokens of a row: median and spread of a log-normal distribution, by eye those of sst2's phrases and of snli's pairs.
ROW_LENGTHS = {"phrases": (11.0, 0.6), "pairs": (26.0, 0.35)}

_RANGE = "kind: "
_BY_NAME = (
    ("embedding gradient", ("EmbeddingBackward", "aten::embedding_dense_backward", "RowGradient")),
    ("optimizer", ("Optimizer.step", "Optimizer.zero_grad")),
    ("normalisation and activation", ("LayerNorm", "layer_norm", "Gelu", "gelu")),
    ("casts and copies", ("aten::copy_", "aten::_to_copy", "ToCopyBackward", "aten::cat", "aten::index_select")),
    ("matrix products", ("aten::addmm", "aten::mm", "aten::linear", "AddmmBackward", "aten::bmm", "aten::matmul")),
)


def make_rows(num_tokens: int, seed: int) -> dict[str, Batch]:
    """One step of both tasks, half of the tokens each, in length buckets."""
    generator = np.random.default_rng(seed)
    step = {}
    for task, (median, spread) in ROW_LENGTHS.items():
        lengths = np.clip(np.exp(generator.normal(np.log(median), spread, 20_000)), 4, 128).astype(np.int64)
        stream = RowStream(lengths, task=task, seed=seed, batch_size=num_tokens, max_tokens=num_tokens // 2)
        rows = stream.next_batch()
        of_rows = lengths[rows]
        step[task] = Batch(
            # Words are as rare as in texts: half of the tokens are of some hundred kinds.
            input_ids_N=torch.from_numpy((1000 + 29_000 * generator.random(int(of_rows.sum())) ** 11).astype(np.int64)),
            lengths_B=torch.from_numpy(of_rows),
            token_type_ids_N=None,
            positions_M=None,
            labels_M=torch.from_numpy(generator.integers(0, 3, len(rows))),
            rows_B=rows,
        )
    return step


@contextmanager
def ranges() -> Iterator[None]:
    """Inside, attention and dropout run in ranges that the profile shows."""

    def ranged(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(_RANGE + kind):
                return function(*args, **kwargs)

        return call

    table, name = ALL_ATTENTION_FUNCTIONS, attention.PACKED_ATTENTION
    functions = [(dropout, "fast_dropout"), (product_attention, "draw_drops"), (product_attention, "drop")]
    kept = [getattr(module, function) for module, function in functions]
    table.register(name, ranged("attention", attention.packed_attention))
    for (module, function), original in zip(functions, kept, strict=True):
        setattr(module, function, ranged("dropout", original))
    try:
        yield
    finally:
        table.register(name, attention.packed_attention)
        for (module, function), original in zip(functions, kept, strict=True):
            setattr(module, function, original)


def kind_of(event: Any, kind_of_sequence: dict[int, str]) -> str:
    """The innermost range or known name around an event; of a backward operation, that of its forward one."""
    at = event
    if event.cpu_parent is not None and event.cpu_parent.name == "aten::addmm":  # copies the bias into the product
        return "matrix products"
    while at is not None:
        if at.name.startswith(_RANGE):
            return str(at.name.removeprefix(_RANGE))
        if "Backward" in at.name and at.sequence_nr in kind_of_sequence:
            return kind_of_sequence[at.sequence_nr]
        for kind, names in _BY_NAME:
            if any(part in at.name for part in names):
                return kind
        at = at.cpu_parent
    return "other"


def shares(events: list[Any]) -> Counter[str]:
    """Microseconds of each kind."""
    kind_of_sequence: dict[int, str] = {}
    for event in events:
        if event.sequence_nr < 0 or "Backward" in event.name:
            continue
        at = event
        while at is not None and not at.name.startswith(_RANGE):
            at = at.cpu_parent
        if at is not None:
            kind_of_sequence[event.sequence_nr] = at.name.removeprefix(_RANGE)
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for event in events:
        found[kind_of(event, kind_of_sequence)] += event.self_cpu_time_total
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", choices=ENCODERS, default="minilm")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--ops", type=int, default=0, help="also print so many single operations")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--force", action="store_true", help="also on a busy machine")
    args = parser.parse_args()
    load = watch_load(args.force).load

    bench = Bench(args.encoder, HardSharing(), len(ROW_LENGTHS), args.tokens, torch.device("cpu"), lazy=False)
    for module in bench.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = args.dropout
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = args.dropout
    names = list(bench.model.tasks)
    steps = [dict(zip(names, make_rows(args.tokens, seed).values(), strict=True)) for seed in range(args.steps)]
    engine = bench.engine(Equal())
    optimizer = AdamW(lr=1e-5).build(bench.model, lazy=True)
    keep_freed_memory()

    def run() -> None:
        for step in steps:
            with record_function(_RANGE + "optimizer"):
                optimizer.catch_up(bench.model.encoder.ids_read([step]))
            engine.step([[step]])
            with record_function(_RANGE + "gradient norm"):
                clip_gradients(optimizer, bench.parameters, 1.0)
            with record_function(_RANGE + "optimizer"):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            engine.after_update()

    with ranges():
        run()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
    found = shares(profiler.events())
    total = sum(found.values())
    num_tokens = sum(batch.num_tokens for step in steps for batch in step.values())
    print(
        f"{args.encoder}, {num_tokens // args.steps} tokens a step, dropout {args.dropout}, {bench.precision}, "
        f"{torch.get_num_threads()} threads, load {load:.2f}"
    )
    for kind, microseconds in found.most_common():
        print(f"{kind:30} {microseconds / total:6.1%} {microseconds / args.steps / 1000:8.1f} ms a step")
    print(
        f"{'all':30} {'':6} {total / args.steps / 1000:8.1f} ms a step, {num_tokens / total * 1e6:,.0f} tokens a second"
    )
    if args.ops:
        print(
            profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=args.ops, max_name_column_width=45)
        )
    if args.json:
        record = {
            "settings": vars(args) | {"json": str(args.json), "precision": bench.precision},
            "microseconds": found,
        }
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
