"""Low-rank adaptation for several tasks at once.

Shapes: K tasks, S updated layers of a block, I up-projections of each, D inputs and O outputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.lora_layers import LowRankUpdate, MixedUpProjections, named_updates
from mtl_cli.sharing.low_rank_sharing import LowRankSharing
from mtl_cli.types import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class MTLLoRA(LowRankSharing):
    """Tasks share low-rank updates of the encoder's weights, each with a transformation and a mixture of its own.

    A linear layer computes, for the rows of task t,

        W x + (alpha / R) sum_i m_ti B_i Lambda_t A x,    m_t = softmax(w_t / tau),

    W (O x D) the encoder's weight; A (R x D) and the I up-projections B_i (O x R) shared by all tasks; Lambda_t
    (R x R) and w_t (I) the task's own. Yang et al., MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning, AAAI 2025.
    What the paper leaves open is read as its official code has it: Lambda_t is a full matrix that begins as the
    identity, all B_i begin at zero (so that the first step sees the plain encoder), A and w_t begin with He et al.'s
    uniform distribution with a = sqrt(5), and updates are scaled by alpha / R. Where ours differs: Lambda_t and w_t
    have no weight decay, and the rows of a step may belong to several tasks, for which A and all B_i are computed at
    once.

    Attributes:
        rank: R; 8 with an alpha of 16 as in the official scripts for language models.
        alpha: numerator of the scaling.
        rank_scaling: "standard" is alpha / R, "sqrt" is alpha / sqrt(R) (Kalajdzievski, A Rank Stabilization Scaling
            Factor for Fine-Tuning with LoRA, 2023).
        num_up_projections: I; with 1 the tasks differ by Lambda_t alone.
        temperature: tau; the lower, the more a task keeps to one up-projection.
        dropout: share of the update's inputs set to zero in training.
        targets: which layers of each block: query, key, value, attention_output, feed_forward_input,
            feed_forward_output. None: query and value, as in LoRA (Hu et al., ICLR 2022); of a family whose queries
            serve relative positions too (DeBERTa), value alone.
        train_encoder: whether the encoder is trained, too; the paper freezes it.
    """

    num_up_projections: PositiveInt = 3
    temperature: PositiveFloat = 0.5

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Each block has task-specific parts."""
        return "each block holds transformations of the tasks' own"

    def new_update(self, num_inputs: int, num_outputs: int, task_names: Sequence[str]) -> LowRankUpdate:
        """Return shared projections with a transformation and a mixture a task."""
        return MixedUpProjections(
            num_inputs, num_outputs, self.rank, task_names, self.num_up_projections, self.temperature
        )

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name the temperature of a mixture of one."""
        if self.num_up_projections > 1:
            return []
        return self.without_effect("temperature", why="with num_up_projections=1")

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return a matrix a block: how much of each layer's up-projections each task takes.

        The up-projections of one layer have nothing to do with another's of the same number.
        """
        tasks = list(model.tasks)
        found = {}
        for index, block in enumerate(model.encoder.blocks):
            columns: list[str] = []
            mixing_SKI = []
            for name, _, update in named_updates(block):
                assert isinstance(update, MixedUpProjections)
                columns += [f"{name}_{number}" for number in range(self.num_up_projections)]
                mixing_SKI.append(torch.stack([update.mixing(task) for task in tasks]))
            title = f"Share of each up-projection in the tasks' updates, block {index}"
            found[f"mixing_block_{index}"] = Learnt.of(title, tasks, columns, torch.cat(mixing_SKI, dim=1), "share")
        return found
