"""Linear layers of a block with low-rank updates of their weights, which the tasks have for themselves or share.

Shapes: N tokens of all rows, B rows, T tokens of the longest, D inputs and O outputs of a layer, R rank, I
up-projections; hidden states are (1, N, D) or (B, T, D).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from mtl_cli.encoders import Encoder, Layout
from mtl_cli.encoders.dropout import FastDropout
from mtl_cli.encoders.sites import SITE_NAMES, SiteName, known_sites
from mtl_cli.sharing.rows import apply_by_task
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, mark, replace_module
from mtl_cli.types import UserError

_log = logging.getLogger(__name__)

RankScaling = Literal["standard", "sqrt"]

USUAL_TARGETS: tuple[SiteName, ...] = ("query", "value")
"""What Hu et al. (ICLR 2022) adapt."""


class LowRank(nn.Module):
    """up(down(x)), a matrix of rank R; zero at first, because `up` is.

    `down` begins as the official code of LoRA has it (He et al.'s uniform distribution with a = sqrt(5), which is
    PyTorch's for a linear layer); the paper's text has a normal distribution.
    """

    def __init__(self, num_inputs: int, num_outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(num_inputs, rank, bias=False)
        self.up = zero_linear(rank, num_outputs)

    def forward(self, inputs: torch.Tensor, scaling: float) -> torch.Tensor:
        """Return what is added to a layer's outputs (..., O) for inputs (..., D)."""
        added: torch.Tensor = self.up(self.down(inputs) * scaling)
        return added

    def norm(self) -> torch.Tensor:
        """Return the Frobenius norm of the matrix, without forming it: ||B A||^2 = <B' B, A A'>."""
        up_OR, down_RD = self.up.weight.float(), self.down.weight.float()
        return ((up_OR.T @ up_OR) * (down_RD @ down_RD.T)).sum().clamp(min=0.0).sqrt()


def zero_linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """Return a linear layer without a bias whose outputs are zero."""
    layer = nn.Linear(num_inputs, num_outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class LowRankUpdate(nn.Module):
    """What is added to the outputs of a layer, or of a part of one."""

    def forward(self, inputs: torch.Tensor, layout: Layout, scaling: float) -> torch.Tensor:
        """Return what is added, (..., O), for the layer's inputs, (..., D), of the rows of a layout.

        It is multiplied by `scaling` where it is narrowest.
        """
        raise NotImplementedError


class OneForAll(LowRankUpdate):
    """One low-rank matrix for all rows."""

    def __init__(self, num_inputs: int, num_outputs: int, rank: int) -> None:
        super().__init__()
        self.matrix = LowRank(num_inputs, num_outputs, rank)

    def matrix_of(self, task: str) -> LowRank:
        """Return the matrix, whatever the task."""
        return self.matrix

    def forward(self, inputs: torch.Tensor, layout: Layout, scaling: float) -> torch.Tensor:
        """Use the one matrix for the rows of all tasks at once."""
        added: torch.Tensor = self.matrix(inputs, scaling)
        return added


class OneForEach(LowRankUpdate):
    """A low-rank matrix a task."""

    def __init__(self, num_inputs: int, num_outputs: int, rank: int, task_names: Sequence[str]) -> None:
        super().__init__()
        self.of_task = TaskModules({task: LowRank(num_inputs, num_outputs, rank) for task in task_names})

    def matrix_of(self, task: str) -> LowRank:
        """Return the matrix of a task."""
        own: nn.Module = self.of_task[task]
        assert isinstance(own, LowRank)
        return own

    def forward(self, inputs: torch.Tensor, layout: Layout, scaling: float) -> torch.Tensor:
        """Use each task's matrix for its rows."""
        return apply_by_task(lambda task, part: self.matrix_of(task)(part, scaling), inputs, layout)


class TaskTransform(nn.Module):
    """What a task has of its own between a shared down-projection and shared up-projections.

    Attributes:
        matrix: Lambda, (R, R); the identity at first.
        mixing_logits: w, (I,). They differ from the start: alike, they would train up-projections that stay alike.
    """

    def __init__(self, rank: int, num_up_projections: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(rank))
        bound = 1 / math.sqrt(num_up_projections)  # as in the official code: He et al.'s for a = sqrt(5) and fan-in I
        self.mixing_logits = nn.Parameter(torch.empty(num_up_projections).uniform_(-bound, bound))
        mark(self, decay=False)  # weight decay would draw Lambda away from the identity, to zero

    def mixing(self, temperature: float) -> torch.Tensor:
        """Return how much of each up-projection the task takes, (I,); they sum to 1."""
        return (self.mixing_logits.float() / temperature).softmax(0)


class MixedUpProjections(LowRankUpdate):
    """sum_i mixing_ti B_i Lambda_t A x: A and all B_i are shared, the mixing and Lambda_t the tasks' own.

    The mixing is done in front of the up-projections, so that B_1 .. B_I side by side are one linear layer, which sees
    the tokens of all tasks at once.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        rank: int,
        task_names: Sequence[str],
        num_up_projections: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.down = nn.Linear(num_inputs, rank, bias=False)
        self.up = zero_linear(num_up_projections * rank, num_outputs)
        self.of_task = TaskModules({task: TaskTransform(rank, num_up_projections) for task in task_names})

    def forward(self, inputs: torch.Tensor, layout: Layout, scaling: float) -> torch.Tensor:
        """Project the tokens of all tasks down and up at once; between the two, each task's go their own way."""
        added: torch.Tensor = self.up(apply_by_task(self._transform, self.down(inputs) * scaling, layout))
        return added

    def own(self, task: str) -> TaskTransform:
        """Return what a task has of its own."""
        own: nn.Module = self.of_task[task]
        assert isinstance(own, TaskTransform)
        return own

    def mixing(self, task: str) -> torch.Tensor:
        """Return how much of each up-projection a task takes, (I,)."""
        return self.own(task).mixing(self.temperature)

    def _transform(self, task: str, down: torch.Tensor) -> torch.Tensor:
        """Return mixing_ti Lambda_t z for each i, (..., I R), of one task's z, (..., R), by a single product."""
        matrices = self.mixing(task)[:, None, None] * self.own(task).matrix
        return linear(down, matrices.flatten(0, 1).to(down.dtype))


class LowRankLayer(Wrapper):
    """A linear layer whose outputs, or parts of them, get low-rank updates.

    Attributes:
        updates: by the name of the site: what is added.
    """

    def __init__(self, layer: nn.Module, scaling: float, dropout: float) -> None:
        super().__init__(layer)
        self.scaling = scaling
        self.dropout = FastDropout(dropout)
        self.updates = nn.ModuleDict()
        self._outputs: dict[str, slice] = {}

    def add(self, name: str, outputs: slice, update: LowRankUpdate) -> None:
        """Add an update of some of the layer's outputs; no two overlap."""
        self.updates[name] = update
        self._outputs[name] = outputs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the layer and its updates for all rows; queries and values of one layer see the same dropout."""
        outputs: torch.Tensor = self.wrapped(inputs)
        layout, inputs = self.layout(), self.dropout(inputs)
        parts, done = [], 0
        for name, place in sorted(self._outputs.items(), key=lambda item: item[1].start):
            added = self.updates[name](inputs, layout, self.scaling)
            parts += [outputs[..., done : place.start], outputs[..., place] + added.to(outputs.dtype)]
            done = place.stop
        parts.append(outputs[..., done:])
        kept = [part for part in parts if part.shape[-1]]
        return torch.cat(kept, dim=-1) if len(kept) > 1 else kept[0]


def check_targets(targets: Sequence[str] | None) -> None:
    """Refuse names that no family has, and an empty list.

    Raises:
        UserError: see above.
    """
    if targets is None:
        return
    allowed = f"allowed: some of {', '.join(SITE_NAMES)}, each once, or null for queries and values"
    unknown = [name for name in targets if name not in SITE_NAMES]
    if unknown:
        raise UserError(f"sharing.targets: found {unknown[0]!r}; {allowed}")
    if not targets or len(set(targets)) < len(targets):
        raise UserError(f"sharing.targets: found {list(targets)}; {allowed}")


def add_low_rank_updates(
    encoder: Encoder,
    targets: Sequence[SiteName] | None,
    make: Callable[[int, int], LowRankUpdate],
    *,
    scaling: float,
    dropout: float,
    train_encoder: bool,
) -> None:
    """Put updates into the blocks of an encoder.

    Args:
        encoder: changed in place.
        targets: which layers of each block; None: which of the usual ones the family has.
        make: from the numbers of inputs and outputs to a new update.
        scaling: what an update is multiplied by.
        dropout: share of an update's inputs set to zero in training.
        train_encoder: whether what the encoder has so far goes on being trained.

    Raises:
        UserError: the encoder has no blocks, or they no such layers.
    """
    blocks = encoder.require_blocks("sharing.targets")
    if targets is None:
        targets = _usual_targets(encoder.family)
    if not train_encoder:
        encoder.requires_grad_(False)
    for block in blocks:
        for name in targets:
            for site in encoder.sites(block, name, "sharing.targets"):
                layer = block.get_submodule(site.path)
                if not isinstance(layer, LowRankLayer):
                    layer = LowRankLayer(layer, scaling, dropout)
                    replace_module(block, site.path, layer)
                num_inputs, num_outputs = _size(layer.wrapped)
                outputs = site.outputs(num_outputs)
                layer.add(name, outputs, make(num_inputs, outputs.stop - outputs.start))


def _usual_targets(family: str) -> tuple[SiteName, ...]:
    known = known_sites(family)
    found = tuple(name for name in USUAL_TARGETS if name in known)
    if not found:
        return USUAL_TARGETS  # refused by name below
    if found != USUAL_TARGETS:
        _log.info(
            "sharing.targets: %s instead of %s, because in a '%s' model the other layers also serve relative "
            "positions, which belong to no task.",
            " and ".join(found),
            " and ".join(USUAL_TARGETS),
            family,
        )
    return found


def _size(layer: nn.Module) -> tuple[int, int]:
    """Numbers of inputs and outputs of a linear layer; GPT-2's keeps its weight the other way round."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    first, second = weight.shape
    return (first, second) if isinstance(layer, Conv1D) else (second, first)


def scaling_of(alpha: float, rank: int, rank_scaling: RankScaling) -> float:
    """Return what a low-rank matrix is multiplied by."""
    return alpha / (rank if rank_scaling == "standard" else math.sqrt(rank))


def named_updates(block: nn.Module) -> Iterator[tuple[str, LowRankLayer, LowRankUpdate]]:
    """Yield the updates inside a block: a name, the layer, the update. Names differ within a block."""
    layers = [(path, module) for path, module in block.named_modules() if isinstance(module, LowRankLayer)]
    names = [name for _, layer in layers for name in layer.updates]
    for path, layer in layers:
        for name, update in layer.updates.items():
            assert isinstance(update, LowRankUpdate)
            # T5's gated feed-forward part has two layers of one name.
            yield name if names.count(name) == 1 else f"{name}_{path.rpartition('.')[2]}", layer, update
