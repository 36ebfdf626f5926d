"""Adapters: bottleneck modules of each task inside the blocks of one encoder.

Shapes: K tasks, L blocks with adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.encoders.sites import check_sites
from mtl_cli.sharing.adapter_layers import (
    PLACEMENTS,
    Activation,
    AdaptedLayer,
    Adapter,
    Placement,
    adapted_layers,
)
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.small_modules import SmallModules, block_names, product_norm
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import replace_module
from mtl_cli.types import NonNegativeFloat, PositiveInt, Probability

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class Adapters(SmallModules):
    """Each task has small modules of its own behind the output projections of attention and feed-forward parts.

    The output y of a projection becomes, for the rows of task k,

        y + U_k a(D_k y + c_k) + b_k,

    D_k (bottleneck x hidden width), U_k its counterpart, c_k and b_k biases, a the activation. All else is shared.

    Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, have adapters behind both parts of a
    block. Pfeiffer et al., AdapterFusion: Non-Destructive Task Composition for Transfer Learning, EACL 2021, have one
    a block, behind the feed-forward part. Where ours differs:

    - In the papers each task's adapters are trained by themselves, in a frozen encoder. Here the tasks train together,
      and by default the encoder with them; `train_encoder: false` leaves adapters, heads and (`train_norms`) the layer
      normalisations, which all tasks share, where Houlsby et al. train normalisations for each task.
    - Houlsby et al. put the adapter behind the dropout of the sub-layer and before the residual sum. Here it stands
      right behind the projection, before that dropout: the one place that every family has. Without dropout, as in
      evaluation, it is the same. Pfeiffer et al. also move a normalisation in front of the adapter; here it sees what
      comes out of the projection.
    - The papers' first weights are near zero; U_k begins at exactly zero, so that the first step sees the plain
      encoder. D_k begins as BERT's weights do, biases at zero.

    Attributes:
        placement: "houlsby" behind attention and feed-forward part, "pfeiffer" behind the feed-forward part alone.
        bottleneck: width of the modules; Houlsby et al. try 8, 64 and 256 with BERT large.
        activation: a.
        dropout: share of the bottleneck's activations set to zero in training; 0 as in the papers.
        up_std: standard deviation of the first weights of U_k.
        blocks: numbers of the blocks with adapters, 0 the lowest, -1 the highest; None: all.
        train_encoder: whether the encoder is trained, too.
        train_norms: with a frozen encoder, whether its layer normalisations are trained all the same, by all tasks.
    """

    placement: Placement = "houlsby"
    bottleneck: PositiveInt = 64
    activation: Activation = "gelu"
    dropout: Probability = 0.0
    up_std: NonNegativeFloat = 0.0
    blocks: list[int] | None = None
    train_encoder: bool = True
    train_norms: bool = True

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families whose layers are not known."""
        check_sites(encoder.family, PLACEMENTS[self.placement], "sharing.placement")

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put the adapters into the blocks."""
        blocks = self.chosen_blocks(encoder, "sharing.placement")
        self.freeze(encoder)
        for block in blocks.values():
            for name in PLACEMENTS[self.placement]:
                for site in encoder.sites(block, name, "sharing.placement"):
                    of_task = TaskModules({task: self._new_adapter(encoder.hidden_size) for task in task_names})
                    replace_module(block, site.path, AdaptedLayer(block.get_submodule(site.path), of_task))

    def _new_adapter(self, hidden_size: int) -> Adapter:
        return Adapter(
            hidden_size, self.bottleneck, activation=self.activation, dropout=self.dropout, up_std=self.up_std
        )

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return how much each task's adapters do in each block."""
        tasks, blocks = list(model.tasks), self.chosen_blocks(model.encoder, "sharing.placement")
        norms_KL = torch.zeros(len(tasks), len(blocks))
        with torch.no_grad():
            for column, block in enumerate(blocks.values()):
                for row, task in enumerate(tasks):
                    adapters = [layer.adapter(task) for layer in adapted_layers(block)]
                    norms = [product_norm(adapter.up.weight, adapter.down.weight) for adapter in adapters]
                    norms_KL[row, column] = torch.stack(norms).norm()
        title = "Frobenius norm of U D, the linear part of each task's adapters, by block"
        return {"adapter_norms": Learnt.of(title, tasks, block_names(list(blocks)), norms_KL)}
