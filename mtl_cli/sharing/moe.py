"""Sparse mixture of experts with a router that knows the task.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, E experts, k experts of a token.
"..." stands for (1, N) where rows are packed and for (B, T) where they are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from mtl_cli.encoders import Encoder, EncoderShape, Layout
from mtl_cli.encoders.sites import check_sites
from mtl_cli.sharing.auxiliary import add_auxiliary_loss
from mtl_cli.sharing.block_numbers import block_numbers, has_lowest
from mtl_cli.sharing.experts import bottlenecks, numbered
from mtl_cli.sharing.gates import CountsUse, GateLogits, forget_uses, learnt_by_gates, uses_of
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import real_tokens
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, mark, replace_module
from mtl_cli.types import NonNegativeFloat, PositiveInt, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class MoE(SharingStrategy):
    """Many small experts, of which each token takes the k that a router scores highest.

    Behind the feed-forward layer of a block, with y its output at a token of task t,

        y + sum_{e in top k} g_e (W_e2 gelu(W_e1 y + b_e1) + b_e2),        p = softmax(W y + u_t),

    where g are the p of the k best experts divided by their sum, the softmax over the best alone. W is shared, u_t the
    task's own: tasks can prefer experts without a router each. Experts begin as 0, so that the start is the plain
    encoder, and are trained by whichever tasks' tokens reach them.

    Shazeer et al., Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer, ICLR 2017; for a
    router that knows the task compare Chen et al., Mod-Squad: Designing Mixtures of Experts As Modular Multi-Task
    Learners, CVPR 2023 (a router a task), here an offset a task. With k = 1, g is p itself, as in Fedus et al., Switch
    Transformers, JMLR 23, 2022: a gate that is always 1 would teach the router nothing. Experts are bottlenecks in
    addition to the pretrained feed-forward layer, where those papers put experts in its place.

    Each expert computes all of its tokens in one product. There is no capacity: no token is ever dropped, and what a
    token gets does not depend on which other tokens are in the step. Padding is routed nowhere.

    The loss `load_balance` * E sum_e f_e P_e (Fedus et al.) keeps experts in use: f_e is the share of expert e in the
    choices of a task's tokens (with k choices a token: of all of these), P_e the mean of p_e; the sum is
    1 where all are used alike. It is taken over each task's own tokens, as any loss here is, and so also speaks against
    a task that has experts for itself; lower it, or set it to 0, to let tasks part. `router_z` times the mean of
    (log sum_e exp logit_e)^2 keeps logits small (Zoph et al., ST-MoE: Designing Stable and Transferable Sparse
    Expert Models, 2022).

    Attributes:
        num_experts: E.
        top_k: k.
        expert_width: outputs of a bottleneck's first layer; each token passes k of them.
        blocks: numbers of the blocks with experts, 0 the lowest, -1 the highest; None: all.
        task_conditioned: whether the router knows the task (u_t); without it nothing but the heads is a task's own.
        router_noise: standard deviation of normal noise on the logits in training. Shazeer et al. learn it, token by
            token; here it is one number.
        load_balance: weight of the balance loss; 0.01 in Fedus et al.
        router_z: weight of the loss on large logits; 0.001 in Zoph et al., who train from scratch in bfloat16.
        train_encoder: False trains nothing but experts, routers and heads.
    """

    why_not_segmented: ClassVar[str | None] = "an expert sees the tokens that are routed to it, not all of a step"

    num_experts: PositiveInt = 8
    top_k: PositiveInt = 2
    expert_width: PositiveInt = 64
    blocks: list[int] | None = None
    task_conditioned: bool = True
    router_noise: NonNegativeFloat = 0.0
    load_balance: NonNegativeFloat = 0.01
    router_z: NonNegativeFloat = 0.0
    train_encoder: bool = True

    def __post_init__(self) -> None:
        if self.top_k > self.num_experts:
            raise UserError(
                f"sharing.top_k: found {self.top_k}, but there are {self.num_experts} experts; allowed: 1 to "
                f"{self.num_experts}"
            )

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """A router that knows the task stands in its block."""
        if self.task_conditioned and has_lowest(self.blocks, num_blocks):
            return "routers know the task in the lowest block already (sharing.blocks)"
        return None

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse blocks that do not exist."""
        block_numbers(self.blocks, num_blocks)

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families whose layers are not known."""
        check_sites(encoder.family, ["feed_forward_output"], "sharing.blocks")

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name the balance loss where every token goes to every expert."""
        if self.top_k < self.num_experts:
            return []
        return self.without_effect("load_balance", why="with as many experts a token as there are (top_k)")

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put experts and a router behind the feed-forward layers."""
        blocks = encoder.require_blocks("sharing.blocks")
        if not self.train_encoder:
            encoder.requires_grad_(False)
        for index in block_numbers(self.blocks, len(blocks)):
            block = blocks[index]
            for site in encoder.sites(block, "feed_forward_output", "sharing.blocks"):
                router = Router(self, encoder.hidden_size, task_names)
                experts = bottlenecks(self.num_experts, encoder.hidden_size, self.expert_width)
                layer = block.get_submodule(site.path)
                replace_module(block, site.path, WithRoutedExperts(layer, experts, router))

    def forget_usage(self, model: MultiTaskModel) -> None:
        """Begin anew to count the gates' weights."""
        forget_uses(model.encoder)

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return each task's mean gate of each expert (0 where not chosen), a block, and the entropy of its p."""
        uses = uses_of(model.encoder, Router)
        return learnt_by_gates({f"block_{index}": found[0] for index, found in uses.items()}, list(model.tasks))


