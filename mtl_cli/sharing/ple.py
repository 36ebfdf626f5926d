"""Progressive layered extraction.

Shapes: K tasks, D hidden width, E experts that a gate sees. "..." stands for (1, N) where rows are packed and for
(B, T) where they are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from mtl_cli.encoders import Encoder, Layout
from mtl_cli.sharing.block_numbers import block_numbers, has_lowest
from mtl_cli.sharing.experts import bottlenecks, copies, mix, numbered
from mtl_cli.sharing.gated_experts import GATES_IN_LOWEST, GatedExperts
from mtl_cli.sharing.gates import CountsUse, GateLevel, GateLogits, TaskGates, at_level, learnt_by_gates, uses_of
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import part_of, real_tokens, run_each, split_dim
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, mark, with_hidden
from mtl_cli.types import PositiveInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class PLE(GatedExperts):
    """Experts that all tasks share beside experts of each task, in several levels.

    A level has a state for each task, x^k, and one that is shared, x^s. Task k's experts f^k_i look at x^k and the
    shared experts f^s_i at x^s. A gate a task mixes its own and the shared experts, and the shared gate mixes all
    experts, each by the state that it belongs to:

        x^k <- x^k + sum_i g^k_i(x^k) [f^k(x^k), f^s(x^s)]_i,
        x^s <- x^s + sum_i g^s_i(x^s) [f^1(x^1), ..., f^K(x^K), f^s(x^s)]_i,        g = softmax(W x + b).

    All states begin as the hidden state of the last block; a task's head sees x^k of the last level, which has no
    shared gate. Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
    Personalized Recommendations, RecSys 2020. Ours adds each level to its state, with experts that begin as 0, so that
    the start is the plain encoder (the paper's levels replace the state; its network begins at random).

    With "feed_forward", experts are bottlenecks (as in `MMoE`) and all levels stand behind the last block, in front of
    a final normalisation where the family has one. In the paper an example has labels of all tasks; here a row belongs
    to one task, but by the shared gate what it sees depends on all tasks' experts: it has up to K + 1 states, which is
    cheap as experts are small. Below the last level other tasks' rows then train a task's experts, which hence count
    as shared; experts of the last level, and gates of the last two, are the task's own. That is the paper, and the
    default (`shared_gate: all`). With `shared_gate: own` the shared gate sees the row's own task's experts and the
    shared ones, a gate for all tasks in which the places of the own experts mean each task's: two states, no cost
    that grows with K, and experts that only their task ever trains.

    With "block", experts are copies of whole blocks and a level is a block, of those in `blocks`: own and
    shared copies mixed by the task's gate on the block's input. A row has one state, which all experts of the next
    level see: each level is the paper's customized gate control (CGC), and there is no shared gate. A row costs as
    much as `num_shared_experts` + `num_task_experts` blocks.

    Attributes:
        experts: what is an expert.
        num_shared_experts: shared experts of a level.
        num_task_experts: experts of each task of a level.
        num_levels: levels ("feed_forward"); the paper has 2.
        shared_gate: which experts the shared gate sees ("feed_forward").
        blocks: numbers of the blocks that are levels, 0 the lowest, -1 the highest; None: all ("block").
        expert_width: outputs of a bottleneck's first layer ("feed_forward").
        expert_noise: noise in the weights of the copies of a block, in units of each matrix's standard deviation
            ("block"); the first shared expert is the block as it was.
        gate: of the tasks: "softmax", or "dselect_k", which ends with `num_selected` experts that count (see
            `DSelectKGate`); the shared gate is a softmax.
        gate_level: whether a gate looks at each token, at the mean of a row's tokens, or at nothing ("task").
        gate_lr_factor: how many times the encoder's learning rate the gates' is.
        num_selected: k of dselect_k.
        gamma: width of the smooth step of dselect_k.
        selector_entropy: weight of the selectors' entropy in the loss, as in `MMoE`.
        surplus_penalty: weight of what keeps the selectors from numbers that name no expert, as in `MMoE`.
    """

    num_shared_experts: PositiveInt = 2
    num_task_experts: PositiveInt = 1
    num_levels: PositiveInt = 2
    shared_gate: Literal["all", "own"] = "all"
    blocks: list[int] | None = field(default_factory=lambda: [-1])

    def gate_columns(self) -> list[str]:
        """Return the names of the experts that a task's gate sees."""
        return numbered("own", self.num_task_experts) + numbered("shared", self.num_shared_experts)

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name what is for the other kind of experts, and the shared gate where there is none."""
        found = super().warnings(task_names, num_blocks)
        if self.experts == "block":
            return found + self.without_effect("num_levels", "shared_gate", why="with experts=block")
        found += self.without_effect("blocks", why="with experts=feed_forward, which stand behind the last block")
        return found + (self.without_effect("shared_gate", why="with num_levels=1") if self.num_levels == 1 else [])

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse experts in blocks that do not exist."""
        if self.experts == "block":
            block_numbers(self.blocks, num_blocks)

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Below the lowest gates all is shared, if there is a block there."""
        blocks = self.blocks if self.experts == "block" else [-1]
        return GATES_IN_LOWEST if has_lowest(blocks, num_blocks) else None

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put experts and gates into the blocks, or behind the last."""
        blocks = encoder.require_blocks("sharing.experts")
        if self.experts == "feed_forward":
            levels = [self._level(encoder, task_names, number) for number in range(1, self.num_levels + 1)]
            blocks[-1] = Extraction(blocks[-1], levels, task_names)
            return
        for index in block_numbers(self.blocks, len(blocks)):
            own = TaskModules(
                {task: copies(blocks[index], self.num_task_experts, self.expert_noise) for task in task_names}
            )
            shared = copies(blocks[index], self.num_shared_experts - 1, self.expert_noise)
            blocks[index] = ControlledBlocks(blocks[index], shared, own, self.gates_for(encoder, task_names))

    def _level(self, encoder: Encoder, task_names: Sequence[str], number: int) -> ExtractionLevel:
        def experts(count: int) -> nn.ModuleList:
            return bottlenecks(count, encoder.hidden_size, self.expert_width)

        everyone = self.shared_gate == "all"
        own = {task: experts(self.num_task_experts) for task in task_names}
        serve_all = everyone and number < self.num_levels
        shared_gate = None
        if number < self.num_levels:
            width = None if self.gate_level == "task" else encoder.hidden_size
            own_names = numbered("own", self.num_task_experts)
            columns = [f"{task}_{name}" for task in task_names for name in own_names] if everyone else own_names
            columns = columns + numbered("shared", self.num_shared_experts)
            shared_gate = SharedGate(width, columns, self.gate_level)
            mark(shared_gate, lr_factor=self.gate_lr_factor, decay=False)
        return ExtractionLevel(
            experts(self.num_shared_experts),
            nn.ModuleDict(own) if serve_all else TaskModules(own),
            self.gates_for(encoder, task_names, serve_all=everyone and number < self.num_levels - 1),
            shared_gate,
        )

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return each task's mean weight of the experts, of its own gates and the shared ones, and their entropy."""
        if self.experts == "block":
            named = {f"block_{index}": uses[0] for index, uses in uses_of(model.encoder, TaskGates).items()}
            return learnt_by_gates(named, list(model.tasks))
        named = {}
        last = model.encoder.blocks[-1]
        assert isinstance(last, Extraction)
        for number, level in enumerate(last.levels, start=1):
            assert isinstance(level, ExtractionLevel)
            named[f"level_{number}"] = level.gates.use
            if level.shared_gate is not None:
                named[f"level_{number}_shared"] = level.shared_gate.use
        return learnt_by_gates(named, list(model.tasks))


class ControlledBlocks(Wrapper):
    """Copies of a block, some shared (the first of them the block as it was) and some of each task, mixed by gates.

    What a block returns besides hidden states (T5's position bias) is that of the first shared one.
    """

    def __init__(self, block: nn.Module, shared: nn.ModuleList, own: TaskModules, gates: TaskGates) -> None:
        super().__init__(block)
        self.shared = shared
        self.own = own
        self.gates = gates

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run all rows through the shared copies, and each task's rows through its own."""
        layout = self.layout()
        weights = self.gates(hidden, layout)
        output = self.wrapped(hidden, *args, **kwargs)
        own = [
            run_each({task: self._own_block(task, number) for task in layout.tasks}, hidden, args, kwargs)
            for number in range(self._num_own)
        ]
        shared = [output, *(block(hidden, *args, **kwargs) for block in self.shared)]
        return with_hidden(output, mix(weights, [hidden_of(found) for found in own + shared]))

    @property
    def _num_own(self) -> int:
        return len(next(iter(self.own.values())))  # type: ignore[arg-type]

    def _own_block(self, task: str, number: int) -> nn.Module:
        found = self.own[task]
        assert isinstance(found, nn.ModuleList)
        return found[number]


class Extraction(Wrapper):
    """The last block with the levels of extraction behind it."""

    def __init__(self, block: nn.Module, levels: Sequence[ExtractionLevel], task_names: Sequence[str]) -> None:
        super().__init__(block)
        self.levels = nn.ModuleList(levels)
        self._task_names = tuple(task_names)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the block does, with each row's state of its own task."""
        layout = self.layout()
        output = self.wrapped(hidden, *args, **kwargs)
        shared = hidden_of(output)
        if self.levels[0].serves_all:
            states = dict.fromkeys(self._task_names, shared)
        else:
            states = {task: part_of(shared, layout, task) for task in layout.tasks}
        for level in self.levels:
            states, shared = level(states, shared, layout)
        dim, _ = split_dim(layout)
        own = [states[task] for task in layout.tasks]
        return with_hidden(output, torch.cat(own, dim=dim))


class SharedGate(CountsUse):
    """The gate of the shared state, one for the rows of all tasks: a softmax.

    Args:
        hidden_size: D; None for logits that are parameters alone.
        columns: names of the E experts.
        level: what it looks at.
    """

    def __init__(self, hidden_size: int | None, columns: Sequence[str], level: GateLevel) -> None:
        super().__init__(columns)
        self.level = level
        self.logits = GateLogits(hidden_size, len(columns))

    def forward(self, shared: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return the weights, (..., E), in float32."""
        weights = at_level(self.logits(shared), layout, self.level).softmax(-1)
        if not self.training:
            for task in layout.tasks:
                self.use.add(task, real_tokens(part_of(weights, layout, task), layout.of(task)))
        return weights


class ExtractionLevel(nn.Module):
    """Shared experts, each task's experts and gate, and the shared gate of all levels but the last.

    Experts of tasks in a plain `nn.ModuleDict` see the rows of all tasks; so do gates that serve all.
    """

    def __init__(
        self, shared: nn.ModuleList, own: nn.ModuleDict, gates: TaskGates, shared_gate: SharedGate | None
    ) -> None:
        super().__init__()
        self.shared = shared
        self.own = own
        self.gates = gates
        self.shared_gate = shared_gate

    @property
    def serves_all(self) -> bool:
        """Whether a task's experts see the rows of all tasks."""
        return not isinstance(self.own, TaskModules)

    def forward(
        self, states: dict[str, torch.Tensor], shared: torch.Tensor, layout: Layout
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the states of the next level.

        Args:
            states: each task's state, (..., D): of all rows where a task's experts see all rows, else of its own rows
                for the tasks of the step.
            shared: the shared state of all rows, (..., D).
            layout: of all rows.
        """
        of_task = {task: [expert(state) for expert in self._experts(task)] for task, state in states.items()}
        of_all = [expert(shared) for expert in self.shared]
        if not isinstance(self.gates.of_task, TaskModules):  # the next level's experts see all rows as well
            new = {
                task: state + mix(self.gates.weights_of(task, state, layout), of_task[task] + of_all).to(state.dtype)
                for task, state in states.items()
            }
        else:
            new = {task: self._own_state(task, states[task], of_task[task], of_all, layout) for task in layout.tasks}
        if self.shared_gate is None:
            return new, shared
        weights = self.shared_gate(shared, layout)
        if self.serves_all:
            seen = [output for outputs in of_task.values() for output in outputs]
        else:
            dim, _ = split_dim(layout)
            by_place = zip(*(of_task[task] for task in layout.tasks), strict=True)
            seen = [torch.cat(outputs, dim=dim) for outputs in by_place]
        return new, shared + mix(weights, seen + of_all).to(shared.dtype)

    def _own_state(
        self, task: str, state: torch.Tensor, of_task: list[torch.Tensor], of_all: list[torch.Tensor], layout: Layout
    ) -> torch.Tensor:
        """The next state of a task's own rows."""
        if self.serves_all:
            state = part_of(state, layout, task)
            of_task = [part_of(output, layout, task) for output in of_task]
        weights = self.gates.weights_of(task, state, layout.of(task))
        change = mix(weights, of_task + [part_of(output, layout, task) for output in of_all])
        return state + change.to(state.dtype)

    def _experts(self, task: str) -> nn.ModuleList:
        found = self.own[task]
        assert isinstance(found, nn.ModuleList)
        return found
