"""Gates: how much of each expert goes into a mixture.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, E experts, k selectors of a gate, m
digits of an expert's number, C values of any kind. "..." stands for (1, N) where rows are packed and for (B, T) where
they are padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from mtl_cli.encoders import Encoder, Layout
from mtl_cli.sharing.auxiliary import add_auxiliary_loss
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import apply_by_task, is_real, part_of, real_tokens
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import mark
from mtl_cli.types import UserError

GateName = Literal["softmax", "dselect_k"]
GateLevel = Literal["token", "row", "task"]
"""What a gate looks at: each token's state, the mean state of the row's tokens, or nothing but the task."""

_SMALL = 1e-6  # keeps logarithms and quotients finite


class GateLogits(nn.Module):
    """Numbers that a gate is made of: a linear function of the hidden states, or free parameters, in float32.

    Args:
        hidden_size: D; None for free parameters.
        num_logits: how many.
    """

    def __init__(self, hidden_size: int | None, num_logits: int) -> None:
        super().__init__()
        self.linear = None if hidden_size is None else nn.Linear(hidden_size, num_logits)
        self.free = nn.Parameter(torch.zeros(num_logits)) if hidden_size is None else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (..., C) for hidden states (..., D)."""
        if self.linear is None:
            assert self.free is not None
            return self.free.expand(*hidden.shape[:-1], -1)
        with torch.autocast(hidden.device.type, enabled=False):
            logits: torch.Tensor = self.linear(hidden.to(self.linear.weight.dtype))
        return logits


