"""Layer mix: each task reads a weighted sum of all blocks' hidden states.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, K tasks, L mixed states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mtl_cli.encoders import Encoder, Layout
from mtl_cli.precision import at_least_float32
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import split_dim
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, mark, with_hidden
from mtl_cli.types import OpenFraction, PositiveFloat, Probability

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class LayerMix(SharingStrategy):
    """Hard sharing of the whole encoder, of which each task's head sees every block and not the top one alone.

    In the place of the top block's hidden state h_L, a token of a row of task k has

        gamma_k * sum_l softmax(s_k)_l h_l,

    h_l the state behind block l (and, with `include_embeddings`, h_0 in front of the first one), s_k a number a state
    and gamma_k one number, both learnt. A final normalisation behind the blocks, where the family has one, comes after
    the mix.

    Peters et al., Deep Contextualized Word Representations, NAACL 2018 (ELMo), equation 1, over a frozen encoder;
    Kondratyuk and Straka, 75 Languages, 1 Model: Parsing Universal Dependencies Universally, EMNLP 2019 (UDify), over
    an encoder that is trained, with a dropout of states; van der Goot et al., Massive Choice, Ample Tasks (MaChAmp),
    EACL 2021, as an option. ELMo's normalisation of each state before the mix is left out, as in UDify. Where all
    states are dropped at once, the mix is an even one.

    The mix begins even, as in the papers: then every block hears from every head from the first step on, and no state
    has to be dug out of a share near zero, whose gradient is as small as itself. It also means that the heads do not
    begin with the top block's states, which pretraining has made for its own heads. Which of the two trains better on
    a given encoder has not been measured here; `initial_top_share` sets the other one.

    Attributes:
        include_embeddings: whether the state in front of the first block is mixed, too. The papers on BERT mix the
            blocks alone, ELMo its word vectors as well.
        dropout: probability with which, in training, a state's s is minus infinity for a task's rows of a pass; 0.1 is
            UDify's.
        per_task: a mix for each task; false: one for all of them.
        initial_top_share: share of the top block at the start, the rest being spread evenly; near 1 the model begins as
            hard sharing. None: all states have the same share.
        lr_factor: factor on the learning rate of s and gamma. With Adam a number moves by about the learning rate a
            step, and s must move by about 1 to matter. 20 is the ratio of UDify's rates, 1e-3 for what it adds to BERT
            and 5e-5 for BERT; untested here. s and gamma have no weight decay.
    """

    include_embeddings: bool = False
    dropout: Probability = 0.1
    per_task: bool = True
    initial_top_share: OpenFraction | None = None
    lr_factor: PositiveFloat = 20.0

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Below the tasks' mixes there is not one state that all of their gradients pass."""
        return "each task mixes the states of all blocks (sharing.per_task)" if self.per_task else None

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Let all blocks keep what they see, and the last one mix it."""
        blocks = encoder.require_blocks("sharing")
        num_states = len(blocks) + self.include_embeddings
        mix: nn.Module
        if self.per_task:
            mix = TaskModules({task: self._new_mix(num_states) for task in task_names})
        else:
            mix = self._new_mix(num_states)
        mark(mix, lr_factor=self.lr_factor, decay=False)
        kept: list[torch.Tensor] = []
        for index in range(len(blocks) - 1):
            blocks[index] = KeepingBlock(blocks[index], kept, is_first=index == 0, keeps=self._keeps(index))
        last = len(blocks) - 1
        blocks[last] = MixingBlock(blocks[last], kept, mix, is_first=last == 0, keeps=self._keeps(last))

    def _keeps(self, index: int) -> bool:
        """Whether what a block is given is one of the states."""
        return index > 0 or self.include_embeddings

    def _new_mix(self, num_states: int) -> ScalarMix:
        return ScalarMix(num_states, self.initial_top_share, self.dropout)

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return each task's share of each state, and its scale."""
        (block,) = (module for module in model.encoder.blocks if isinstance(module, MixingBlock))
        mixes = dict(block.mix.items()) if isinstance(block.mix, TaskModules) else {"all_tasks": block.mix}
        of_tasks = {task: mix for task, mix in mixes.items() if isinstance(mix, ScalarMix)}
        columns = [f"block_{index}" for index in range(len(model.encoder.blocks))]
        if self.include_embeddings:
            columns = ["embeddings", *columns]
        shares_KL = torch.stack([mix.shares() for mix in of_tasks.values()])
        scales_K1 = torch.stack([mix.scale for mix in of_tasks.values()])
        return {
            "layer_mix": Learnt.of("Share of each block in a task's mix", list(of_tasks), columns, shares_KL, "share"),
            "layer_mix_scale": Learnt.of("Scale of a task's mix", list(of_tasks), ["scale"], scales_K1),
        }


