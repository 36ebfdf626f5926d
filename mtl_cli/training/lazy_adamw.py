"""AdamW that leaves rows of the word embedding alone until they are read: on a CPU, half the update of a small encoder.

Shapes: V rows of the embedding, D their width, R rows at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.adamw import adamw

from mtl_cli.training.missed_updates import Missed, RateHistory

LAZY_ROWS = "lazy_rows"
"""Under which a state says how far rows have come that wait."""


class LazyAdamW(torch.optim.AdamW):
    """torch's fused AdamW, to rounding; of some embeddings, rows are updated when they are next read.

    Before a forward pass `catch_up` must be told which ids it looks up; before the weights are read in any other way,
    all rows must be up to date. A step without a gradient in a row moves it all the same, by its momentum and weight
    decay: `mtl_cli.training.missed_updates` sums up such steps. A checkpoint holds the rows as they are and how far
    each has come, so that resuming equals not having stopped.

    Args:
        groups: as `torch.optim.AdamW` takes them.
        betas: decay of the moments.
        eps: added to the denominator.
        embeddings: whose weights are updated lazily. Their gradients are made sparse.
    """

    grad_scale: torch.Tensor | None = None
    """What gradients are divided by, as torch's own gradient scaler sets it: clipping costs no pass of its own."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        eps: float,
        embeddings: Iterable[nn.Embedding] = (),
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        self._lazy: dict[nn.Parameter, _Rows] = {}
        for embedding in embeddings:
            embedding.sparse = True
            weight = embedding.weight
            assert isinstance(weight, nn.Parameter)
            self._lazy[weight] = _Rows(weight, self)

    @property
    def is_lazy(self) -> bool:
        """Whether `catch_up` has anything to do."""
        return bool(self._lazy)

    @torch.no_grad()
    def catch_up(self, ids: torch.Tensor | None = None) -> None:
        """Bring rows up to date: those of these ids, or all."""
        for rows in self._lazy.values():
            rows.catch_up(ids)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters; of lazy embeddings, the rows with a gradient."""
        gradients = {weight: weight.grad for weight in self._lazy}
        for weight in self._lazy:
            weight.grad = None
        try:
            result = super().step(closure)
        finally:
            for weight, gradient in gradients.items():
                weight.grad = gradient
        for weight, rows in self._lazy.items():
            if weight.grad is not None:
                rows.update(weight.grad)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state, and of lazy embeddings how far each row has come."""
        state = super().state_dict()
        places = {id(p): place for place, p in enumerate(self._parameters())}
        state[LAZY_ROWS] = [{"parameter": places[id(p)], **rows.state_dict()} for p, rows in self._lazy.items()]
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, the weights loaded before; rows that would not wait here catch up."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != LAZY_ROWS})
        for rows in self._lazy.values():
            rows.all_up_to_date()
        parameters = self._parameters()
        for state in state_dict.get(LAZY_ROWS, []):
            weight = parameters[state["parameter"]]
            if weight in self._lazy:
                self._lazy[weight].load_state_dict(state)
            else:
                waited = _Rows(weight, self)
                waited.load_state_dict(state)
                waited.catch_up(None)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]


