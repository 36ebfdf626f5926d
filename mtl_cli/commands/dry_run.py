"""`mtl train dry_run=true`: what a run would train and what it would cost, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mtl_cli.build import instantiate
from mtl_cli.data import EncodedSplit, TaskData
from mtl_cli.distributed.launched import launched
from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.sampling import StepStream, count_steps_per_epoch
from mtl_cli.sharing import HardSharing
from mtl_cli.training.batch_tokens import bytes_of_step, in_full_swing
from mtl_cli.training.live_memory import LiveMemory
from mtl_cli.training.operation_counter import operation_counter
from mtl_cli.types import Step
from mtl_cli.weighting import Equal, Weighting

_BYTES_TRAINED, _BYTES_FROZEN = 16, 4
"""Of a parameter in float32: itself, its gradient and AdamW's two moments; itself alone."""

# Steps that are looked at for what a step holds on average.
_SAMPLED_STEPS = 50

# What a process takes besides what is estimated.
_BESIDES_ON_CPU = (
    "libraries, machine code that oneDNN makes for new shapes, free pieces of the heap. Measured with MiniLM in bf16 "
    "and steps of 760 tokens, for which 0.44 GB are estimated: 1.0 GB in all after the first step, 2.4 GB after 500 "
    "(docs/step_cost.md)"
)
_BESIDES_ELSEWHERE = "libraries, the device's context, free pieces of its allocator's memory. How much was not measured"

_COLUMNS = ("part", "parameters", "memory", "")


@dataclass(frozen=True)
class Cost:
    """What a model needs.

    Attributes:
        parts: parameters of each part: "shared", then each task, then "frozen".
        operations: multiplications and additions of matrix products in the forward and backward pass of one step.
        buffers: bytes of what the model keeps besides parameters.
        activations: bytes that the forward pass of a token leaves for the backward pass, on average.
    """

    parts: Mapping[str, int]
    operations: int
    buffers: int = 0
    activations: float = 0.0

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    @property
    def num_bytes(self) -> int:
        """Of weights, gradients, AdamW's moments and buffers; activations come on top."""
        frozen = self.parts.get("frozen", 0)
        return _BYTES_TRAINED * (self.num_parameters - frozen) + _BYTES_FROZEN * frozen + self.buffers

    def with_activations(self, tokens: float) -> float:
        """Bytes of all, with so many tokens at once."""
        return self.num_bytes + self.activations * tokens


