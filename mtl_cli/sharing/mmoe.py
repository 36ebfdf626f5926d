"""Multi-gate mixture of experts.

Shapes: D hidden width, E experts. "..." stands for (1, N) where rows are packed and for (B, T) where they are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.encoders.sites import check_sites
from mtl_cli.sharing.block_numbers import block_numbers, has_lowest
from mtl_cli.sharing.experts import bottlenecks, copies, mix, numbered
from mtl_cli.sharing.gated_experts import GATES_IN_LOWEST, GatedExperts
from mtl_cli.sharing.gates import TaskGates, learnt_by_gates, uses_of
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, replace_module, with_hidden
from mtl_cli.types import PositiveInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class MMoE(GatedExperts):
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
        blocks: numbers of the blocks with experts, 0 the lowest, -1 the highest; None: all.
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

    num_experts: PositiveInt = 4
    blocks: list[int] | None = field(default_factory=lambda: [-2, -1])

    def gate_columns(self) -> list[str]:
        """Return the names of the experts."""
        return numbered("expert", self.num_experts)

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse experts in blocks that do not exist."""
        block_numbers(self.blocks, num_blocks)

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Below the lowest gates all is shared, if there is a block there."""
        return GATES_IN_LOWEST if has_lowest(self.blocks, num_blocks) else None

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families whose layers are not known, where bottlenecks need them."""
        if self.experts == "feed_forward":
            check_sites(encoder.family, ["feed_forward_output"], "sharing.experts")

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put experts and gates into the blocks."""
        blocks = encoder.require_blocks("sharing.blocks")
        for index in block_numbers(self.blocks, len(blocks)):
            block = blocks[index]
            if self.experts == "block":
                others = copies(block, self.num_experts - 1, self.expert_noise)
                blocks[index] = MixedBlocks(block, others, self.gates_for(encoder, task_names))
                continue
            for site in encoder.sites(block, "feed_forward_output", "sharing.experts"):
                experts = bottlenecks(self.num_experts, encoder.hidden_size, self.expert_width)
                layer = block.get_submodule(site.path)
                replace_module(block, site.path, WithExperts(layer, experts, self.gates_for(encoder, task_names)))

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
