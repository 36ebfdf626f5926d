"""What strategies have in common whose tasks mix experts by gates of their own.

Shapes: D hidden width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.gates import GateLevel, GateName, TaskGates, check_num_selected, forget_uses, make_gate
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.types import NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel

GATES_IN_LOWEST = "each task has a gate of its own in the lowest block already (sharing.blocks)"
"""Why tasks have no representation in common that is the same for all of them."""


@dataclass(kw_only=True)
class GatedExperts(SharingStrategy):
    """Base of strategies with experts and a gate a task.

    Attributes:
        experts: what is an expert: a copy of a block, or a bottleneck behind a feed-forward layer.
        expert_width: outputs of a bottleneck's first layer ("feed_forward").
        expert_noise: noise in the weights of the copies of a block, in units of each matrix's standard deviation
            ("block").
        gate: "softmax" or "dselect_k".
        gate_level: what a gate looks at: a token, the mean of a row's tokens, or nothing ("task").
        gate_lr_factor: how many times the encoder's learning rate the gates' is.
        num_selected: k of dselect_k, as the rest (see `DSelectKGate`).
        gamma: width of the smooth step.
        selector_entropy: weight of the selectors' entropy in the loss.
        surplus_penalty: weight of what keeps the selectors from numbers that name no expert.
    """

    experts: Literal["block", "feed_forward"] = "feed_forward"
    expert_width: PositiveInt = 128
    expert_noise: NonNegativeFloat = 0.01
    gate: GateName = "softmax"
    gate_level: GateLevel = "token"
    gate_lr_factor: PositiveFloat = 1.0
    num_selected: PositiveInt = 2
    gamma: PositiveFloat = 1.0
    selector_entropy: NonNegativeFloat = 1e-3
    surplus_penalty: NonNegativeFloat = 1.0

    def __post_init__(self) -> None:
        check_num_selected(self.gate, self.num_selected, len(self.gate_columns()))

    @abstractmethod
    def gate_columns(self) -> list[str]:
        """Return the names of the experts that a task's gate sees."""

    def gates_for(self, encoder: Encoder, task_names: Sequence[str], *, serve_all: bool = False) -> TaskGates:
        """Return new gates, one a task; with `serve_all` all tasks train each."""
        columns = self.gate_columns()
        return TaskGates(
            task_names,
            partial(
                make_gate,
                kind=self.gate,
                num_experts=len(columns),
                num_selected=self.num_selected,
                gamma=self.gamma,
                selector_entropy=self.selector_entropy,
                surplus_penalty=self.surplus_penalty,
            ),
            encoder.hidden_size,
            columns,
            self.gate_level,
            lr_factor=self.gate_lr_factor,
            serve_all=serve_all,
        )

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name what is for the other kind of experts or gates, and gates that have nothing to choose from."""
        num_experts = len(self.gate_columns())
        of_blocks = self.experts == "block"
        found = self.without_effect("expert_width" if of_blocks else "expert_noise", why=f"with experts={self.experts}")
        of_selectors = ["num_selected", "gamma", "selector_entropy", "surplus_penalty"]
        if self.gate == "softmax":
            found += self.without_effect(*of_selectors, why="with gate=softmax")
        elif num_experts & (num_experts - 1) == 0:
            found += self.without_effect("surplus_penalty", why=f"with {num_experts} experts, a power of 2")
        if num_experts == 1:
            found += self.without_effect("gate", "gate_level", "gate_lr_factor", why="with one expert")
        return found

    def forget_usage(self, model: MultiTaskModel) -> None:
        """Begin anew to count the gates' weights."""
        forget_uses(model.encoder)
