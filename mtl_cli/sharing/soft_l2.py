"""Soft parameter sharing by the squared distance between the tasks' parameters.

Shapes: K tasks, P numbers of a parameter (in its own shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from mtl_cli.sharing.column_chunks import add_to, differences, flat_gradients
from mtl_cli.sharing.columns import ColumnParameter, column_parameters
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.soft_sharing import SoftSharing
from mtl_cli.types import NonNegativeFloat

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class SoftL2(SoftSharing):
    """An encoder a task, kept near each other by the squared L2 distance of their parameters.

    With w_k the parameters of task k's encoder and w their mean over the K tasks, the objective gains

        strength * sum_k ||w_k - w||²                                   (form "mean")
        strength * 1 / (K - 1) * sum_{j<k} ||w_j - w_k||²               (form "pairwise")

    summed over all parameters that the tasks do not share. Since sum_{j<k} ||w_j - w_k||² = K sum_k ||w_k - w||², the
    second is K / (K - 1) times the first; with two tasks it is strength * ||w_1 - w_2||². With either, the pull on a
    task's parameters, 2 strength (w_k - w) and K / (K - 1) times that, hardly depends on the number of tasks. Tasks
    without rows in a step are pulled as well.

    Duong, Cohn, Bird and Cook, Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a Neural Network
    Parser, ACL 2015. There a parser of a second language is drawn towards one of a first language that is trained
    before and stays as it is, and word embeddings are left out, because the vocabularies differ; here all encoders are
    trained at the same time and draw each other, embeddings included.

    Strength 0 gives as many single-task models. On the same rows they have the losses of runs of one task each, step
    by step, if gradients are not clipped together (`trainer.max_grad_norm: null`): clipping goes by the norm over the
    parameters of all tasks.

    A very large strength is not the same as hard sharing: with plain gradient descent the distance shrinks by
    1 - 2 lr strength a step, so that lr * strength must stay below 1; and AdamW moves each number by about its
    learning rate, however large the penalty's gradient is. Columns then stay within a few learning rates of each other
    and no nearer, while the penalty's gradient, which by now dominates Adam's second moments (and the norm at which
    gradients are clipped), slows what the tasks have to learn. To tie them fully take sharing=hard.

    Costs K times the memory for parameters and optimizer of hard sharing, and the same computation for the rows. The
    penalty's gradient is in closed form and added to `.grad` in one pass over parameters and gradients, in pieces that
    stay in the cache. Nothing as large as the model is kept for it.

    Attributes:
        strength: factor of the penalty. 0.01 is an untested belief: where AdamW has moved each of 1e8 weights by 1e-3,
            a task's encoder is 10 away from where it began, which then costs as much as a loss of 1.
        form: see above.
        num_shared_layers: blocks that all tasks share, counted from the lowest; the embeddings, too, unless it is 0.
    """

    strength: NonNegativeFloat = 0.01
    form: Literal["mean", "pairwise"] = "mean"

    def penalties(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Return the penalty of the parameters as they are."""
        num_tasks = len(model.tasks)
        if self.strength == 0 or num_tasks == 1:
            return {}
        spreads = [_spread(*parameter.of_columns) for parameter in column_parameters(model.encoder)]
        return {"soft_l2": self._factor(num_tasks) * torch.stack(spreads).sum()} if spreads else {}

    @torch.no_grad()
    def add_penalty_gradients(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Add 2 strength (w_k - w), or K / (K - 1) times that, in one pass over parameters and gradients."""
        num_tasks = len(model.tasks)
        if self.strength == 0 or num_tasks == 1:
            return {}
        factor = self._factor(num_tasks)
        spreads = [_add_pull(parameter.of_columns, factor) for parameter in column_parameters(model.encoder)]
        return {"soft_l2": factor * torch.stack(spreads).sum()} if spreads else {}

    def _factor(self, num_tasks: int) -> float:
        return self.strength * (1.0 if self.form == "mean" else num_tasks / (num_tasks - 1))

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return how far the tasks' parameters have moved apart, relative to their length.

        `column_distance`: between each two tasks, ||w_j - w_k|| / ||w||. `column_distance_by_block`: of each task from
        the mean, ||w_k - w|| / ||w||, in each part of the encoder.
        """
        tasks = list(model.tasks)
        parts = self._by_part(model.encoder)
        if len(tasks) == 1 or not parts:
            return {}
        gramians_FKK, squares_F = map(torch.stack, zip(*(_deviations(found) for found in parts.values()), strict=True))
        gramian_KK = gramians_FKK.sum(0)
        norms_K = gramian_KK.diagonal()
        distances_KK = (norms_K[:, None] + norms_K[None, :] - 2 * gramian_KK).clamp(
            min=0
        ).sqrt() / squares_F.sum().sqrt()
        from_mean_KF = (gramians_FKK.diagonal(dim1=1, dim2=2) / squares_F[:, None]).sqrt().T
        return {
            "column_distance": Learnt.of("Distance between tasks' parameters / their norm", tasks, tasks, distances_KK),
            "column_distance_by_block": Learnt.of(
                "Distance of tasks' parameters from their mean / its norm", tasks, list(parts), from_mean_KF
            ),
        }


def _spread(*of_tasks: nn.Parameter) -> torch.Tensor:
    """sum_k ||w_k - w||² of one parameter, a scalar with a graph."""
    spread: torch.Tensor = _Spread.apply(*of_tasks)
    return spread


def _mean(of_tasks: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The mean over tasks: exactly their value where all are equal."""
    first, *others = of_tasks
    difference = torch.zeros_like(first)
    for other in others:
        difference.add_(other - first)
    return difference.div_(len(of_tasks)).add_(first)


class _Spread(torch.autograd.Function):
    """sum_k ||w_k - w||². Keeps no differences: the backward pass computes them again, one parameter at a time."""

    @staticmethod
    def forward(ctx: Any, *of_tasks: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*of_tasks)
        # With d_k = w_k - w_1: sum_k ||d_k||² - ||sum_k d_k||² / K. As many passes as there are tasks.
        first, *others = (value.reshape(-1) for value in of_tasks)
        total = torch.zeros_like(first)
        squares = []
        for other in others:
            difference = other - first
            squares.append(difference.dot(difference))
            total.add_(difference)
        return torch.stack(squares).sum() - total.dot(total) / len(of_tasks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        of_tasks = ctx.saved_tensors
        mean = _mean(of_tasks)
        return tuple((value - mean).mul_(2 * gradient) for value in of_tasks)


def _add_pull(of_tasks: Sequence[nn.Parameter], factor: float) -> torch.Tensor:
    """Add 2 factor (w_k - w) to each task's gradient; return sum_k ||w_k - w||²."""
    gradients = flat_gradients(of_tasks)
    squares = []
    for place, rows_KP in differences(of_tasks):
        rows_KP[0] = 0
        rows_KP -= rows_KP.mean(0)  # w_k - w: exactly 0 where all are equal
        flat = rows_KP.view(-1)
        squares.append(flat.dot(flat))
        add_to(gradients, place, rows_KP, 2 * factor)
    return torch.stack(squares).sum()


@torch.no_grad()
def _deviations(parameters: list[ColumnParameter]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inner products of the tasks' deviations from their mean, (K, K), and the mean's squared norm, in float64."""
    num_tasks = len(parameters[0].of_columns)
    device = parameters[0].of_columns[0].device
    gramian_KK = torch.zeros(num_tasks, num_tasks, dtype=torch.float64, device=device)
    square = torch.zeros((), dtype=torch.float64, device=device)
    for parameter in parameters:
        mean = _mean(parameter.of_columns)
        deviations_KP = torch.stack([(value - mean).flatten() for value in parameter.of_columns])
        gramian_KK += (deviations_KP @ deviations_KP.T).double()
        square += mean.square().sum().double()
    return gramian_KK, square
