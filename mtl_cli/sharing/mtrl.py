"""Learning how tasks are related from their own parameters, and pulling related tasks' parameters together.

Shapes: P parameters of a task, K tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.sharing.adapter_layers import Activation, Placement, adapted_layers
from mtl_cli.sharing.adapters import Adapters
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.strategy import TrainingMoment
from mtl_cli.types import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel
    from mtl_cli.tasks import Task

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class MTRL(Adapters):
    """A prior on the tasks' own parameters whose covariance between tasks is learnt (task relationship learning).

    To the objective comes

        strength * tr(W Omega^-1 Wᵀ) + ridge * ||W||²,

    W (P x K) one column of parameters a task, Omega (K x K) their covariance: positive definite, trace 1. Every
    `update_every_steps` it becomes what minimises the first term for the W of the moment,

        Omega = (Wᵀ W)^(1/2) / tr((Wᵀ W)^(1/2)).

    Zhang and Yeung, A Convex Formulation for Learning Task Relationships in Multi-Task Learning, UAI 2010: linear
    models, both steps in turns until they converge, and ridge and strength as lambda_1 / 2 and lambda_2 / 2. Long et
    al., Learning Multiple Tasks with Multilinear Relationship Networks, NeurIPS 2017, put such a prior on the tasks'
    own layers of a deep network. Where ours differs:

    - W holds all of a task's adapters (`prior_on: adapters`, see `Adapters`), or all parameters of the tasks' heads
      whose names and shapes are the same in every head (`prior_on: heads`: whole heads where all have as many outputs,
      else hidden layers of the same widths). Zhang and Yeung leave biases out of the prior; here they are part of W.
    - Long et al. also learn covariances of a layer's inputs and outputs; here only that of the tasks.
    - W begins with equal columns, the first task's: hidden units that began apart would have nothing to do with each
      other, and correlations of their weights would say nothing.
    - Omega is mixed with a little of the identity, (Omega + epsilon I) / (1 + epsilon K), which keeps it invertible
      where columns are alike or zero. It begins as I / K.
    - There is no ridge by default; the optimizer's weight decay does the same. All parameters of W count the same.

    The penalty is a sum over all of W. Strength, interval and epsilon were not tuned.

    Attributes:
        prior_on: whose parameters make up W.
        strength: weight of the penalty; 0: only to see how the tasks are related.
        ridge: weight of the sum of squares.
        update_every_steps: steps from one update of Omega to the next.
        epsilon: how much of the identity Omega gets.
        placement: with `prior_on: adapters`, and so are the next five: see `Adapters`.
        bottleneck: width of the adapters.
        activation: of the adapters.
        dropout: of the adapters.
        up_std: of the adapters' upper layers' first weights.
        blocks: numbers of the blocks with adapters, 0 the lowest, -1 the highest; None: all.
        train_encoder: whether the encoder is trained, too.
        train_norms: with a frozen encoder, whether its layer normalisations are trained all the same, by all tasks.
    """

    prior_on: Literal["adapters", "heads"] = "adapters"
    strength: NonNegativeFloat = 1e-4
    ridge: NonNegativeFloat = 0.0
    update_every_steps: PositiveInt = 100
    epsilon: PositiveFloat = 1e-3
    placement: Placement = "houlsby"
    bottleneck: PositiveInt = 64
    activation: Activation = "gelu"
    dropout: Probability = 0.0
    up_std: NonNegativeFloat = 0.0
    blocks: list[int] | None = None
    train_encoder: bool = True
    train_norms: bool = True

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """None where only heads are the tasks' own."""
        return super().why_no_representation(num_blocks) if self.prior_on == "adapters" else None

    def needs_blocks(self) -> bool:
        """Whether there are adapters in the blocks."""
        return self.prior_on == "adapters"

    def check_shared_heads(self, task_names: Sequence[str]) -> None:
        """Refuse a prior on heads of each task where tasks have one together."""
        if self.prior_on == "heads":
            raise UserError(_one_head_together(task_names))

    def check_heads(self, tasks: Mapping[str, Task], hidden_size: int) -> None:
        """Refuse a prior on heads where those that are known have nothing in common: further ones do not mend that."""
        if self.prior_on != "heads":
            return
        outputs = {name: task.known_num_outputs() for name, task in tasks.items() if task.share_head_with is None}
        known = {name: tasks[name].head.build(hidden_size, n) for name, n in outputs.items() if n is not None}
        if len(known) > 1:
            _names_in_common(known)

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families whose layers are not known, where adapters need them."""
        if self.prior_on == "adapters":
            super().check_encoder(encoder)

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name settings of adapters where there are none."""
        found = super().warnings(task_names, num_blocks)
        if self.prior_on == "adapters":
            return found
        of_adapters = [field.name for field in fields(Adapters) if field.name not in ("train_encoder", "train_norms")]
        return found + self.without_effect(*of_adapters, why="with prior_on=heads: there are no adapters")

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put the covariance into the encoder's extras, and adapters into the blocks."""
        encoder.extras["mtrl"] = TaskCovariance(len(task_names))
        if self.prior_on == "adapters":
            super().attach(encoder, task_names)
            _start_alike(_parameters_of_adapters(encoder, task_names))
            return
        self.freeze(encoder)

    def attach_heads(self, model: MultiTaskModel) -> None:
        """Let the heads begin alike.

        Raises:
            UserError: they have nothing in common, or a head serves several tasks.
        """
        if self.prior_on == "heads":
            _start_alike(_parameters_of_heads(model))

    def start_step(self, model: MultiTaskModel, moment: TrainingMoment) -> None:
        """Update Omega in closed form, where it is due; say at first if it never will be."""
        if moment.step == 0 and self.strength > 0.0 and moment.total_steps <= self.update_every_steps:
            log.warning(
                "sharing.update_every_steps: found %d, but the run has %d steps: Omega stays I / %d, under which the "
                "penalty pulls all tasks' parameters towards 0 and none towards another's. Lower it, or train longer",
                self.update_every_steps,
                moment.total_steps,
                len(model.tasks),
            )
        if moment.step == 0 or moment.step % self.update_every_steps != 0:
            return
        with torch.no_grad():
            covariance_KK = task_covariance(gramian_of(self._parameters(model)), self.epsilon)
            _covariance(model).copy_(covariance_KK)

    def penalties(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Return strength * tr(W Omega^-1 Wᵀ) and ridge * ||W||²."""
        if self.strength == 0.0 and self.ridge == 0.0:
            return {}
        gramian_KK = gramian_of(self._parameters(model))
        found = {}
        if self.strength > 0.0:
            precision_KK = torch.linalg.inv(_covariance(model).cpu().double()).to(gramian_KK)
            found["task_relationship"] = self.strength * (precision_KK * gramian_KK).sum()
        if self.ridge > 0.0:
            found["ridge"] = self.ridge * gramian_KK.trace()
        return found

    def penalised_parameters(self, model: MultiTaskModel) -> Sequence[nn.Parameter]:
        """Return W, which is in heads or adapters."""
        return [parameter for of_tasks in self._parameters(model) for parameter in of_tasks]

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return the correlations in what Omega would be updated to now, and the Omega of the penalty."""
        tasks = list(model.tasks)
        with torch.no_grad():
            covariance_KK = task_covariance(gramian_of(self._parameters(model)), self.epsilon)
        deviation_K = covariance_KK.diagonal().sqrt()
        correlation_KK = covariance_KK / (deviation_K[:, None] * deviation_K[None, :])
        found = super().learnt(model) if self.prior_on == "adapters" else {}
        title = f"Correlations between the tasks' {self.prior_on} as they are now"
        in_use = "The tasks' covariance Omega under which the penalty is taken, of its last update"
        return {
            "task_correlations": Learnt.of(title, tasks, tasks, correlation_KK, "signed"),
            "task_covariance": Learnt.of(in_use, tasks, tasks, _covariance(model), "signed"),
            **found,
        }

    def _parameters(self, model: MultiTaskModel) -> list[list[nn.Parameter]]:
        if self.prior_on == "heads":
            return _parameters_of_heads(model)
        return _parameters_of_adapters(model.encoder, list(model.tasks))


class TaskCovariance(nn.Module):
    """Holds Omega, (K, K), which checkpoints keep."""

    covariance_KK: torch.Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.register_buffer("covariance_KK", torch.eye(num_tasks) / num_tasks)


def task_covariance(gramian_KK: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the Omega of trace 1 that minimises tr(W Omega^-1 Wᵀ), mixed with the identity; float64 on the CPU.

    Args:
        gramian_KK: Wᵀ W. Where it is zero, every Omega is as good, and the result is I / K.
        epsilon: how much of the identity is added before the trace is made 1 again.
    """
    eigenvalues_K, vectors_KK = torch.linalg.eigh(gramian_KK.cpu().double())
    root_KK = (vectors_KK * eigenvalues_K.clamp(min=0.0).sqrt()) @ vectors_KK.T
    trace = root_KK.trace()
    identity_KK = torch.eye(len(root_KK), dtype=root_KK.dtype)
    covariance_KK = root_KK / trace if trace > 0 else identity_KK / len(root_KK)
    return (covariance_KK + epsilon * identity_KK) / (1.0 + epsilon * len(root_KK))


def gramian_of(parameters: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Return Wᵀ W, (K, K), of which each item holds some rows: one tensor a task."""
    rows = (torch.stack([parameter.flatten() for parameter in of_tasks]) for of_tasks in parameters)
    return torch.stack([rows_KP @ rows_KP.T for rows_KP in rows]).sum(0)


def _covariance(model: MultiTaskModel) -> torch.Tensor:
    holder = model.encoder.extras["mtrl"]
    assert isinstance(holder, TaskCovariance)
    return holder.covariance_KK


def _parameters_of_adapters(encoder: Encoder, tasks: Sequence[str]) -> list[list[nn.Parameter]]:
    """Each parameter of an adapter in every task."""
    return [
        list(of_tasks)
        for layer in adapted_layers(encoder.model)
        for of_tasks in zip(*(layer.of_task[task].parameters() for task in tasks), strict=True)
    ]


def _parameters_of_heads(model: MultiTaskModel) -> list[list[nn.Parameter]]:
    """Each parameter that all heads have in the same shape, in every task.

    Raises:
        UserError: there is none, or a head serves several tasks.
    """
    sharing = [task for task in model.tasks if task not in model.heads]
    if sharing:
        raise UserError(_one_head_together(sharing))
    heads = {task: model.heads[task] for task in model.tasks}
    return [[head.get_parameter(name) for head in heads.values()] for name in _names_in_common(heads)]


def _one_head_together(tasks: Sequence[str]) -> str:
    return (
        f"sharing.prior_on: found 'heads', but {', '.join(tasks)} have one head together with another task, and the "
        f"prior is on heads of each task; leave out tasks.{tasks[-1]}.share_head_with, or set sharing.prior_on=adapters"
    )


def _names_in_common(heads: Mapping[str, nn.Module]) -> list[str]:
    """The names of the parameters that all heads have in the same shape.

    Raises:
        UserError: there is none.
    """
    shapes_of = {
        task: {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
        for task, head in heads.items()
    }
    first, *others = shapes_of.values()
    names = [name for name, shape in first.items() if all(other.get(name) == shape for other in others)]
    if not names:
        shapes = "; ".join(
            f"{task}: {', '.join(f'{name} {shape}' for name, shape in found.items())}"
            for task, found in shapes_of.items()
        )
        raise UserError(
            "sharing.prior_on: found 'heads', but no parameter has the same name and shape in all heads "
            f"({shapes}); allowed: heads with as many outputs each, or with a hidden layer of the same width "
            "(tasks.<name>.head: mtl_cli.tasks.MLPHead), or set sharing.prior_on=adapters"
        )
    return names


@torch.no_grad()
def _start_alike(parameters: Sequence[Sequence[nn.Parameter]]) -> None:
    """Give all tasks the first weights of the first."""
    for first, *others in parameters:
        for other in others:
            other.copy_(first)
