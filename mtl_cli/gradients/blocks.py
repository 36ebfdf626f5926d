"""The tasks' gradients of one parameter: dense, or only the rows of an embedding that a step touches.

Shapes: K tasks of a step, P numbers of the parameter, D width of an embedding's row, R rows of all tasks, U different
rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from mtl_cli.precision import at_least_float32, wide_dtype

# Numbers of a parameter that are worked on at once: a piece of all tasks' gradients stays in a processor's cache.
_PIECE = 65_536
# Of a product whose sums are this long in float32 BLAS computes many side by side, and faster than one with long sums.
_RUN = 4096
# Numbers of all tasks together that are multiplied at once.
_MULTIPLIED_AT_ONCE = 2**21


def pieces(values_KP: torch.Tensor, size: int = _PIECE) -> list[slice]:
    """Cut the numbers of a parameter into pieces that are worked on one after the other; not on a GPU."""
    length = values_KP.shape[1]
    if values_KP.is_cuda:
        size = length
    return [slice(start, min(start + size, length)) for start in range(0, length, max(size, 1))]


class Block(ABC):
    """Each task's gradient of one parameter; a task that does not use it has zeros."""

    _gramian_KK: torch.Tensor | None = None

    def inner_products(self, other: Block | None = None) -> torch.Tensor:
        """Return the inner products of each two tasks' gradients, float64 on the gradients' device, (K, K).

        Rows are the tasks of this block and columns those of `other` (None: of this block, whose products are kept).
        """
        if other is not None:
            return self._multiply(other)
        if self._gramian_KK is None:
            self._gramian_KK = self._multiply(None)
        return self._gramian_KK

    @abstractmethod
    def _multiply(self, other: Block | None) -> torch.Tensor:
        """Compute what `inner_products` returns."""

    @abstractmethod
    def combine(self, weights_K: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the tasks' gradients, in the parameter's shape, float32 or the gradients' type.

        Args:
            weights_K: float64 on the CPU.
        """

    @abstractmethod
    def add(self, other: Block) -> Block:
        """Return the sum of two blocks, for example of two micro-batches; may change this one in place."""

    @abstractmethod
    def to_dense(self) -> DenseBlock:
        """Return the block with all numbers of the parameter."""


class DenseBlock(Block):
    """All numbers of each task's gradient.

    Args:
        values: (K, *shape of the parameter), in float64, float32 or bfloat16.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def _multiply(self, other: Block | None) -> torch.Tensor:
        """Multiply in float32 at least, and add up in float64."""
        other_dense = self if other is None else other.to_dense()
        left_KP, right_KP = self.values.flatten(1), other_dense.values.flatten(1)
        wide = wide_dtype(left_KP.dtype)
        total_KK = torch.zeros(len(left_KP), len(right_KP), dtype=torch.float64, device=left_KP.device)
        for part in pieces(left_KP, max(_MULTIPLIED_AT_ONCE // len(left_KP), _RUN)):
            left = left_KP[:, part].to(wide)
            right = left if other is None else right_KP[:, part].to(wide)
            in_runs = left.shape[1] // _RUN * _RUN
            if in_runs:
                runs = [side[:, :in_runs].unflatten(1, (-1, _RUN)).transpose(0, 1) for side in (left, right)]
                total_KK += torch.bmm(runs[0], runs[1].mT).sum(0, dtype=torch.float64)
            if in_runs < left.shape[1]:
                total_KK += left[:, in_runs:] @ right[:, in_runs:].T
        return total_KK

    def combine(self, weights_K: torch.Tensor) -> torch.Tensor:
        """Add up one task after the other (on a GPU all at once), in float32 at least."""
        values_KP = self.values.flatten(1)
        wide = wide_dtype(values_KP.dtype)
        if values_KP.is_cuda:
            return (weights_K.to(values_KP.device, wide) @ values_KP.to(wide)).view(self.values.shape[1:])
        combined_P = torch.zeros(values_KP.shape[1], dtype=wide)
        for part in pieces(values_KP, 4 * _PIECE):
            for gradient_P, weight in zip(values_KP[:, part], weights_K.tolist(), strict=True):
                combined_P[part].add_(gradient_P, alpha=weight)
        return combined_P.view(self.values.shape[1:])

    def add(self, other: Block) -> Block:
        """Add in float32 at least."""
        self.values = at_least_float32(self.values)
        self.values += other.to_dense().values
        self._gramian_KK = None
        return self

    def to_dense(self) -> DenseBlock:
        """Return the block itself."""
        return self


class RowBlock(Block):
    """The rows of an embedding that each task touches; all other rows of its gradient are zero.

    Args:
        task_R: whose row it is, 0..K-1, int64; rows are sorted by task, then by id.
        ids_R: which row of the embedding it is, int64; no task has an id twice.
        rows_RD: the gradient of the row.
        num_tasks: K.
        shape: of the parameter.
    """

    def __init__(
        self, task_R: torch.Tensor, ids_R: torch.Tensor, rows_RD: torch.Tensor, num_tasks: int, shape: torch.Size
    ) -> None:
        self.task_R = task_R
        self.ids_R = ids_R
        self.rows_RD = rows_RD
        self.num_tasks = num_tasks
        self.shape = shape

    @classmethod
    def sum_up(
        cls, task_N: torch.Tensor, ids_N: torch.Tensor, gradients_ND: torch.Tensor, num_tasks: int, shape: torch.Size
    ) -> RowBlock:
        """Add up the gradients of tokens with the same task and id."""
        keys_R, row_of_token_N = torch.unique(task_N * shape[0] + ids_N, return_inverse=True)
        wide = wide_dtype(gradients_ND.dtype)
        rows_RD = torch.zeros(len(keys_R), gradients_ND.shape[-1], dtype=wide, device=gradients_ND.device)
        rows_RD.index_add_(0, row_of_token_N, gradients_ND.to(wide))
        return cls(keys_R // shape[0], keys_R % shape[0], rows_RD, num_tasks, shape)

    @classmethod
    def empty(cls, parameter: torch.Tensor, num_tasks: int) -> RowBlock:
        """Return a block in which no task touches a row."""
        nothing = torch.zeros(0, dtype=torch.int64, device=parameter.device)
        return cls(nothing, nothing, parameter.new_zeros(0, parameter.shape[1]), num_tasks, parameter.shape)

    def _multiply(self, other: Block | None) -> torch.Tensor:
        """Multiply only rows that two tasks both touch."""
        if other is not None:
            if not isinstance(other, RowBlock):
                return self.to_dense().inner_products(other)
            (left_UKD, right_UKD) = _over_common_ids(self, other)
            return torch.einsum("uid,ujd->ij", left_UKD, right_UKD).double()
        ids_R, order_R = torch.sort(self.ids_R, stable=True)
        task_R, rows_RD = self.task_R[order_R], self.rows_RD[order_R]
        gramian_KK = torch.zeros(self.num_tasks, self.num_tasks, dtype=torch.float64, device=rows_RD.device)
        # Rows of one id stand together, at most one a task: their pairs are those at a distance of 0 .. K - 1.
        for distance in range(min(self.num_tasks, len(ids_R))):
            first_R = torch.nonzero(ids_R[distance:] == ids_R[: len(ids_R) - distance])[:, 0]
            products_R = torch.einsum("rd,rd->r", rows_RD[first_R], rows_RD[first_R + distance]).double()
            pair = (task_R[first_R], task_R[first_R + distance])
            gramian_KK.index_put_(pair, products_R, accumulate=True)
            if distance > 0:
                gramian_KK.index_put_((pair[1], pair[0]), products_R, accumulate=True)
        return gramian_KK

    def combine(self, weights_K: torch.Tensor) -> torch.Tensor:
        """Return the whole gradient of the embedding: zeros outside of the touched rows."""
        combined = self.rows_RD.new_zeros(self.shape)
        weights_R = weights_K.to(self.rows_RD.device, self.rows_RD.dtype)[self.task_R]
        return combined.index_add_(0, self.ids_R, self.rows_RD * weights_R[:, None])

    def combine_rows(self, weights_K: torch.Tensor) -> torch.Tensor:
        """Return what `combine` does as a sparse tensor of the touched rows."""
        weights_R = weights_K.to(self.rows_RD.device, self.rows_RD.dtype)[self.task_R]
        return torch.sparse_coo_tensor(
            self.ids_R[None], self.rows_RD * weights_R[:, None], self.shape, check_invariants=False
        )

    def add(self, other: Block) -> Block:
        """Add up rows that both have."""
        if not isinstance(other, RowBlock):
            return self.to_dense().add(other)
        return RowBlock.sum_up(
            torch.cat([self.task_R, other.task_R]),
            torch.cat([self.ids_R, other.ids_R]),
            torch.cat([self.rows_RD, other.rows_RD]),
            self.num_tasks,
            self.shape,
        )

    def to_dense(self) -> DenseBlock:
        """Fill in the rows that no task touches."""
        values = self.rows_RD.new_zeros(self.num_tasks, *self.shape)
        values[self.task_R, self.ids_R] = self.rows_RD
        return DenseBlock(values)

    def touched_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids that any task touches, int64 (U,), and each task's gradient of these rows, (K, U, D)."""
        ids_U, place_R = torch.unique(self.ids_R, return_inverse=True)
        values_KUD = self.rows_RD.new_zeros(self.num_tasks, len(ids_U), self.rows_RD.shape[1])
        values_KUD[self.task_R, place_R] = self.rows_RD
        return ids_U, values_KUD


def _over_common_ids(left: RowBlock, right: RowBlock) -> tuple[torch.Tensor, torch.Tensor]:
    """Both blocks' rows over the ids of either, (U, K, D) each."""
    ids_U, place = torch.unique(torch.cat([left.ids_R, right.ids_R]), return_inverse=True)
    filled = []
    for block, at in zip((left, right), place.split([len(left.ids_R), len(right.ids_R)]), strict=True):
        values_UKD = block.rows_RD.new_zeros(len(ids_U), block.num_tasks, block.rows_RD.shape[1])
        values_UKD[at, block.task_R] = block.rows_RD
        filled.append(values_UKD)
    return filled[0], filled[1]


class ProductBlock(Block):
    """The gradients of a linear layer's weights, each G_kᵀ X_k over one task's tokens, formed anew when asked for.

    Keeps what the products are made of in place of the products: less memory where many tasks train large layers.

    Args:
        inputs_ND: the layer's inputs X.
        gradients_NO: gradients G of the tasks' losses by the layer's outputs.
        slices: each task's tokens; K of them.
        transposed: whether the weight is stored as (inputs, outputs), as GPT-2 does.
    """

    def __init__(
        self, inputs_ND: torch.Tensor, gradients_NO: torch.Tensor, slices: list[slice], transposed: bool
    ) -> None:
        inputs_ND, gradients_NO = inputs_ND.detach(), gradients_NO.detach()
        self.left, self.right = (inputs_ND, gradients_NO) if transposed else (gradients_NO, inputs_ND)
        self.slices = slices

    def _multiply(self, other: Block | None) -> torch.Tensor:
        """Form the products for it."""
        return self.to_dense().inner_products(other)

    def combine(self, weights_K: torch.Tensor) -> torch.Tensor:
        """One product over all tokens, each token's part scaled by its task's weight."""
        scaled = torch.empty_like(self.left)
        for part, weight in zip(self.slices, weights_K.tolist(), strict=True):
            torch.mul(self.left[part], weight, out=scaled[part])
        return scaled.T @ self.right

    def add(self, other: Block) -> Block:
        """Form the products."""
        return self.to_dense().add(other)

    def to_dense(self) -> DenseBlock:
        """Form the products."""
        return DenseBlock(products(self.left, self.right, self.slices))


def products(left_NO: torch.Tensor, right_ND: torch.Tensor, slices: list[slice]) -> torch.Tensor:
    """Return leftᵀ right over each task's tokens, (K, O, D)."""
    values = left_NO.new_empty(len(slices), left_NO.shape[1], right_ND.shape[1])
    for product, part in zip(values, slices, strict=True):
        torch.mm(left_NO[part].T, right_ND[part], out=product)
    return values
