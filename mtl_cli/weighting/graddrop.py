"""GradDrop.

Shapes: K tasks of a step, P numbers of one parameter.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mtl_cli.types import Fraction, UserError
from mtl_cli.weighting.gradient_weighting import CoordinateWeighting
from mtl_cli.weighting.weighting import StepInfo


@dataclass(kw_only=True)
class GradDrop(CoordinateWeighting):
    """For each number of a parameter one sign is drawn, and only the tasks whose gradient has that sign count.

    With the gradients g_k of one number, the positive sign purity is p = (1 + Σ g_k / Σ |g_k|) / 2; the sign is + with
    probability p. The update is Σ (l_k + (1 - l_k) m_k) g_k, with l_k the task's leak and m_k = 1 where the sign of g_k
    is the drawn one, else 0. Where all tasks agree it is the plain sum.

    Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, Chen et al., NeurIPS 2020.

    Differs from the paper, whose layer works on the gradients of shared activations (times the sign of the activation,
    summed over the batch) and leaves the network below to the chain rule: ours works on the gradients of the shared
    parameters, as torchjd's and the code of FairGrad do; LibMTL has the paper's. The paper's function f of p is the
    identity, torchjd's default. In a number where all tasks agree nothing is dropped (torchjd and others drop all
    of it if the draw is exactly 0).

    Args:
        leak: for a task, the share of its gradient that always passes, 0 to 1; a task that is not named has 0. With 1
            for every task the update is the plain sum.
    """

    leak: dict[str, Fraction] = field(default_factory=dict)

    def start(self, tasks: Sequence[str], seed: int = 0, steps_per_epoch: int = 1) -> None:
        """Settle the leak of each task."""
        super().start(tasks, seed, steps_per_epoch)
        for name in self.leak:
            if name not in tasks:
                near = difflib.get_close_matches(name, tasks, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(f"weighting.leak.{name}: no such task in this run, tasks are {', '.join(tasks)}{hint}")

    def combine(self, block_KP: torch.Tensor, step: StepInfo) -> torch.Tensor:
        """Return the sum of the gradients that have the drawn sign, and of what leaks, (P,)."""
        drawn_P = torch.rand(block_KP.shape[1], generator=step.generator).to(block_KP)
        above_P, below_P = block_KP.clamp(min=0.0).sum(0), block_KP.clamp(max=0.0).sum(0)
        positive_P = above_P > drawn_P * (above_P - below_P)
        if not any(self.leak.values()):
            return torch.where(positive_P, above_P, below_P)
        leak_K = block_KP.new_tensor([self.leak.get(task, 0.0) for task in step.tasks])
        passing_KP = torch.where(positive_P, block_KP.clamp(min=0.0), block_KP.clamp(max=0.0))
        return leak_K @ block_KP + (1.0 - leak_K) @ passing_KP
