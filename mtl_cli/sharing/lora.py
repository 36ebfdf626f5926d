"""Low-rank adaptation.

Shapes: K tasks, L blocks, D inputs and O outputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.lora_layers import LowRankUpdate, OneForAll, OneForEach, named_updates
from mtl_cli.sharing.low_rank_sharing import LowRankSharing

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class LoRA(LowRankSharing):
    """Each task has low-rank updates of its own of some of the encoder's weights.

    A linear layer computes, for the rows of task t,

        W x + (alpha / R) B_t A_t x,

    W (O x D) the encoder's weight, A_t (R x D) and B_t (O x R) the task's. Hu et al., LoRA: Low-Rank Adaptation of
    Large Language Models, ICLR 2022. B begins at zero, so that the first step sees the plain encoder; A begins as in
    the official code (see `LowRank`). Where ours differs:

    - The paper adapts to one task at a time. Here tasks train together, which matters where they share something: with
      `per_task: false` all share one A and B, with `train_encoder: true` the encoder. With neither, nothing is shared
      between the tasks but a frozen encoder: as many adaptations as tasks, computed in one pass, that differ from
      those of single-task runs by clipping alone, which goes by the norm over all of them (`trainer.max_grad_norm`).
    - Updates are never merged into W, because the rows of a step belong to several tasks.

    Attributes:
        rank: R; 8 is the paper's for RoBERTa.
        alpha: numerator of the scaling; the paper takes the first rank that was tried, twice the rank is usual since.
        rank_scaling: "standard" is alpha / R, "sqrt" is alpha / sqrt(R), with which the learning rate needs no change
            at larger ranks (Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023).
        dropout: share of the update's inputs set to zero in training. The paper has up to 0.1 (GPT-2).
        targets: which layers of each block: query, key, value, attention_output, feed_forward_input,
            feed_forward_output. None: query and value, as in the paper; of a family whose queries serve relative
            positions too (DeBERTa), value alone.
        per_task: whether each task has its own matrices; False: one pair a layer for all tasks.
        train_encoder: whether the encoder is trained, too; the paper freezes it.
    """

    per_task: bool = True

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """With matrices of the tasks' own, each block has task-specific parts."""
        return "each block holds low-rank matrices of the tasks' own" if self.per_task else None

    def shares_parameters(self) -> bool:
        """Whether the matrices or the encoder are trained by several tasks."""
        return self.train_encoder or not self.per_task

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return how many blocks hold what several tasks train: all or none."""
        return num_blocks if self.shares_parameters() else 0

    def new_update(self, num_inputs: int, num_outputs: int, task_names: Sequence[str]) -> LowRankUpdate:
        """Return a low-rank matrix a task, or one for all."""
        if self.per_task:
            return OneForEach(num_inputs, num_outputs, self.rank, task_names)
        return OneForAll(num_inputs, num_outputs, self.rank)

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return how large the updates of each block are: a row a task, or one for all."""
        blocks = model.encoder.blocks
        rows = list(model.tasks) if self.per_task else ["all_tasks"]
        norms_KL = torch.zeros(len(rows), len(blocks))
        with torch.no_grad():
            for column, block in enumerate(blocks):
                for _, layer, update in named_updates(block):
                    assert isinstance(update, OneForEach | OneForAll)
                    for row, task in enumerate(rows):
                        norms_KL[row, column] += float(layer.scaling * update.matrix_of(task).norm()) ** 2
        columns = [f"block_{index}" for index in range(len(blocks))]
        title = "Frobenius norm of the scaled low-rank updates of each block"
        return {"update_norms": Learnt.of(title, rows, columns, norms_KL.sqrt())}
