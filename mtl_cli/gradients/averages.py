"""What weightings keep of the tasks' gradients between steps: moving averages of them, or sums of their squares.

Of an embedding only the rows that a step touches are read and written: the moving average of all other rows becomes
shorter by a factor, which is kept beside them.

Shapes: K tasks of a step, R tasks of the run, P numbers of a parameter, U rows of an embedding that a step touches, V
all of its rows, D their width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mtl_cli.gradients.blocks import Block, DenseBlock, RowBlock, pieces
from mtl_cli.gradients.task_gradients import TaskGradients
from mtl_cli.precision import wide_dtype
from mtl_cli.weighting import AverageWeighting, SquaresWeighting, StepInfo
from mtl_cli.weighting.weighting import Memory

InfoOf = Callable[[str], StepInfo]
"""From a group of parameters to what the weighting may know of the step, with that group's memory."""

# A factor below this is multiplied out before the numbers that it stands beside become too large for float32.
_SMALLEST_FACTOR = 1e-12


class AverageBlock(Block):
    """The moving averages of the tasks' gradients of one parameter: a factor a task times numbers.

    Args:
        values: the numbers, (R, *shape of the parameter).
        factor_R: float64 on the CPU.
        gramian_RR: inner products of the numbers, float64 on their device.
        index_K: the tasks of the step among those of the run, int64 on the CPU.
    """

    def __init__(
        self, values: torch.Tensor, factor_R: torch.Tensor, gramian_RR: torch.Tensor, index_K: torch.Tensor
    ) -> None:
        self.values = values
        self.factor_R = factor_R
        self.index_K = index_K
        factor_K, index = factor_R[index_K], index_K.to(gramian_RR.device)
        self._gramian_KK = gramian_RR[index][:, index] * torch.outer(factor_K, factor_K).to(gramian_RR.device)

    def _multiply(self, other: Block | None) -> torch.Tensor:
        assert other is not None
        return self.to_dense().inner_products(other)

    def combine(self, weights_K: torch.Tensor) -> torch.Tensor:
        """Add up the averages of the step's tasks."""
        weights_R = torch.zeros_like(self.factor_R)
        weights_R[self.index_K] = weights_K * self.factor_R[self.index_K]
        return DenseBlock(self.values).combine(weights_R)

    def add(self, other: Block) -> Block:
        """Add to the averages themselves."""
        return self.to_dense().add(other)

    def to_dense(self) -> DenseBlock:
        """Multiply out."""
        index = self.index_K.to(self.values.device)
        factor_K = self.factor_R[self.index_K].to(self.values)
        return DenseBlock(self.values[index] * factor_K.view(-1, *[1] * (self.values.ndim - 1)))


def averaged(weighting: AverageWeighting, gradients: TaskGradients, info_of: InfoOf) -> TaskGradients:
    """Let the moving averages follow the tasks' gradients; return the averages."""
    memory = weighting.memory.setdefault("parameters", {})
    shares: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    result = TaskGradients(gradients.tasks, gradients.shared)
    for name, block in gradients.blocks.items():
        info = info_of(gradients.shared[name].group)
        if id(info) not in shares:  # groups of parameters may be one to the weighting
            shares[id(info)] = weighting.average(info)
        keep_K, take_K = (share_K.double().cpu() for share_K in shares[id(info)])
        kept = _recall(memory, name, "average", block, info.num_tasks, gradients.shared[name].parameter)
        if "factor" not in kept:
            kept["factor"] = torch.ones(info.num_tasks, dtype=torch.float64)
            kept["gramian"] = kept["average"].new_zeros(info.num_tasks, info.num_tasks, dtype=torch.float64)
        if isinstance(block, RowBlock) and bool((keep_K > 0).all()):
            _follow_rows(kept, block, info.index_K, keep_K, take_K)
        else:
            _follow(kept, block.to_dense(), info.index_K, keep_K, take_K)
        result.add(name, AverageBlock(kept["average"], kept["factor"], kept["gramian"], info.index_K))
    return result