class SoftmaxGate(nn.Module):
    """The softmax of linear functions of a state, softmax(W h + b); it begins with equal weights.

    Shazeer et al., Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer, ICLR 2017, before
    anything is made sparse; without b the gate of Ma et al., KDD 2018.

    Args:
        hidden_size: D; None for logits that are parameters alone.
        num_experts: E.
    """

    def __init__(self, hidden_size: int | None, num_experts: int) -> None:
        super().__init__()
        self.logits = GateLogits(hidden_size, num_experts)

    def weights(self, logits: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weights, (..., E), and what they cost, (...), by name: nothing."""
        return logits.softmax(-1), {}


class DSelectKGate(nn.Module):
    """A smooth gate that ends with at most k experts that count, the k chosen by gradient descent.

    Each of k selectors writes the number of an expert with m = ceil(log2 E) digits. Digit b of selector i is 1 to the
    degree s_ib = S(z_ib), S the smooth-step function, and the selector picks expert e to the degree

        r_ie = prod_b (s_ib if digit b of e is 1 else 1 - s_ib),        gate_e = sum_i softmax(w)_i r_ie.

    z and w are parameters, or linear functions of the state with parameters of the task's own. Because S reaches 0 and
    1 (at -+gamma/2), r_i becomes exactly one expert, and the gate k of them, or fewer where selectors agree. A term
    `entropy` * sum_i H(r_i) in the loss hastens that.

    Hazimeh et al., DSelect-k: Differentiable Selection in the Mixture of Experts with Applications to Multi-Task
    Learning, NeurIPS 2021. Initial values are the authors': z (or its weights) uniform in +-gamma/100, w in +-0.05.
    Where E is no power of 2, some numbers of m digits name no expert. As in the paper sum_i 1 / sum_e r_ie in the loss
    keeps the selectors away from those (here minus its lowest value, so that it ends at 0, and with the weight
    `surplus`, 1 in the authors' code). Ours differs in two ways: losses are means over tokens, where the authors add up
    a batch's examples, and gates are divided by their sum, which stays below 1 as long as surplus numbers have a share:
    like experts, such as copies of a pretrained block, would otherwise not add up to that block at the start.

    Args:
        hidden_size: D; None for z and w that are parameters alone ("static" in the paper).
        num_experts: E.
        num_selected: k.
        gamma: width of the part of S that is neither 0 nor 1.
        entropy: weight of the selectors' entropy in the loss.
        surplus: weight of the penalty on numbers that name no expert.
    """

    codes_Em: torch.Tensor

    def __init__(
        self, hidden_size: int | None, num_experts: int, num_selected: int, gamma: float, entropy: float, surplus: float
    ) -> None:
        super().__init__()
        self.num_selected, self.gamma = num_selected, gamma
        self.entropy, self.surplus = entropy, surplus
        self.num_digits = math.ceil(math.log2(num_experts))
        self.logits = GateLogits(hidden_size, num_selected * (self.num_digits + 1))
        num_z = num_selected * self.num_digits
        with torch.no_grad():
            for parameter in self.logits.parameters():
                parameter[:num_z].uniform_(-gamma / 100, gamma / 100)
                parameter[num_z:].uniform_(-0.05, 0.05)
        places = torch.arange(self.num_digits - 1, -1, -1)
        codes_Em = (torch.arange(num_experts)[:, None] >> places) % 2 == 1
        self.register_buffer("codes_Em", codes_Em, persistent=False)

    def selectors(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the degree to which each selector picks each expert, (..., k, E)."""
        num_z = self.num_selected * self.num_digits
        digits = smooth_step(logits[..., :num_z], self.gamma)
        digits = (
            digits.unflatten(-1, (self.num_selected, 1, self.num_digits))
            if num_z
            else logits.new_ones(*logits.shape[:-1], self.num_selected, 1, 0)
        )
        return torch.where(self.codes_Em, digits, 1.0 - digits).prod(-1)

    def weights(self, logits: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weights, (..., E), and what they cost, (...), by name."""
        num_z = self.num_selected * self.num_digits
        selectors = self.selectors(logits)
        weights = (logits[..., num_z:].softmax(-1)[..., None] * selectors).sum(-2)
        costs = {}
        if self.entropy:
            costs["selector_entropy"] = -self.entropy * (selectors * (selectors + _SMALL).log()).sum((-2, -1))
        if len(self.codes_Em) < 2**self.num_digits:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=_SMALL)
            if self.surplus:
                reachable = selectors.sum(-1).clamp(min=_SMALL)
                costs["surplus_codes"] = self.surplus * (1.0 / reachable - 1.0).sum(-1)
        return weights, costs


def smooth_step(values: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return S(t): 0 up to -gamma/2, 1 from gamma/2 on, between them -2/gamma^3 t^3 + 3/(2 gamma) t + 1/2.

    Hazimeh et al., The Tree Ensemble Layer: Differentiability meets Conditional Computation, ICML 2020.
    """
    scaled = (values / gamma).clamp(-0.5, 0.5)
    return scaled * (1.5 - 2.0 * scaled**2) + 0.5


class GateUse:
    """What gates have done in evaluation: sums over the tokens of each task.

    Plain tensors, not part of a checkpoint.

    Args:
        columns: names of the experts.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._weights: dict[str, torch.Tensor] = {}
        self._entropy: dict[str, torch.Tensor] = {}
        self._tokens: dict[str, int] = {}

    def add(self, task: str, weights_NE: torch.Tensor, probabilities_NE: torch.Tensor | None = None) -> None:
        """Count some tokens of a task.

        Args:
            task: whose tokens they are.
            weights_NE: the weight of each expert.
            probabilities_NE: what the entropy is taken of; None: the weights.
        """
        weights_NE = weights_NE.detach().double()
        wide_NE = weights_NE if probabilities_NE is None else probabilities_NE.detach().double()
        entropy = torch.special.entr(wide_NE).sum()
        first = task not in self._tokens
        self._weights[task] = weights_NE.sum(0) + (0.0 if first else self._weights[task])
        self._entropy[task] = entropy + (0.0 if first else self._entropy[task])
        self._tokens[task] = len(weights_NE) + (0 if first else self._tokens[task])

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self._tokens

    def mean_weights(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return the mean weight of each expert over each task's tokens, (K, E); nan for tasks without any."""
        nothing = torch.full((len(self.columns),), math.nan, dtype=torch.float64)
        return torch.stack(
            [self._weights[task].cpu() / self._tokens[task] if task in self._tokens else nothing for task in tasks]
        )

    def mean_entropy(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return the mean entropy over each task's tokens in units of log E, (K,): 1 where all experts are alike."""
        unit = math.log(len(self.columns)) if len(self.columns) > 1 else 1.0
        found = [float(self._entropy[t]) / self._tokens[t] / unit if t in self._tokens else math.nan for t in tasks]
        return torch.tensor(found, dtype=torch.float64)


class CountsUse(nn.Module):
    """A module that counts what its gates do in evaluation."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self.use = GateUse(columns)


def make_gate(
    hidden_size: int | None,
    *,
    kind: GateName,
    num_experts: int,
    num_selected: int,
    gamma: float,
    selector_entropy: float,
    surplus_penalty: float,
) -> nn.Module:
    """Make a gate of a kind; what is for the other kind has no effect.

    Args:
        hidden_size: D, or None for a gate that looks at no state.
        kind: "softmax" or "dselect_k".
        num_experts: E.
        num_selected: see `DSelectKGate`, as for the rest.
        gamma: width of the smooth step.
        selector_entropy: weight of the selectors' entropy.
        surplus_penalty: weight of what keeps selectors from numbers that name no expert.
    """
    if kind == "softmax":
        return SoftmaxGate(hidden_size, num_experts)
    return DSelectKGate(hidden_size, num_experts, num_selected, gamma, selector_entropy, surplus_penalty)


def check_num_selected(kind: GateName, num_selected: int, num_experts: int) -> None:
    """Refuse to select more experts than a gate sees.

    Raises:
        UserError: there are not so many.
    """
    if kind == "dselect_k" and num_selected > num_experts:
        raise UserError(
            f"sharing.num_selected: found {num_selected}, but a gate sees {num_experts} experts; allowed: 1 to "
            f"{num_experts}"
        )


class TaskGates(CountsUse):
    """A gate a task, at one place of the encoder.

    Args:
        task_names: tasks.
        make_gate: makes a gate of hidden width (None where it looks at no state).
        hidden_size: D.
        columns: names of the experts.
        level: what the gates look at.
        lr_factor: how many times the encoder's learning rate theirs is.
        serve_all: a task's gate is asked about rows of other tasks, too, so that all tasks train it.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        make_gate: Callable[[int | None], nn.Module],
        hidden_size: int,
        columns: Sequence[str],
        level: GateLevel,
        *,
        lr_factor: float = 1.0,
        serve_all: bool = False,
    ) -> None:
        super().__init__(columns)
        self.level = level
        width = None if level == "task" else hidden_size
        gates = {task: make_gate(width) for task in task_names}
        self.of_task: nn.ModuleDict = nn.ModuleDict(gates) if serve_all else TaskModules(gates)
        mark(self.of_task, lr_factor=lr_factor, decay=False)

    def forward(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return the weights that each row's own task gives, (..., E), in float32."""
        return apply_by_task(lambda task, part: self.weights_of(task, part, layout.of(task)), hidden, layout)

    def weights_of(self, task: str, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return the weights of one task's gate for these rows, (..., E); this task's rows count and cost."""
        gate = self.of_task[task]
        assert isinstance(gate, SoftmaxGate | DSelectKGate)
        weights, costs = gate.weights(at_level(gate.logits(hidden), layout, self.level))
        if task in layout.tasks:
            if not self.training:
                self.use.add(task, real_tokens(part_of(weights, layout, task), layout.of(task)))
            else:
                for name, cost in costs.items():
                    of_task = part_of(cost[..., None], layout, task)
                    add_auxiliary_loss(name, task, real_tokens(of_task, layout.of(task)).mean())
        return weights


def at_level(logits: torch.Tensor, layout: Layout, level: GateLevel) -> torch.Tensor:
    """Return the logits of tokens, (..., C), or for each token the mean over its row.

    The mean of linear functions is the function of the mean state, so that nothing but logits need be averaged.
    """
    return mean_of_rows(logits, layout) if level == "row" else logits


def mean_of_rows(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Put in the place of each token's values their mean over the row's tokens, padding left out; (..., C)."""
    device = values.device
    lengths_B1 = layout.row_lengths(device)[:, None]
    if layout.packed:
        row_N = layout.row_of_token(device)
        sum_BC = values.new_zeros(layout.num_rows, values.shape[-1]).index_add(0, row_N, values[0])
        return (sum_BC / lengths_B1).index_select(0, row_N)[None]
    sum_B1C = values.masked_fill(~is_real(values, layout)[..., None], 0.0).sum(1, keepdim=True)
    return (sum_B1C / lengths_B1[..., None]).expand_as(values)


def uses_of(encoder: Encoder, kind: type[CountsUse]) -> dict[int, list[GateUse]]:
    """Return what the gates of each block have counted, by the number of the block."""
    found = {
        index: [m.use for m in block.modules() if isinstance(m, kind)] for index, block in enumerate(encoder.blocks)
    }
    return {index: uses for index, uses in found.items() if uses}


def forget_uses(encoder: Encoder) -> None:
    """Begin anew to count what all gates use."""
    for uses in uses_of(encoder, CountsUse).values():
        for use in uses:
            use.forget()


def learnt_by_gates(uses: Mapping[str, GateUse], tasks: Sequence[str]) -> dict[str, Learnt]:
    """Return mean weights of experts, task by expert, for each place, and the entropy of the gates, task by place.

    Args:
        uses: what was counted, by the name of the place; nothing comes of places without counts.
        tasks: tasks.
    """
    counted = {place: use for place, use in uses.items() if not use.is_empty}
    if not counted:
        return {}
    found = {
        f"gates_{place}": Learnt.of(
            f"Mean weight of each expert (across) over each task's tokens, {place.replace('_', ' ')}",
            tasks,
            use.columns,
            use.mean_weights(tasks),
            "share",
        )
        for place, use in counted.items()
    }
    found["gate_entropy"] = Learnt.of(
        "Entropy of each task's gates, mean over its tokens (1: all experts alike, 0: one expert)",
        tasks,
        list(counted),
        torch.stack([use.mean_entropy(tasks) for use in counted.values()], dim=1),
        "share",
    )
    return found
