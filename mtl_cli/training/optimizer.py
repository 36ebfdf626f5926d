"""AdamW with parameter groups: no decay where it hurts, encoder and heads apart, layer-wise decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from mtl_cli.gradients.ranks import is_distributed
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing.wrappers import OptimizerMark, marks_of
from mtl_cli.training.lazy_adamw import LazyAdamW
from mtl_cli.types import Fraction, NonNegativeFloat, PositiveFloat, Probability, UserError


@dataclass(kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019), torch's fused one, to rounding.

    Vectors (biases, the scales of layer norms) have no weight decay, as usual since BERT. A sharing strategy may mark
    parameters of its own that have none, or another learning rate.

    Args:
        lr: base learning rate of the encoder.
        head_lr: base learning rate of the heads; None: the same as `lr`. Heads start from random weights and often
            gain from a higher one.
        layer_decay: factor by which the learning rate falls from each encoder block to the one below, embeddings
            lowest (Howard and Ruder, ULMFiT, ACL 2018; Clark et al., ELECTRA, ICLR 2020); 1: the same everywhere.
        lazy_embedding: on a CPU, update a row of the word embedding when it is next read rather than in each step. To
            rounding, the same numbers (`LazyAdamW`).
    """

    lr: PositiveFloat = 1e-4
    head_lr: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 0.01
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    eps: PositiveFloat = 1e-8
    layer_decay: Fraction = 1.0
    lazy_embedding: bool = True

    def __post_init__(self) -> None:
        if self.layer_decay == 0:
            raise UserError(
                "optimizer.layer_decay: found 0, which trains only the top block; allowed: above 0, up to 1"
            )

    def build(self, model: MultiTaskModel, lazy: bool = False) -> LazyAdamW:
        """Make the optimizer over all trainable parameters; each group keeps its base rate as `base_lr`.

        Args:
            model: the model, on its device.
            lazy: whether the caller tells the optimizer which ids a step reads, as `lazy_embedding` needs.
        """
        num_blocks = len(model.encoder.blocks)
        depth = {id(p): i + 1 for i, block in enumerate(model.encoder.blocks) for p in block.parameters()}
        depth |= {id(p): num_blocks for p in model.encoder.extras.parameters()}
        marks = marks_of(model)
        in_encoder = {id(p) for p in model.encoder.parameters()}
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) in in_encoder:
                lr = self.lr * self.layer_decay ** (num_blocks - depth.get(id(parameter), 0))
            else:
                lr = self.head_lr or self.lr
            mark = marks.get(id(parameter), OptimizerMark())
            lr *= mark.lr_factor
            decay = self.weight_decay if parameter.ndim > 1 and mark.decay else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
        return LazyAdamW(
            [
                {"params": params, "lr": lr, "base_lr": lr, "weight_decay": decay}
                for (lr, decay), params in groups.items()
            ],
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            embeddings=self._lazy_embeddings(model) if lazy and self.lazy_embedding else [],
        )

    def _lazy_embeddings(self, model: MultiTaskModel) -> list[nn.Embedding]:
        """The word embedding, where lookups of the step's ids are all that reads it, and waiting pays."""
        try:
            embedding = model.encoder.model.get_input_embeddings()
        except (NotImplementedError, AttributeError):  # transformers' answer for a few families
            return []
        if type(embedding) is not nn.Embedding or not embedding.weight.requires_grad:
            return []
        uses = [name for name, p in model.named_parameters(remove_duplicate=False) if p is embedding.weight]
        is_penalised = any(p is embedding.weight for p in model.sharing.penalised_parameters(model))
        reads_otherwise = len(uses) > 1 or is_penalised or embedding.max_norm is not None
        # Only where momentum fades before the squares do is a sum of missed steps finite.
        fades = self.beta1 < math.sqrt(self.beta2) and self.lr * self.weight_decay < 1
        on_cpu = embedding.weight.device.type == "cpu"
        return [embedding] if on_cpu and fades and not reads_otherwise and not is_distributed() else []