def parts_of(model: MultiTaskModel) -> dict[str, int]:
    """Count the parameters of each part: shared, each task's own, frozen; parts without any are left out."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    partition = model.parameter_partition()
    counts = dict.fromkeys(["shared", *model.tasks, "frozen"], 0)
    for name, part in partition.items():
        counts[part] += parameters[name].numel()
    counts["frozen"] = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {part: count for part, count in counts.items() if count}


def operations_of(model: MultiTaskModel, step: Step) -> int:
    """Count the operations of the matrix products in one training step."""
    return measure_step(model, step)[0]


def measure_step(model: MultiTaskModel, step: Step, precision: Literal["bf16", "fp32"] = "fp32") -> tuple[int, int]:
    """Run one training step without an update; return its operations in matrix products, and bytes of activations.

    Activations are what the forward pass leaves for the backward pass.
    """
    device = next(model.parameters()).device
    losses = Losses(model.train(), precision, device)
    with LiveMemory() as memory, operation_counter() as counter:
        found = losses(step, losses.normalizers([step], list(step)))
        activations = memory.now
        losses.objective(torch.stack(list(found.values()))).backward()
        if penalties := model.sharing.penalties(model):
            torch.stack(list(penalties.values())).sum().backward()
    model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()), activations


def bytes_of_weighting(
    model: MultiTaskModel, weighting: Weighting, step: Step, precision: Literal["bf16", "fp32"], *, micro_batches: bool
) -> int:
    """Return how many bytes more a training step takes at its height under this weighting than under equal weights.

    They are those of each task's gradients, as far as the method keeps them, and of what it remembers.

    Args:
        model: what is trained; its gradients are gone afterwards.
        weighting: a new one.
        step: the rows.
        precision: of forward passes.
        micro_batches: whether the run cuts its steps into several, over which the tasks' gradients are kept.
    """
    if isinstance(weighting, Equal):
        return 0
    losses = Losses(model.train(), precision, next(model.parameters()).device)
    heights = []
    for one in (weighting, Equal()):
        one.start(tuple(model.tasks))
        engine = GradientEngine(model, one, losses)
        with in_full_swing(one):
            heights.append(bytes_of_step(engine, [[step] * (2 if micro_batches else 1)] * one.num_batches))
        model.zero_grad(set_to_none=True)
    return max(0, heights[0] - heights[1])


@dataclass(frozen=True)
class StepSizes:
    """What the first steps of a run hold.

    Attributes:
        rows: mean rows of a step.
        tokens: mean tokens.
        padded: share of what is computed that is padding; 0 where rows are packed.
        longest_row: tokens of the longest row of all.
    """

    rows: float
    tokens: float
    padded: float
    longest_row: int

    @classmethod
    def of_first(
        cls,
        stream: StepStream,
        splits: Mapping[str, EncodedSplit],
        num_steps: int,
        num_slots: Callable[[np.ndarray], int],
    ) -> StepSizes:
        """Draw the first steps of a run, whose stream this is, and look at their lengths.

        Args:
            stream: of the run.
            splits: that it draws from.
            num_steps: how many.
            num_slots: places that are computed for rows of such lengths, padding included.
        """
        rows, tokens, slots = [], [], []
        for number in range(num_steps):
            lengths = np.concatenate([splits[name].lengths[r] for name, r in stream.next_step(number).items()])
            rows.append(len(lengths))
            tokens.append(int(lengths.sum()))
            slots.append(num_slots(lengths))
        longest_row = max(int(split.lengths.max()) for split in splits.values())
        return cls(float(np.mean(rows)), float(np.mean(tokens)), 1 - sum(tokens) / sum(slots), longest_row)

    def at_once(self, batch_tokens: int | str | None) -> float:
        """Tokens of an average step that go through the model at once, where a longer row than the bound goes alone."""
        if not isinstance(batch_tokens, int):
            return self.tokens
        return min(self.tokens, max(batch_tokens * (1 - self.padded), self.longest_row))  # padding counts in the bound


def cuts_of_step(trainer: Mapping[str, Any], num_processes: int) -> str | None:
    """Say by what a step is cut whose activations are estimated as of one piece; None: by nothing.

    Args:
        trainer: settings of the run.
        num_processes: that train it together.
    """
    cuts = []
    if (num_parts := trainer.get("num_micro_batches", 1)) > 1:
        cuts.append(f"trainer.num_micro_batches={num_parts} cuts it into {num_parts} parts")
    if trainer.get("batch_tokens") == "auto":
        cuts.append("trainer.batch_tokens=auto cuts it where it does not fit")
    if num_processes > 1:
        cuts.append(f"{num_processes} processes share its rows")
    return f"the activations are those of a whole step, but {', and '.join(cuts)}" if cuts else None


def compare_with_hard_sharing(
    config: Mapping[str, Any],
    encoder: Encoder,
    data: Mapping[str, TaskData],
    build: Callable[[Encoder, Any], MultiTaskModel],
) -> None:
    """Print the parts of the model that `config` describes, its memory and operations, against hard sharing.

    Args:
        config: of the run.
        encoder: as it was loaded; it is not changed.
        data: of each task.
        build: from an encoder and a sharing strategy to the model.
    """
    splits = {name: task_data.splits["train"] for name, task_data in data.items()}
    sampler = instantiate(config["sampler"])
    stream = StepStream(sampler, splits, seed=config["seed"], total_steps=2)
    step = stream.collate(stream.labelled([stream.next_step(0)])[0])
    steps = count_steps_per_epoch(sampler, splits, seed=config["seed"])
    fresh = StepStream(sampler, splits, seed=config["seed"], total_steps=steps)
    device = choose_device(config["trainer"].get("device", "auto"))
    precision = choose_precision(config["trainer"].get("precision", "auto"), device)
    of_step = sum(batch.num_tokens for batch in step.values())
    costs = {}
    chosen = instantiate(config["sharing"])
    at_once = config["trainer"].get("batch_tokens")
    weighting = instantiate(config["weighting"])
    kept = 0
    for name, strategy in (("run", chosen), ("hard", HardSharing())):
        model = build(deepcopy(encoder), strategy)
        if config["trainer"].get("activation_checkpointing"):
            model.encoder.checkpoint_activations()
        buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
        operations, activations = measure_step(model, step, precision)
        costs[name] = Cost(parts_of(model), operations, buffers, activations / of_step)
        if name == "run":
            cut = isinstance(at_once, int) or config["trainer"].get("num_micro_batches", 1) > 1
            kept = bytes_of_weighting(model, weighting, step, precision, micro_batches=cut)
            divided = config["trainer"].get("parallelism") == "fsdp" and launched().world_size > 1
            num_slots = partial(model.encoder.num_slots, divided=divided)
            sizes = StepSizes.of_first(fresh, splits, min(steps, _SAMPLED_STEPS), num_slots)
    run, hard = costs["run"], costs["hard"]
    tokens = sizes.at_once(at_once)
    bounded = tokens < sizes.tokens
    table = Table(title=f"{type(chosen).__name__}: what would be trained", title_justify="left", show_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("part", "") else "right")
    for part, count in run.parts.items():
        size = count * (_BYTES_FROZEN if part == "frozen" else _BYTES_TRAINED)
        table.add_row(part, f"{count:,}", _mebibytes(size), _meaning(part))
    table.add_section()
    table.add_row("all", f"{run.num_parameters:,}", _mebibytes(run.num_bytes), "weights, gradients, moments")
    table.add_row(
        "x hard sharing",
        f"{run.num_parameters / hard.num_parameters:.2f}",
        f"{run.num_bytes / hard.num_bytes:.2f}",
        f"operations of a step: {run.operations / hard.operations:.2f}",
    )
    table.add_section()
    of_run, of_hard = (cost.with_activations(tokens) for cost in (run, hard))
    table.add_row("with activations", "", _mebibytes(of_run), f"of {tokens:,.0f} tokens at once")
    table.add_row("x hard sharing", "", f"{of_run / of_hard:.2f}", "")
    of_weighting = ""
    if kept:
        name = type(weighting).__name__
        table.add_section()
        table.add_row(f"with {name}", "", _mebibytes(of_run + kept), "tasks' gradients that it keeps")
        of_weighting = f", {_mebibytes(kept)} for gradients of tasks that {name} keeps"
    console = Console()
    console.print(table)
    padding = f", {sizes.padded:.0%} padding on top" if not encoder.packed else ""
    cuts = None if bounded else cuts_of_step(config["trainer"], launched().world_size)
    lines = (
        f"one epoch: {steps:,} steps; a step: {sizes.rows:,.0f} rows, {sizes.tokens:,.0f} tokens on average{padding}, "
        f"{run.operations / of_step * sizes.tokens / 1e9:,.1f} G operations in matrix products (forward and backward), "
        f"on {device} in {precision}",
        f"estimated memory: {_mebibytes(run.num_bytes)} for weights, gradients and AdamW's moments, and "
        f"{_mebibytes(run.activations * tokens)} for the activations of {tokens:,.0f} tokens at once "
        f"({run.activations / 1024:,.0f} KiB a token){of_weighting}, together {_mebibytes(of_run + kept)}",
        *([cuts] if cuts else []),
        f"not counted: {_BESIDES_ON_CPU if device.type == 'cpu' else _BESIDES_ELSEWHERE}",
        "trainer.batch_tokens bounds the tokens at once; auto finds what fits. Operations leave out decompositions "
        "(sharing=soft_trace_norm). Nothing was trained.",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _meaning(part: str) -> str:
    if part == "shared":
        return "trained by several tasks"
    return "not trained" if part == "frozen" else "trained by this task alone"