def _follow(kept: Memory, block: DenseBlock, index_K: torch.Tensor, keep_K: torch.Tensor, take_K: torch.Tensor) -> None:
    """Average all numbers, a piece at a time, which is multiplied while it is in the cache."""
    average_RP, gradients_KP = kept["average"].flatten(1), block.values.flatten(1)
    device, wide = average_RP.device, average_RP.dtype
    keep_R, take_R = torch.ones_like(kept["factor"]), torch.zeros_like(kept["factor"])
    keep_R[index_K], take_R[index_K] = keep_K, take_K
    keep_R1, take_K1 = (keep_R * kept["factor"]).to(device, wide)[:, None], take_K.to(device, wide)[:, None]
    kept["factor"] = torch.ones_like(kept["factor"])
    index = None if index_K.tolist() == list(range(len(average_RP))) else index_K.to(device)
    gramian_RR = torch.zeros_like(kept["gramian"])
    for part in pieces(average_RP):
        piece, new = average_RP[:, part], gradients_KP[:, part].to(wide)
        piece.mul_(keep_R1)
        if index is None:
            piece.addcmul_(new, take_K1)
        else:
            piece.index_add_(0, index, new * take_K1)
        gramian_RR += piece @ piece.T
    kept["gramian"] = gramian_RR


def _follow_rows(
    kept: Memory, block: RowBlock, index_K: torch.Tensor, keep_K: torch.Tensor, take_K: torch.Tensor
) -> None:
    """Average the rows that are touched; of the others, only the factor changes.

    Inner products change by those of the touched rows. What rounding adds to them shrinks with the factor.
    """
    factor_R, average_RVD, gramian_RR = kept["factor"].clone(), kept["average"], kept["gramian"]
    factor_R[index_K] *= keep_K
    small_R = (factor_R < _SMALLEST_FACTOR).nonzero()[:, 0]
    if len(small_R) > 0:
        scale_R = torch.ones_like(factor_R)
        scale_R[small_R] = factor_R[small_R]
        average_RVD.mul_(scale_R.to(average_RVD)[:, None, None])
        gramian_RR = gramian_RR * torch.outer(scale_R, scale_R).to(gramian_RR.device)
        factor_R[small_R] = 1.0
    kept["factor"] = factor_R
    device = average_RVD.device
    scale_K = (take_K / factor_R[index_K]).to(device, average_RVD.dtype)
    ids_U = torch.unique(block.ids_R)
    before_RP = average_RVD[:, ids_U].flatten(1)
    average_RVD.index_put_(
        (index_K.to(device)[block.task_R], block.ids_R),
        block.rows_RD.to(average_RVD.dtype) * scale_K[block.task_R][:, None],
        accumulate=True,
    )
    after_RP = average_RVD[:, ids_U].flatten(1)
    kept["gramian"] = gramian_RR + DenseBlock(after_RP).inner_products() - DenseBlock(before_RP).inner_products()


def observe_squares(weighting: SquaresWeighting, gradients: TaskGradients, info_of: InfoOf) -> None:
    """Add the squares of the gradients within the scope to those of earlier steps, and show both to the weighting."""
    memory = weighting.memory.setdefault("parameters", {})
    for name, block in gradients.blocks.items():
        if not gradients.shared[name].in_scope:
            continue
        info = info_of(gradients.shared[name].group)
        kept = _recall(memory, name, "squares", block, info.num_tasks, gradients.shared[name].parameter)
        squares: torch.Tensor = kept["squares"]
        index_K = info.index_K.to(squares.device)
        if isinstance(block, RowBlock):
            ids_U, values_KUD = block.touched_rows()
            gradients_KP = values_KUD.flatten(1).to(squares.dtype)
            rows = (index_K[:, None], ids_U[None])
            squares_KP = squares[rows].flatten(1).addcmul_(gradients_KP, gradients_KP)
            squares[rows] = squares_KP.view_as(values_KUD)
            weighting.observe(gradients_KP, squares_KP, info)
            continue
        all_tasks = info.index_K.tolist() == list(range(len(squares)))
        squares_RP, values_KP = squares.flatten(1), block.to_dense().values.flatten(1)
        for part in pieces(values_KP):
            gradients_KP = values_KP[:, part].to(squares.dtype)
            squares_KP = squares_RP[:, part] if all_tasks else squares_RP[index_K, part]
            squares_KP.addcmul_(gradients_KP, gradients_KP)
            if not all_tasks:
                squares_RP[index_K, part] = squares_KP
            weighting.observe(gradients_KP, squares_KP, info)


def _recall(
    memory: Memory, name: str, key: str, block: Block, num_tasks: int, parameter: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is kept of a parameter, on its device; zeros at first."""
    kept: dict[str, torch.Tensor] = memory.setdefault(name, {})
    if key not in kept:
        values = block.rows_RD if isinstance(block, RowBlock) else block.to_dense().values
        kept[key] = values.new_zeros(num_tasks, *parameter.shape, dtype=wide_dtype(values.dtype))
    if kept[key].device != parameter.device:  # restored from a checkpoint
        for other in kept.keys() - {"factor"}:
            kept[other] = kept[other].to(parameter.device)
    return kept
