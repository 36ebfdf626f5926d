"""What every weighting is to the training loop, and the weightings of losses.

Shapes: K tasks of a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from mtl_cli.types import NonNegativeInt, PositiveInt, UserError

TasksNeeded = Literal["any", "several", "all"]
"""What a step must hold: any tasks; sometimes more than one, or there is nothing to balance; or every task."""

_FITTING = {"any": ("all", "some", "one"), "several": ("all", "some"), "all": ("all",)}

Memory = dict[str, Any]
"""What a method keeps between steps: text -> tensor, number, text, list, or another such mapping."""


@dataclass(frozen=True)
class StepInfo:
    """What a method may know of a step besides gradients.

    Attributes:
        tasks: the tasks that the step holds, in the order of the run.
        index_K: the place of each of them among all tasks of the run, int64 (K,).
        num_tasks: all tasks of the run, whether the step holds them or not.
        losses_K: the loss of each task over the whole step, without a graph, (K,). A weighting of losses sees them on
            the model's device in float32, one of gradients on the CPU in float64.
        memory: what this method keeps between steps (with `grouping`, one memory a group of parameters). To be changed
            in place; tensors over tasks have `num_tasks` entries, so that a step that lacks a task leaves that task's
            entry alone. Saved in checkpoints and restored by the base class.
        generator: the random numbers of this method, on the CPU; restored when a run resumes.
        step: steps that this method has weighed before this one, from 0, warm-up not counted.
        steps_per_epoch: steps of an epoch, for methods that speak of epochs.
        scratch: a fresh mapping for each step (and group), from one call of a method to the next within a step.
    """

    tasks: tuple[str, ...]
    index_K: torch.Tensor
    num_tasks: int
    losses_K: torch.Tensor
    memory: Memory
    generator: torch.Generator
    step: int
    steps_per_epoch: int = 1
    scratch: dict[str, Any] = field(default_factory=dict)

    def recall(self, name: str, start: float | torch.Tensor) -> torch.Tensor:
        """Return the tensor over all tasks that `memory` holds under `name`, on the device of `losses_K`.

        The first time it is made from `start`: a number for each task, or a whole tensor.
        """
        if name not in self.memory:
            self.memory[name] = (
                start.clone() if isinstance(start, torch.Tensor) else self.losses_K.new_full((self.num_tasks,), start)
            )
        kept = self.memory[name]
        if kept.device != self.losses_K.device:  # restored from a checkpoint
            kept = self.memory[name] = kept.to(self.losses_K.device)
        return kept


@dataclass(kw_only=True)
class Weighting(ABC):  # noqa: B024 - what is abstract differs by kind
    """From the losses of a step to the gradients of all parameters. The training loop names no method.

    A subclass is one of the kinds of this package: `LossWeighting`, `GramianWeighting`, `AverageWeighting`,
    `SquaresWeighting`, `CoordinateWeighting`. It is asked once a step, however many micro-batches the step has.

    Args:
        warmup_steps: so many steps at the start of a run have weight 1 for each task; the method begins after them.
            Many methods' weights sum to 1, so that gradients become shorter then, which Adam evens out.

    Class attributes:
        needs_tasks: what a step must hold for the method to make sense.
        num_batches: independent batches of each task that a step is cut into.
        needs_loss_after_step: whether the losses of the same rows are computed once more after the optimizer's step.
        weighs_heads: whether task-specific parameters get their gradients weighted as well (one joint objective) or as
            they are (only the shared parameters' gradients are balanced).
    """

    needs_tasks: ClassVar[TasksNeeded] = "any"
    num_batches: ClassVar[int] = 1
    needs_loss_after_step: ClassVar[bool] = False
    weighs_heads: ClassVar[bool] = True

    warmup_steps: NonNegativeInt = 0

    def start(self, tasks: Sequence[str], seed: int = 0, steps_per_epoch: int = 1) -> None:
        """Begin a run over these tasks, in their order, with an empty memory.

        Raises:
            UserError: a setting does not fit the tasks.
        """
        self.tasks = tuple(tasks)
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = 0
        self.memory: Memory = {}
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def warming_up(self) -> bool:
        """Whether the next step is one of equal weights."""
        return self.num_steps < self.warmup_steps

    def check_num_shared_blocks(self, num_blocks: int) -> None:  # noqa: B027 - most methods ask for none
        """Refuse settings that do not fit a model whose tasks share so many blocks, before it is loaded."""

    def step_info(self, tasks: Sequence[str], losses_K: torch.Tensor, memory: Memory | None = None) -> StepInfo:
        """Describe the next step, with the memory of the whole method or of one group of parameters."""
        return StepInfo(
            tasks=tuple(tasks),
            index_K=torch.tensor([self.tasks.index(task) for task in tasks]).to(losses_K.device, non_blocking=True),
            num_tasks=len(self.tasks),
            losses_K=losses_K,
            memory=self.memory if memory is None else memory,
            generator=self.generator,
            step=self.num_steps - self.warmup_steps,
            steps_per_epoch=self.steps_per_epoch,
        )

    def finish_step(self) -> None:
        """Count a step; called after the optimizer's."""
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the number of steps, the memory, the random numbers."""
        return {"num_steps": self.num_steps, "memory": self.memory, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.num_steps = state["num_steps"]
        self.memory = dict(state["memory"])
        self.generator.set_state(state["generator"])


def check_fit(weighting: Weighting, tasks_per_step: str, sampler: str, fitting_samplers: Mapping[str, str]) -> None:
    """Refuse a sampler whose steps do not hold the tasks that the weighting needs.

    Args:
        weighting: the weighting, started.
        tasks_per_step: "all", "some" or "one", as the run's sampler says.
        sampler: its name.
        fitting_samplers: samplers that there are: name -> tasks per step.

    Raises:
        UserError: with the samplers that fit.
    """
    # Rows of each task that can be cut into several batches: only a sampler with a batch of each task promises that.
    needed = "all" if weighting.num_batches > 1 else weighting.needs_tasks
    if (len(weighting.tasks) < 2 and weighting.num_batches == 1) or tasks_per_step in _FITTING[needed]:
        return
    fitting = [name for name, holds in fitting_samplers.items() if holds in _FITTING[needed]]
    needs = "every task" if needed == "all" else "several tasks"
    if weighting.num_batches > 1:
        needs = f"{weighting.num_batches} batches of {needs}"
    raise UserError(
        f"weighting: {type(weighting).__name__} needs {needs} in a step, but the steps of {sampler} hold "
        f"{'one task' if tasks_per_step == 'one' else 'some of the tasks'}; samplers that fit: {', '.join(fitting)}"
    )


@dataclass(kw_only=True)
class LossWeighting(Weighting):
    """A weighting of losses: one joint objective, and one backward pass of the sum over tasks of weight times loss.

    Args:
        track_conflict_every: on every so-manieth step also measure each task's gradient of the shared parameters:
            norms, cosines between tasks, conflicts. Such a step costs more; the update is the same up to rounding (and,
            where the encoder runs padded rows, up to other draws of dropout). None: never.

    Class attributes:
        needs_losses: whether the weights depend on the losses of the very step, which `weights` then finds in
            `losses_K`. With micro-batches the losses of the whole step are computed first, without gradients.
    """

    needs_losses: ClassVar[bool] = True

    track_conflict_every: PositiveInt | None = None

    @abstractmethod
    def weights(self, step: StepInfo) -> torch.Tensor:
        """Return the weight of each task of the step, (K,): the derivative of the objective by its loss."""

    def record(self, step: StepInfo, losses_K: torch.Tensor) -> None:
        """Learn the losses of the whole step once its backward pass is done, (K,), for the weights of later steps."""

    def after_step(self, step: StepInfo, losses_after_K: torch.Tensor) -> None:
        """Learn the losses of the same rows after the update, (K,); called where `needs_loss_after_step`.

        `step` is what `weights` was given, with `scratch` as it left it.
        """
