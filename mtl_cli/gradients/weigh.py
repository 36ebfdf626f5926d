"""What a weighting makes of the inner products of the tasks' gradients of a group of parameters.

Shapes: K tasks of a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mtl_cli.weighting import GramianWeighting, StepInfo


@dataclass(frozen=True)
class Weighed:
    """The weights that follow from a Gramian, float64 on the CPU.

    Attributes:
        weights_K: of each task's gradient of shared parameters.
        heads_K: of each task's own parameters.
    """

    weights_K: torch.Tensor
    heads_K: torch.Tensor


def weigh(weighting: GramianWeighting, gramian_KK: torch.Tensor, step: StepInfo) -> Weighed:
    """Ask the weighting, about the tasks that have a gradient here alone.

    A task has none where its rows do not go through these parameters: through a block above its head, another group's
    encoder, a block that it skips. Beside it the shortest vector in the convex hull, for one, would be 0, and the
    others would not train. It gets the mean of their weights, which counts where a method looks at some of the blocks
    and weighs all. Where no task has a gradient, and with methods that need every task, all of them are asked about.
    """
    there_K = gramian_KK.diagonal() != 0
    asks_all = "all" in (weighting.needs_tasks, weighting.asks_about)
    if asks_all or bool(there_K.all()) or not bool(there_K.any()):
        weights_K = weighting.weights(gramian_KK, step)
        return Weighed(_on_cpu(weights_K), _on_cpu(weighting.head_weights(step, weights_K)))
    part = replace(
        step,
        tasks=tuple(task for task, there in zip(step.tasks, there_K.tolist(), strict=True) if there),
        index_K=step.index_K[there_K.to(step.index_K.device)],
        losses_K=step.losses_K[there_K.to(step.losses_K.device)],
    )
    found = weighting.weights(gramian_KK[there_K][:, there_K], part)
    of_heads = weighting.head_weights(part, found)
    return Weighed(_spread(_on_cpu(found), there_K), _spread(_on_cpu(of_heads), there_K))


def _on_cpu(values: torch.Tensor) -> torch.Tensor:
    return values.detach().double().cpu()


def _spread(found: torch.Tensor, there_K: torch.Tensor) -> torch.Tensor:
    """Values of all tasks from those of some, whose mean the others get."""
    values_K = found.mean().repeat(len(there_K))
    values_K[there_K] = found
    return values_K