class TaskOffset(nn.Module):
    """What a task adds to the router's logits, u_t, (E,)."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(num_experts))


class Router(CountsUse):
    """Chooses k experts for each token; in float32 throughout (Fedus et al.: selective precision).

    W begins as BERT's weights do, normal with standard deviation 0.02: with zeros all tokens would begin with the same
    experts.

    Args:
        settings: the strategy.
        hidden_size: D.
        task_names: tasks.
    """

    def __init__(self, settings: MoE, hidden_size: int, task_names: Sequence[str]) -> None:
        super().__init__(numbered("expert", settings.num_experts))
        self.top_k = settings.top_k
        self.noise = settings.router_noise
        self.load_balance = settings.load_balance
        self.router_z = settings.router_z
        self.logits = GateLogits(hidden_size, settings.num_experts)
        assert self.logits.linear is not None
        nn.init.normal_(self.logits.linear.weight, std=0.02)
        offsets = {task: TaskOffset(settings.num_experts) for task in task_names} if settings.task_conditioned else {}
        self.of_task = TaskModules(offsets)
        mark(self, decay=False)

    def forward(self, tokens_ND: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the numbers of each token's experts, int64, and their gates, float32, (N, k) both."""
        logits_NE = self.logits(tokens_ND)
        if len(self.of_task):
            parts = logits_NE.split([part.stop - part.start for part in layout.token_slices.values()])
            logits_NE = torch.cat([part + self._offset(task) for task, part in zip(layout.tasks, parts, strict=True)])
        if self.training and self.noise:
            logits_NE = logits_NE + self.noise * torch.randn_like(logits_NE)
        probabilities_NE = logits_NE.softmax(-1)
        best_Nk, experts_Nk = probabilities_NE.topk(self.top_k)
        gates_Nk = best_Nk / best_Nk.sum(-1, keepdim=True) if self.top_k > 1 else best_Nk
        if self.training:
            self._add_losses(logits_NE, probabilities_NE, experts_Nk, layout)
        else:
            weights_NE = torch.zeros_like(probabilities_NE).scatter(1, experts_Nk, gates_Nk)
            for task, part in layout.token_slices.items():
                self.use.add(task, weights_NE[part], probabilities_NE[part])
        return experts_Nk, gates_Nk

    def _offset(self, task: str) -> torch.Tensor:
        module = self.of_task[task]
        assert isinstance(module, TaskOffset)
        return module.offset

    def _add_losses(
        self, logits_NE: torch.Tensor, probabilities_NE: torch.Tensor, experts_Nk: torch.Tensor, layout: Layout
    ) -> None:
        num_experts = logits_NE.shape[-1]
        for task, part in layout.token_slices.items():
            if self.load_balance:
                choices = experts_Nk[part].flatten()
                share_E = choices.bincount(minlength=num_experts).to(logits_NE.dtype) / len(choices)
                balance = num_experts * (share_E * probabilities_NE[part].mean(0)).sum()
                add_auxiliary_loss("load_balance", task, self.load_balance * balance)
            if self.router_z:
                size = logits_NE[part].logsumexp(-1).square().mean()
                add_auxiliary_loss("router_z", task, self.router_z * size)