class _Rows:
    """The rows of one embedding."""

    def __init__(self, weight: nn.Parameter, optimizer: LazyAdamW) -> None:
        self._weight = weight
        self._optimizer = optimizer
        groups = optimizer.param_groups
        self._place = next(i for i, group in enumerate(groups) if any(p is weight for p in group["params"]))
        if not optimizer.state[weight]:  # torch's own, so that it is saved and restored with the others'
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        self.all_up_to_date()

    @property
    def _group(self) -> dict[str, Any]:
        """The settings; torch replaces them where a state is loaded."""
        group: dict[str, Any] = self._optimizer.param_groups[self._place]
        return group

    def all_up_to_date(self) -> None:
        """Take the rows as they are for those of the last step."""
        step = int(self._optimizer.state[self._weight]["step"])
        self._since_V = torch.full((len(self._weight),), step, device=self._weight.device)
        self._history = self._new_history(step, np.zeros(0))

    def _new_history(self, first: int, rates: np.ndarray) -> RateHistory:
        beta1, beta2 = self._group["betas"]
        return RateHistory(beta1, beta2, self._group["weight_decay"], first, rates)

    def catch_up(self, ids: torch.Tensor | None) -> None:
        """Bring the rows of these ids up to date, or all rows."""
        if ids is None:
            behind_R = (self._since_V < self._history.step).nonzero()[:, 0]
        else:
            behind_R = torch.unique(ids)
            behind_R = behind_R[self._since_V[behind_R] < self._history.step]
        if len(behind_R) > 0:
            for some_R in behind_R.split(1024):  # a piece stays in the cache
                self._catch_up(some_R)
        if ids is None:
            self._history = self._new_history(self._history.step, np.zeros(0))

    def _catch_up(self, ids_R: torch.Tensor) -> None:
        since_S, place_R = torch.unique(self._since_V[ids_R], return_inverse=True)
        for missed in self._history.missed(since_S.cpu().numpy()):
            index_S = torch.full_like(since_S, -1)
            places = torch.from_numpy(missed.places).to(index_S.device)
            index_S[places] = torch.arange(len(places), device=index_S.device)
            index_R = index_S[place_R]
            here_R = index_R >= 0
            self._apply(ids_R[here_R], missed, index_R[here_R])
        self._since_V[ids_R] = self._history.step

    def _apply(self, ids_R: torch.Tensor, missed: Missed, index_R: torch.Tensor) -> None:
        """Bring rows up to date that missed what `missed` says at their index."""

        def of_rows(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self._weight.device, self._weight.dtype)[index_R]

        state = self._optimizer.state[self._weight]
        weight_RD, first_RD, second_RD = (
            tensor.index_select(0, ids_R) for tensor in (self._weight, state["exp_avg"], state["exp_avg_sq"])
        )
        root_RD = second_RD.sqrt()
        moved_RD, denominator_RD = torch.zeros_like(root_RD), torch.empty_like(root_RD)
        nodes_QR1, weights_QR1 = (of_rows(x).T[:, :, None].contiguous() for x in (missed.nodes_SQ, missed.weights_SQ))
        for node_R1, weight_R1 in zip(nodes_QR1, weights_QR1, strict=True):
            torch.mul(root_RD, node_R1, out=denominator_RD).add_(self._group["eps"])
            moved_RD.addcdiv_(weight_R1, denominator_RD)
        weight_RD.mul_(of_rows(missed.decay_S)[:, None]).sub_(moved_RD.mul_(first_RD))
        self._weight.index_copy_(0, ids_R, weight_RD)
        state["exp_avg"].index_copy_(0, ids_R, first_RD.mul_(of_rows(missed.keep_first_S)[:, None]))
        state["exp_avg_sq"].index_copy_(0, ids_R, second_RD.mul_(of_rows(missed.keep_second_S)[:, None]))

    def update(self, gradient: torch.Tensor) -> None:
        """Take the step with a gradient, sparse or dense: rows in which it is zero are left for later."""
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            ids_R, gradients_RD = gradient.indices()[0], gradient.values()
        else:
            ids_R = gradient.any(dim=1).nonzero()[:, 0]
            gradients_RD = gradient[ids_R]
        self.catch_up(ids_R)
        state, group = self._optimizer.state[self._weight], self._group
        own = [x.index_select(0, ids_R) for x in (self._weight, state["exp_avg"], state["exp_avg_sq"])]
        adamw(
            [own[0]],
            [gradients_RD],
            [own[1]],
            [own[2]],
            [],
            [state["step"]],
            fused=True,
            grad_scale=self._optimizer.grad_scale,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for whole, rows_RD in zip((self._weight, state["exp_avg"], state["exp_avg_sq"]), own, strict=True):
            whole.index_copy_(0, ids_R, rows_RD)
        self._history.append(group["lr"])
        self._since_V[ids_R] = self._history.step

    def state_dict(self) -> dict[str, Any]:
        """Return how far each row has come, and the rates of the steps that some of them have missed."""
        return {
            "since": self._since_V,
            "first": self._history.first,
            "rates": torch.from_numpy(self._history.rates.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._since_V = state["since"].to(self._weight.device, copy=True)
        self._history = self._new_history(state["first"], state["rates"].numpy())
