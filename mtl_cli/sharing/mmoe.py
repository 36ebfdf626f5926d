"""Multi-gate mixture of experts.

Shapes: D hidden width, E experts. "..." stands for (1, N) where rows are packed and for (B, T) where they are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.experts import FeedForwardExpert, check_num_expert_layers, copies, mix, numbered
from mtl_cli.sharing.gates import (
    GateLevel,
    GateName,
    TaskGates,
    check_num_selected,
    forget_uses,
    learnt_by_gates,
    make_gate,
    uses_of,
)
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, replace_module, with_hidden
from mtl_cli.types import NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class MMoE(SharingStrategy):
    """Experts that all tasks share, and a gate a task that mixes them.

    In the place of one function f of the hidden state h there are E of them, and task k sees

        f^k(h) = sum_e g^k_e(h) f_e(h),        g^k = softmax(W^k h + b^k).

    Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018. All
    experts see all tokens of all tasks, so that a task costs no more than a gate; with one expert this is hard sharing.
    The paper's experts are small networks that begin at random, on one vector an example; here they stand in the upper
    blocks of a pretrained encoder, gates look at each token, have a bias, and begin with equal weights (the paper does
    not say how its gates begin).

    Experts are "block", E copies of a block, each with attention of its own: E times the cost of that block, and by far
    the larger change; or "feed_forward", bottlenecks behind the block's feed-forward layer,

        y + sum_e g^k_e(y) (W_e2 gelu(W_e1 y + b_e1) + b_e2),        y the layer's output,

    which begin as 0: the start is the plain encoder.

    Attributes:
        experts: what is an expert.
        num_experts: E. The paper used 8; 4 keeps "block" affordable (not tuned).
        num_expert_layers: blocks with experts, counted from the highest.
        expert_width: outputs of a bottleneck's first layer ("feed_forward"). Houlsby et al. (ICML 2019) found 8 to 256
            to do about as well as one another for a single bottleneck a layer.
        expert_noise: noise in the weights of the copies of a block, in units of each matrix's standard deviation; the
            first expert is the block as it was ("block"). At 0 only dropout tells copies apart. A hundredth is below
            what a pass of fine-tuning changes (an untested belief).
        gate: "softmax", or "dselect_k", which ends with `num_selected` experts that count (see `DSelectKGate`).
        gate_level: whether a gate looks at each token, at the mean of a row's tokens, or at nothing ("task": one
            mixture for all rows of a task; then a larger `gate_lr_factor`, such as 10 to 100, is in place, because a
            logit moves by about the learning rate a step).
        gate_lr_factor: how many times the encoder's learning rate the gates' is.
        num_selected: k of dselect_k.
        gamma: width of the smooth step of dselect_k; 1 in the authors' code.
        selector_entropy: weight of the selectors' entropy in the loss, dselect_k. The authors' code has 1e-6 times the
            sum over a batch; 1e-3 times the mean is about the same for a thousand tokens.
        surplus_penalty: weight of what keeps the selectors of dselect_k from numbers that name no expert, where E is no
            power of 2; 1 in the authors' code.
    """

    experts: Literal["block", "feed_forward"] = "feed_forward"
    num_experts: PositiveInt = 4
    num_expert_layers: PositiveInt = 2
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
        check_num_selected(self.gate, self.num_selected, self.num_experts)

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse experts in more blocks than there are."""
        check_num_expert_layers(self.num_expert_layers, num_blocks)

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put experts and gates into the highest blocks."""
        blocks = encoder.require_blocks("sharing.num_expert_layers")
        self.check_num_blocks(len(blocks))
        for index in range(len(blocks) - self.num_expert_layers, len(blocks)):
            block = blocks[index]
            if self.experts == "block":
                others = copies(block, self.num_experts - 1, self.expert_noise)
                blocks[index] = MixedBlocks(block, others, self._gates(encoder, task_names))
                continue
            for site in encoder.sites(block, "feed_forward_output", "sharing.experts"):
                experts = nn.ModuleList(
                    FeedForwardExpert(encoder.hidden_size, self.expert_width) for _ in range(self.num_experts)
                )
                layer = block.get_submodule(site.path)
                replace_module(block, site.path, WithExperts(layer, experts, self._gates(encoder, task_names)))

    def _gates(self, encoder: Encoder, task_names: Sequence[str]) -> TaskGates:
        return TaskGates(
            task_names,
            partial(
                make_gate,
                kind=self.gate,
                num_experts=self.num_experts,
                num_selected=self.num_selected,
                gamma=self.gamma,
                selector_entropy=self.selector_entropy,
                surplus_penalty=self.surplus_penalty,
            ),
            encoder.hidden_size,
            numbered("expert", self.num_experts),
            self.gate_level,
            lr_factor=self.gate_lr_factor,
        )

    def forget_usage(self, model: MultiTaskModel) -> None:
        """Begin anew to count the gates' weights."""
        forget_uses(model.encoder)

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return each task's mean weight of each expert, a block, and the entropy of its gates."""
        uses = uses_of(model.encoder, TaskGates)
        return learnt_by_gates({f"block_{index}": found[0] for index, found in uses.items()}, list(model.tasks))


class MixedBlocks(Wrapper):
    """Copies of a block, the first of them the block as it was; outputs mixed by gates that look at the block's input.

    What a block returns besides hidden states (T5's position bias) is that of the first.
    """

    def __init__(self, block: nn.Module, others: nn.ModuleList, gates: TaskGates) -> None:
        super().__init__(block)
        self.others = others
        self.gates = gates

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run all rows through every copy."""
        weights = self.gates(hidden, self.layout())
        output = self.wrapped(hidden, *args, **kwargs)
        outputs = [hidden_of(output), *(hidden_of(block(hidden, *args, **kwargs)) for block in self.others)]
        return with_hidden(output, mix(weights, outputs))


class WithExperts(Wrapper):
    """A layer with bottlenecks behind it, mixed by gates that look at the layer's output."""

    def __init__(self, layer: nn.Module, experts: nn.ModuleList, gates: TaskGates) -> None:
        super().__init__(layer)
        self.experts = experts
        self.gates = gates

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the layer's output and what the experts add to it, (..., D)."""
        output: torch.Tensor = self.wrapped(hidden)
        weights = self.gates(output, self.layout())
        return output + mix(weights, [expert(output) for expert in self.experts]).to(output.dtype)
