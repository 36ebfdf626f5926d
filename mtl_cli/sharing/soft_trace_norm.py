"""Soft parameter sharing by tensor trace norms of the tasks' stacked parameters.

Shapes: K tasks, O outputs and I inputs of a layer, P numbers of a parameter, M rows and N columns of a matrix (M <= N),
F parameters.
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

Form = Literal["last_axis", "tucker", "tensor_train"]

# Singular values below this share of the largest are pulled in proportion to them instead of by 1.
_SMOOTHING = 1e-4


@dataclass(kw_only=True)
class SoftTraceNorm(SoftSharing):
    """An encoder a task, with the trace norm of the tasks' stacked parameters as a penalty.

    A parameter of all K tasks is stacked along a last axis to a tensor W of D_1 x ... x D_{n-1} x K. With ||X||_* the
    trace (nuclear) norm of a matrix, the sum of its singular values, the objective gains strength times the sum over
    all parameters of

        last_axis      ||W_(n)||_*                                W_(n): K x (D_1 ... D_{n-1})
        tucker         1/n sum_{i=1}^{n} ||W_(i)||_*              W_(i): D_i x (the product of all others)
        tensor_train   1/(n-1) sum_{i=1}^{n-1} ||W_[i]||_*        W_[i]: (D_1 ... D_i) x (D_{i+1} ... K)

    A low rank of W_(n) means that the tasks' parameters are mixtures of fewer than K; which layers share, and how much,
    is learnt. Yang and Hospedales, Trace Norm Regularised Deep Multi-Task Learning, ICLR workshop 2017. They leave a
    factor for each flattening to the user; here all are equal and sum to 1. Vectors (biases, scales), for which n = 2,
    are stacked as well: the three forms then coincide.

    The gradient U Vᵀ is not unique where W has not full rank, as at the start, where all tasks' parameters are equal.
    Computed is (X Xᵀ + e² I)^(-1/2) X, that of sum_i sqrt(s_i² + e²), with e = 1e-4 times the largest singular value:
    directions below e are pulled in proportion to their length, and columns that are equal stay equal. X Xᵀ is formed
    from differences (last_axis) or in float64, and decomposed in float64, so that small singular values are right.

    Strength 0 gives as many single-task models, but for clipping, which goes by the norm over all tasks' parameters
    (`trainer.max_grad_norm`).

    As in the paper the norm also shrinks what the tasks have in common. AdamW, which moves every number by its learning
    rate however small its gradient is, shrinks numbers that no loss reaches (embeddings of words that do not occur) by
    that much a step: give `num_shared_layers` 1 or more, and the embeddings are left out.

    Cost of a step: with last_axis the K x K Gramian of each parameter and a product with a K x K matrix, which is added
    to the gradients in place: one more pass over the parameters than `SoftL2` makes. The others need, besides that, for
    each matrix and each flattening the product and the eigendecomposition of a square matrix as wide as the smaller
    side: O and I of each layer, and for word embeddings K times the width. On one CPU core the decomposition alone took
    0.1 s for 384, 1.3 s for 1536: with 12 blocks of these widths half a minute a step. They are for small encoders, or
    with most blocks shared.

    Attributes:
        strength: factor of the penalty. 1e-3 is an untested belief: each matrix's gradient then has a length of about
            1e-3, some percent of that of a loss.
        form: see above.
        num_shared_layers: blocks that all tasks share, counted from the lowest; the embeddings, too, unless it is 0.
    """

    strength: NonNegativeFloat = 1e-3
    form: Form = "last_axis"

    def penalties(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Return the penalty of the parameters as they are."""
        if self.strength == 0 or len(model.tasks) == 1:
            return {}
        norms = [tensor_trace_norm(found.of_columns, self.form) for found in column_parameters(model.encoder)]
        return {"trace_norm": self.strength * torch.stack(norms).sum()} if norms else {}

    def add_penalty_gradients(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Add strength U Vᵀ; with `last_axis` in two passes over the parameters and one over their gradients."""
        if self.form != "last_axis" or self.strength == 0 or len(model.tasks) == 1:
            return super().add_penalty_gradients(model)
        with torch.no_grad():
            norms = [_add_by_task(found.of_columns, self.strength) for found in column_parameters(model.encoder)]
        return {"trace_norm": self.strength * torch.stack(norms).sum()} if norms else {}

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return the spectrum of the tasks' stacked parameters in each part of the encoder.

        `singular_values`: of W_(n), largest first, each the mean over the part's parameters of its share of their sum.
        `effective_rank`: exp of the entropy of these shares (Roy and Vetterli, EUSIPCO 2007), from 1 where all tasks'
        parameters point in one direction to K.
        """
        parts = self._by_part(model.encoder)
        num_tasks = len(model.tasks)
        if num_tasks == 1 or not parts:
            return {}
        shares_FK = torch.stack([_shares(found) for found in parts.values()])
        ranks_F1 = torch.special.entr(shares_FK).sum(1, keepdim=True).exp()
        numbers = [str(number + 1) for number in range(num_tasks)]
        return {
            "singular_values": Learnt.of(
                "Share of each singular value of the tasks' stacked parameters",
                list(parts),
                numbers,
                shares_FK,
                "share",
            ),
            "effective_rank": Learnt.of(
                "Effective rank of the tasks' stacked parameters", list(parts), ["effective_rank"], ranks_F1
            ),
        }


def tensor_trace_norm(of_tasks: Sequence[torch.Tensor], form: Form) -> torch.Tensor:
    """Return the trace norm of parameters stacked along a last axis, in float32, with a graph.

    Args:
        of_tasks: each task's parameter, all of one shape.
        form: which flattenings; see `SoftTraceNorm`.
    """
    ndim = of_tasks[0].ndim
    by_task: torch.Tensor = _ByTask.apply(*of_tasks)
    if form == "last_axis" or ndim < 2:
        return by_task
    if form == "tucker":
        # W_(i) has D_i rows; the order of its columns changes neither norm nor gradient.
        others = [_norm_beside([x.movedim(axis, 0).flatten(1) for x in of_tasks]) for axis in range(ndim)]
    else:
        # The last of the n - 1 flattenings, (D_1 ... D_{n-1}) x K, is the transpose of W_(n).
        others = [_norm_beside([x.flatten(0, axis).flatten(1) for x in of_tasks]) for axis in range(ndim - 1)]
    return torch.stack([*others, by_task]).mean()


def _norm_beside(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """The trace norm of the tasks' matrices side by side."""
    norm: torch.Tensor = _TraceNorm.apply(torch.cat(list(matrices), dim=1))
    return norm


def _root_and_inverse(gramian_MM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values of X, smallest first, and (X Xᵀ + e² I)^(-1/2), from X Xᵀ in float64."""
    squares_M, vectors_MM = torch.linalg.eigh(gramian_MM)
    squares_M = squares_M.clamp(min=0)
    # The least normal number keeps a matrix of zeros finite: its gradient is 0.
    smooth_M = (squares_M + _SMOOTHING**2 * squares_M[-1]).clamp(min=torch.finfo(torch.float32).tiny)
    return squares_M.sqrt(), (vectors_MM * smooth_M.rsqrt()) @ vectors_MM.T


class _TraceNorm(torch.autograd.Function):
    """The trace norm of a matrix, by the Gramian of its smaller side."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        wide_MN = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        double_MN = wide_MN.double()
        values_M, inverse_MM = _root_and_inverse(double_MN @ double_MN.T)
        ctx.save_for_backward(matrix, inverse_MM)
        return values_M.sum().to(matrix.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        matrix, inverse_MM = ctx.saved_tensors
        tall = matrix.shape[0] > matrix.shape[1]
        wide_MN = matrix.T if tall else matrix
        found_MN = (inverse_MM @ wide_MN.double()).to(matrix.dtype) * gradient
        return found_MN.T if tall else found_MN


class _ByTask(torch.autograd.Function):
    """The trace norm of K x P, a row a task, without putting the rows together."""

    @staticmethod
    def forward(ctx: Any, *of_tasks: torch.Tensor) -> torch.Tensor:
        values_K, ctx.inverse_KK = _root_and_inverse(_gramian(of_tasks))
        ctx.save_for_backward(*of_tasks)
        return values_K.sum().to(of_tasks[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        of_tasks = ctx.saved_tensors
        found = [torch.zeros(value.numel(), dtype=value.dtype, device=value.device) for value in of_tasks]
        _add_directions(found, of_tasks, gradient * ctx.inverse_KK)
        return tuple(row.view_as(value) for row, value in zip(found, of_tasks, strict=True))


def _add_by_task(of_tasks: Sequence[nn.Parameter], strength: float) -> torch.Tensor:
    """Add strength times the gradient of the trace norm of K x P to the tasks' gradients; return the norm."""
    values_K, inverse_KK = _root_and_inverse(_gramian(of_tasks))
    _add_directions(flat_gradients(of_tasks), of_tasks, strength * inverse_KK)
    return values_K.sum().to(of_tasks[0].dtype)


def _add_directions(
    gradients: Sequence[torch.Tensor], of_tasks: Sequence[torch.Tensor], inverse_KK: torch.Tensor
) -> None:
    """Add the inverse times X to vectors, from the first row of X and the others' differences from it."""
    product_KK = (inverse_KK @ _from_differences(inverse_KK)).to(of_tasks[0].dtype)
    for place, rows_KP in differences(of_tasks):
        add_to(gradients, place, product_KK @ rows_KP)


def _from_differences(like_KK: torch.Tensor) -> torch.Tensor:
    """The matrix that makes the tasks' rows of the first row and the differences from it: the first column is 1."""
    matrix_KK = torch.eye(len(like_KK), dtype=like_KK.dtype, device=like_KK.device)
    matrix_KK[:, 0] = 1
    return matrix_KK


def _gramian(of_tasks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inner products of the tasks' parameters, (K, K), in float64."""
    num_tasks = len(of_tasks)
    device = of_tasks[0].device
    gramian_KK = torch.zeros(num_tasks, num_tasks, dtype=torch.float64, device=device)
    with torch.autocast(device.type, enabled=False):
        for _, rows_KP in differences(of_tasks):
            gramian_KK += (rows_KP @ rows_KP.T).double()
    matrix_KK = _from_differences(gramian_KK)
    return matrix_KK @ gramian_KK @ matrix_KK.T


@torch.no_grad()
def _shares(parameters: list[ColumnParameter]) -> torch.Tensor:
    """The mean over parameters of each singular value's share of their sum, largest first, (K,)."""
    shares = []
    for parameter in parameters:
        values_K = _root_and_inverse(_gramian(parameter.of_columns))[0].flip(0)
        if values_K[0] > 0:
            shares.append(values_K / values_K.sum())
    if not shares:
        return torch.full((len(parameters[0].of_columns),), torch.nan, dtype=torch.float64)
    return torch.stack(shares).mean(0)
