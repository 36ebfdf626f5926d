"""One step of a weighting that looks at the gradient of the shared representation.

Shapes: K tasks of a step, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtl_cli.gradients.collecting import Objective
from mtl_cli.gradients.losses import Losses, Normalizers, add_losses, random_draws_of, summed
from mtl_cli.gradients.ranks import is_distributed, sum_gradients_over_ranks, sum_over_ranks
from mtl_cli.gradients.representation import RepresentationTap, Weigh, gramian_of
from mtl_cli.gradients.shared import trained_parameters
from mtl_cli.gradients.weigh import weigh
from mtl_cli.model import MultiTaskModel
from mtl_cli.types import Step
from mtl_cli.weighting import GramianWeighting


class RepresentationStep:
    """Fills `.grad` of all parameters by one backward pass, weighted where it passes the shared representation.

    Attributes:
        gramian_KK: inner products of the tasks' gradients of the representation.
        weights_K: the weights that followed: 1 where the inner products are not finite.
        heads_K: those of the tasks' own parameters.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        weighting: GramianWeighting,
        tap: RepresentationTap,
        losses: Losses,
        tasks: tuple[str, ...],
    ) -> None:
        self._trained = trained_parameters(model)
        self._hidden_size = model.encoder.hidden_size
        self._weighting = weighting
        self._tap = tap
        self._losses = losses
        self._tasks = tasks
        self._known: dict[str, torch.Tensor] = {}

    def run(
        self, micro_batches: Sequence[Step], random_state: Sequence[torch.Tensor], objective: Objective
    ) -> dict[str, torch.Tensor]:
        """Compute the gradients; return the loss of each task.

        Args:
            micro_batches: the rows of the step.
            random_state: where the step's draws of dropout began.
            objective: from some rows' losses to what is differentiated.
        """
        normalizers = self._losses.normalizers(micro_batches, self._tasks)
        if len(micro_batches) == 1 and not is_distributed():
            losses = self._backward(micro_batches, normalizers, objective, self._weigh, tell=True)
        else:
            # The weights follow from all micro-batches and processes: first the gradients down to the representation
            # alone, then, with the same dropout, the whole backward pass.
            sums_KD: list[torch.Tensor] = []
            before: dict[str, torch.Tensor] = {}
            for micro_batch in filter(None, micro_batches):
                with self._tap.running(self._tasks, self._weigh):
                    part = self._losses(micro_batch, normalizers)
                    assert self._tap.output is not None
                    whole = self._losses.objective(torch.stack(list(part.values())))
                    (gradient,) = torch.autograd.grad(whole, self._tap.output)
                    sums_KD.append(self._tap.sums(gradient))
                add_losses(before, part)
            self._known = summed(before, self._tasks, self._losses.device)
            shape = (len(self._tasks), self._hidden_size)
            total_KD = torch.stack(sums_KD).sum(0) if sums_KD else torch.zeros(shape, device=self._losses.device)
            known_K = self._weigh(sum_over_ranks(total_KD))
            with random_draws_of(random_state, self._losses.device):
                losses = self._backward(micro_batches, normalizers, objective, lambda sums_KD: known_K)
        sum_gradients_over_ranks(self._trained)
        return losses

    def _backward(
        self,
        micro_batches: Sequence[Step],
        normalizers: Normalizers,
        objective: Objective,
        weigh: Weigh,
        tell: bool = False,
    ) -> dict[str, torch.Tensor]:
        total: dict[str, torch.Tensor] = {}
        for micro_batch in filter(None, micro_batches):
            with self._tap.running(self._tasks, weigh):
                part = self._losses(micro_batch, normalizers)
                add_losses(total, part)
                if tell:
                    self._known = total
                objective(torch.stack(list(part.values()))).backward()
        return summed(total, self._tasks, self._losses.device)

    def _weigh(self, sums_KD: torch.Tensor) -> torch.Tensor:
        """The weights, once the gradients of the representation are known."""
        self.gramian_KK = gramian_of(sums_KD)
        self.weights_K = self.heads_K = torch.ones(len(self._tasks), dtype=torch.float64)
        if bool(self.gramian_KK.isfinite().all()):
            losses_K = torch.stack([self._known[task] for task in self._tasks]).double().cpu()
            memory = self._weighting.memory.setdefault("groups", {}).setdefault("whole", {})
            info = self._weighting.step_info(self._tasks, losses_K, memory)
            found = weigh(self._weighting, self.gramian_KK, info)
            self.weights_K, self.heads_K = found.weights_K, found.heads_K
        return self.weights_K
