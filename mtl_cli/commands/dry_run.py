"""`mtl train dry_run=true`: what a run would train and what it would cost, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mtl_cli.build import instantiate
from mtl_cli.data import TaskData
from mtl_cli.encoders import Encoder
from mtl_cli.gradients import Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.sampling import StepStream, count_steps_per_epoch
from mtl_cli.sharing import HardSharing
from mtl_cli.types import Step

_BYTES_TRAINED, _BYTES_FROZEN = 16, 4
"""Of a parameter in float32: itself, its gradient and AdamW's two moments; itself alone."""

_COLUMNS = ("part", "parameters", "memory", "")


@dataclass(frozen=True)
class Cost:
    """What a model needs.

    Attributes:
        parts: parameters of each part: "shared", then each task, then "frozen".
        buffers: bytes of what the model keeps besides parameters.
        operations: multiplications and additions of matrix products in the forward and backward pass of one step.
    """

    parts: Mapping[str, int]
    operations: int
    buffers: int = 0

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    @property
    def num_bytes(self) -> int:
        """Of weights, gradients, AdamW's moments and buffers; activations come on top."""
        frozen = self.parts.get("frozen", 0)
        return _BYTES_TRAINED * (self.num_parameters - frozen) + _BYTES_FROZEN * frozen + self.buffers


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
    device = next(model.parameters()).device
    losses = Losses(model.train(), "fp32", device)
    with FlopCounterMode(display=False) as counter:
        found = losses(step, losses.normalizers([step], list(step)))
        losses.objective(torch.stack(list(found.values()))).backward()
        if penalties := model.sharing.penalties(model):
            torch.stack(list(penalties.values())).sum().backward()
    model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


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
    num_rows, tokens = (sum(getattr(batch, key) for batch in step.values()) for key in ("num_rows", "num_tokens"))
    costs = {}
    chosen = instantiate(config["sharing"])
    for name, strategy in (("run", chosen), ("hard", HardSharing())):
        model = build(deepcopy(encoder), strategy)
        buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
        costs[name] = Cost(parts_of(model), operations_of(model, step), buffers)
    run, hard = costs["run"], costs["hard"]
    table = Table(title=f"{type(chosen).__name__}: what would be trained", title_justify="left", show_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("part", "") else "right")
    for part, count in run.parts.items():
        size = count * (_BYTES_FROZEN if part == "frozen" else _BYTES_TRAINED)
        table.add_row(part, f"{count:,}", _mebibytes(size), _meaning(part))
    table.add_section()
    table.add_row("all", f"{run.num_parameters:,}", _mebibytes(run.num_bytes), "")
    table.add_row(
        "x hard sharing",
        f"{run.num_parameters / hard.num_parameters:.2f}",
        f"{run.num_bytes / hard.num_bytes:.2f}",
        f"operations of a step: {run.operations / hard.operations:.2f}",
    )
    console = Console()
    console.print(table)
    device = choose_device(config["trainer"].get("device", "auto"))
    steps = count_steps_per_epoch(sampler, splits, seed=config["seed"])
    console.print(
        f"one epoch: {steps:,} steps; the first step: {num_rows} rows, {tokens:,} tokens, "
        f"{run.operations / 1e9:,.1f} G operations in matrix products (forward and backward), "
        f"on {device} in {choose_precision(config['trainer'].get('precision', 'auto'), device)}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        "memory: weights, gradients and AdamW's moments in float32; activations come on top. Operations leave out "
        "decompositions (sharing=soft_trace_norm). Nothing was trained.",
        highlight=False,
        soft_wrap=True,
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _meaning(part: str) -> str:
    if part == "shared":
        return "trained by several tasks"
    return "not trained" if part == "frozen" else "trained by this task alone"
