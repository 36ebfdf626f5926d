"""What every sharing strategy does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from mtl_cli.encoders import Encoder, EncoderShape, Layout
from mtl_cli.sharing.learnt import Learnt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel
    from mtl_cli.tasks import Task


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@dataclass(frozen=True)
class TrainingMoment:
    """Where in a run the next step is.

    Attributes:
        step: steps done.
        total_steps: steps of the whole run.
        steps_per_epoch: steps of an epoch.
    """

    step: int
    total_steps: int
    steps_per_epoch: int


class SharingStrategy(ABC):
    """Decides which parameters of an encoder the tasks share.

    A strategy works on any family of encoders: it replaces blocks of `encoder.blocks`, or layers inside of them
    (`encoder.sites`), by wrappers, which see hidden states and, through the current layout, which rows belong to which
    task. Whatever belongs to one task alone sits in a `TaskModules`; all other parameters count as shared. What lies
    outside of the blocks goes into `encoder.extras`. All that is learnt or kept between steps is a parameter or a
    buffer of a module: checkpoints hold it, and a resumed run goes on with it.

    Class attributes:
        why_not_segmented: why the tasks' gradients cannot be formed in one backward pass over each task's tokens, or
            None where they can.
    """

    why_not_segmented: ClassVar[str | None] = None

    # Before anything is loaded.

    def check_tasks(self, task_names: Sequence[str]) -> None:  # noqa: B027 - most strategies fit any tasks
        """Refuse settings that do not fit the tasks of a run.

        Raises:
            UserError: a setting does not fit.
        """

    def check_num_blocks(self, num_blocks: int) -> None:  # noqa: B027 - most strategies fit any depth
        """Refuse settings that do not fit an encoder of so many blocks.

        Raises:
            UserError: a setting does not fit.
        """

    def check_encoder(self, encoder: EncoderShape) -> None:  # noqa: B027 - most strategies fit any encoder
        """Refuse settings that do not fit an encoder of this family, width and heads.

        Raises:
            UserError: a setting does not fit.
        """

    def needs_blocks(self) -> bool:
        """Whether the encoder must have a list of blocks; most strategies change or look at blocks."""
        return True

    def has_layers_in_blocks(self, task_names: Sequence[str], num_blocks: int) -> bool:
        """Whether layers of its own come into the blocks of an encoder, of which there are so many."""
        return self.needs_blocks()

    def check_shared_heads(self, task_names: Sequence[str]) -> None:  # noqa: B027 - most strategies leave heads alone
        """Refuse settings that do not fit heads that serve several tasks.

        Args:
            task_names: the tasks that use another's head (`share_head_with`); at least one.

        Raises:
            UserError: a setting does not fit.
        """

    def check_heads(self, tasks: Mapping[str, Task], hidden_size: int) -> None:  # noqa: B027 - most leave heads alone
        """Refuse settings that do not fit the tasks' heads, as far as these are known before the data are read.

        Args:
            tasks: the tasks of the run.
            hidden_size: the width that heads see.

        Raises:
            UserError: a setting does not fit.
        """

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return how many of an encoder's blocks hold parameters that tasks share."""
        return num_blocks

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Return why the gradient of the shared representation is not to be had, or None where it is.

        Args:
            num_blocks: of the encoder; None where it is not known yet, and what depends on it is not said.
        """
        return None

    def shares_parameters(self) -> bool:
        """Whether any parameter is trained by several tasks."""
        return True

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Return what a user should know of settings that are allowed: most of all, which have no effect."""
        return []

    def without_effect(self, *names: str, why: str) -> list[str]:
        """Return a warning for each of these settings that is not at its default."""
        of_fields = {field.name: field for field in fields(self)}  # type: ignore[arg-type]
        return [
            f"sharing.{name}: found {getattr(self, name)!r}, which has no effect {why}"
            for name in names
            if getattr(self, name) != _default(of_fields[name])
        ]

    # The model.

    @abstractmethod
    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Change `encoder` in place for these tasks.

        Raises:
            UserError: a setting does not fit the encoder.
        """

    def attach_heads(self, model: MultiTaskModel) -> None:  # noqa: B027 - most strategies leave heads alone
        """Do what needs the heads, once the model is complete."""

    def encode(
        self, encoder: Encoder, input_ids_N: torch.Tensor, token_type_ids_N: torch.Tensor | None, layout: Layout
    ) -> torch.Tensor:
        """Return the hidden states that are read of the rows of a step, (R, D); see `Encoder.forward`."""
        hidden_RD: torch.Tensor = encoder(input_ids_N, token_type_ids_N, layout)
        return hidden_RD

    # Training.

    def start_step(self, model: MultiTaskModel, moment: TrainingMoment) -> None:  # noqa: B027
        """Do what is due before a step: an annealed temperature, an update in closed form.

        Follows from `moment` and the model's parameters and buffers alone, so that a resumed run does the same.
        """

    def penalties(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Return what the parameters cost besides the tasks' losses: name -> scalar with a graph, times its weight.

        Added to the objective once a step, as it is, whatever the weighting of the tasks.
        """
        return {}

    def penalised_parameters(self, model: MultiTaskModel) -> Sequence[nn.Parameter]:
        """Return the parameters that penalties and `start_step` read, which hence have to be up to date in each step.

        Unless a strategy that has either says which, all of them; then no row of the word embedding waits for being
        read (`optimizer.lazy_embedding`).
        """
        own, plain = type(self), SharingStrategy
        reads_none = (own.start_step, own.penalties, own.add_penalty_gradients) == (
            plain.start_step, plain.penalties, plain.add_penalty_gradients
        )  # fmt: skip
        return [] if reads_none else list(model.parameters())

    def add_penalty_gradients(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Add the gradients of the penalties to `.grad`, and return their values, without graphs.

        What training calls. A strategy whose penalty reads every weight may have a cheaper way than autograd's.
        """
        penalties = self.penalties(model)
        if penalties:
            torch.stack(list(penalties.values())).sum().backward()
        return {name: value.detach() for name, value in penalties.items()}

    # What came of it.

    def forget_usage(self, model: MultiTaskModel) -> None:  # noqa: B027 - most strategies count nothing
        """Begin anew to count what evaluation uses (experts, blocks)."""

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return what has been learnt about the tasks so far, by name."""
        return {}

    def warnings_at_end(self, model: MultiTaskModel) -> list[str]:
        """Return what a user should know of the weights that a run has kept, its best on validation."""
        return []