class WithRoutedExperts(Wrapper):
    """A layer with routed bottlenecks behind it."""

    def __init__(self, layer: nn.Module, experts: nn.ModuleList, router: Router) -> None:
        super().__init__(layer)
        self.experts = experts
        self.router = router

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the layer's output and what its tokens' experts add to it, (..., D)."""
        layout = self.layout()
        output: torch.Tensor = self.wrapped(hidden)
        change_ND = self._change(real_tokens(output, layout), layout).to(output.dtype)
        if layout.packed:
            return output + change_ND[None]
        slot_N = layout.padding(output.device).slot_of_token_N
        flat = output.flatten(0, 1)
        return flat.index_add(0, slot_N, change_ND).view_as(output)

    def _change(self, tokens_ND: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Send each token through its experts, (N, D)."""
        experts_Nk, gates_Nk = self.router(tokens_ND, layout)
        places = Places.of(experts_Nk, len(self.experts))
        chosen: torch.Tensor = _ToExperts.apply(tokens_ND, places)
        sorted_tokens = chosen.split(places.sizes)
        # Experts without tokens run on none: their gradients are then 0, in every process alike.
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, sorted_tokens, strict=True)])
        # Back in the order of the choices: a sum over k in a fixed order, where adding by index would have none.
        in_order: torch.Tensor = _FromExperts.apply(outputs, places)
        return (gates_Nk[..., None] * in_order).sum(1)


@dataclass(frozen=True)
class Places:
    """Where the tokens of each expert stand, expert after expert: in P places, some at an expert's end to spare.

    The number of rows of a product differs from expert to expert and step to step. For each new one oneDNN (bfloat16
    on a CPU) makes machine code, which takes longer than a small expert's product; so it is rounded up to a multiple of
    ROWS. What stands in spare places is thrown away.

    Attributes:
        sizes: places of each expert, E numbers.
        of_choice: the place of each choice, int64 (N, k).
        token_of: the token in each place, int64 (P,); in those to spare, the first.
    """

    ROWS: ClassVar[int] = 64

    sizes: list[int]
    of_choice: torch.Tensor
    token_of: torch.Tensor

    @classmethod
    def of(cls, experts_Nk: torch.Tensor, num_experts: int) -> Places:
        """Place each token k times, with the experts that it chose."""
        choice = experts_Nk.flatten()
        counts_E = choice.bincount(minlength=num_experts)
        sizes_E = (counts_E + cls.ROWS - 1) // cls.ROWS * cls.ROWS
        spare_E = sizes_E - counts_E
        numbers = torch.arange(len(choice), device=choice.device)
        by_expert = choice.argsort(stable=True)
        of_choice = torch.empty_like(choice).scatter(0, by_expert, numbers) + (spare_E.cumsum(0) - spare_E)[choice]
        sizes = sizes_E.tolist()
        token_of = choice.new_zeros(sum(sizes)).scatter(0, of_choice, numbers // experts_Nk.shape[1])
        return cls(sizes, of_choice.view_as(experts_Nk), token_of)


class _ToExperts(torch.autograd.Function):
    """Tokens (N, D) to places (P, D); backwards each token's k rows are read, where PyTorch adds up row by row."""

    @staticmethod
    def forward(ctx: Any, tokens_ND: torch.Tensor, places: Places) -> torch.Tensor:
        ctx.places = places
        return tokens_ND.index_select(0, places.token_of)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _of_choices(gradient_PD, ctx.places).sum(1), None


class _FromExperts(torch.autograd.Function):
    """Places (P, D) to choices (N, k, D); backwards those to spare get 0."""

    @staticmethod
    def forward(ctx: Any, outputs_PD: torch.Tensor, places: Places) -> torch.Tensor:
        ctx.places = places
        return _of_choices(outputs_PD, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NkD: torch.Tensor) -> tuple[torch.Tensor, None]:
        zeros_PD = gradient_NkD.new_zeros(len(ctx.places.token_of), gradient_NkD.shape[-1])
        return zeros_PD.index_copy_(0, ctx.places.of_choice.flatten(), gradient_NkD.flatten(0, 1)), None


def _of_choices(values_PD: torch.Tensor, places: Places) -> torch.Tensor:
    return values_PD.index_select(0, places.of_choice.flatten()).unflatten(0, places.of_choice.shape)