class ScalarMix(nn.Module):
    """A weighted sum of states, times a scale.

    Args:
        num_states: L.
        top_share: share of the last state at the start; None: all have the same.
        dropout: probability that a state is left out in training.
    """

    def __init__(self, num_states: int, top_share: float | None, dropout: float) -> None:
        super().__init__()
        logits_L = torch.zeros(num_states)
        if top_share is not None and num_states > 1:
            logits_L[-1] = math.log(top_share / (1 - top_share) * (num_states - 1))
        self.logits = nn.Parameter(logits_L)
        self.scale = nn.Parameter(torch.ones(1))
        self.dropout = dropout

    def shares(self) -> torch.Tensor:
        """Return the share of each state, (L,), without dropout."""
        return at_least_float32(self.logits).softmax(dim=0)

    def forward(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mix L states of one shape."""
        logits_L = at_least_float32(self.logits)
        if self.training and self.dropout > 0:
            dropped_L = torch.rand(len(states), device=logits_L.device) < self.dropout
            # Not minus infinity, of which a softmax of nothing else would be no number.
            logits_L = logits_L.masked_fill(dropped_L, torch.finfo(logits_L.dtype).min)
        weights_L = logits_L.softmax(dim=0) * self.scale
        # Slices, not numbers: a number would take on the states' own precision.
        mixed = weights_L[:1] * at_least_float32(states[0])
        for index in range(1, len(states)):
            mixed = torch.addcmul(mixed, weights_L[index : index + 1], at_least_float32(states[index]))
        return mixed.to(states[-1].dtype)


class KeepingBlock(Wrapper):
    """Keeps what a block is given for the mix behind the last block.

    What a block is given, not what the one below returns: some families change it on the way (DeBERTa's convolution).

    Args:
        wrapped: the block.
        kept: the states so far of the pass that is running, the same list for all blocks.
        is_first: whether a pass begins here; what one that was broken off may have left is forgotten.
        keeps: whether this block's input is one of the states.
    """

    def __init__(self, wrapped: nn.Module, kept: list[torch.Tensor], *, is_first: bool, keeps: bool) -> None:
        super().__init__(wrapped)
        self._kept = kept
        self._is_first = is_first
        self._keeps = keeps

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block as it is."""
        try:
            return self._run(hidden, args, kwargs)
        except BaseException:
            self._kept.clear()
            raise

    def _run(self, hidden: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self._is_first:
            self._kept.clear()
        if self._keeps:
            self._kept.append(hidden)
        return self.wrapped(hidden, *args, **kwargs)


class MixingBlock(KeepingBlock):
    """The last block, which returns the mix in the place of its own hidden states.

    Args:
        wrapped: the block.
        kept: the states of the pass that is running.
        mix: a `ScalarMix` a task, or one for all.
        is_first: whether it is the only block.
        keeps: whether its input is one of the states.
    """

    def __init__(
        self, wrapped: nn.Module, kept: list[torch.Tensor], mix: nn.Module, *, is_first: bool, keeps: bool
    ) -> None:
        super().__init__(wrapped, kept, is_first=is_first, keeps=keeps)
        self.mix = mix

    def _run(self, hidden: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        output = super()._run(hidden, args, kwargs)
        states = [*self._kept, hidden_of(output)]
        self._kept.clear()
        return with_hidden(output, self._mixed(states, self.layout()))

    def _mixed(self, states: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
        if not isinstance(self.mix, TaskModules):
            mixed: torch.Tensor = self.mix(states)
            return mixed
        dim, slices = split_dim(layout)
        sizes = [part.stop - part.start for part in slices.values()]
        parts = [state.split(sizes, dim=dim) for state in states]
        return torch.cat(
            [self.mix[task]([of_state[place] for of_state in parts]) for place, task in enumerate(layout.tasks)],
            dim=dim,
        )
