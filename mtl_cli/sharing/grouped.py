"""An encoder for each group of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.sharing.columns import check_family, check_num_shared_layers, split_encoder
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.types import NonNegativeInt, UserError


@dataclass(kw_only=True)
class Grouped(SharingStrategy):
    """Tasks of a group share an encoder; groups share nothing, or the lower part of it.

    Which tasks should learn together is the question of Standley et al., Which Tasks Should Be Learned Together in
    Multi-task Learning?, ICML 2020, and of Fifty et al., Efficiently Identifying Task Groupings for Multi-Task
    Learning, NeurIPS 2021; this strategy trains what they find, all groups in one run. They train each group's network
    by itself; with `num_shared_layers` 0 and gradients that are not clipped together this is the same.

    All copies begin with the encoder's weights. The rows of a group's tasks go through its copy in one call. The copy
    of a group of one task is task-specific; those of larger groups count as shared, and a weighting of gradients
    balances all tasks, whatever their groups. A final normalisation behind the last block is each group's own. With one
    group this is hard sharing, with groups of one task each as many single-task models.

    With `num_shared_layers` 0 a group of one task has no gradient of shared parameters, and weightings of gradients
    leave it out.

    Attributes:
        groups: the tasks of each group. A task that no group names is a group by itself.
        num_shared_layers: blocks that all groups share, counted from the lowest; the embeddings, too, unless it is 0.
    """

    groups: list[list[str]] = field(default_factory=list)
    num_shared_layers: NonNegativeInt = 0

    def __post_init__(self) -> None:
        self._in_one_group = False  # known once the tasks are

    def check_tasks(self, task_names: Sequence[str]) -> None:
        """Refuse empty groups, and tasks that do not exist or are in two groups."""
        named = Counter(task for group in self.groups for task in group)
        unknown = [task for task in named if task not in task_names]
        if unknown:
            raise UserError(
                f"sharing.groups: '{unknown[0]}' is no task of this run. Tasks: {', '.join(task_names)}; a task that "
                "no group names is a group by itself."
            )
        twice = [task for task, count in named.items() if count > 1]
        if twice:
            raise UserError(
                f"sharing.groups: '{twice[0]}' is named {named[twice[0]]} times, but a task belongs to one group."
            )
        if not all(self.groups):
            raise UserError(f"sharing.groups: found an empty group in {self.groups}; leave it out.")
        self._in_one_group = self._is_one_group(task_names)

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse to share all blocks."""
        check_num_shared_layers(self.num_shared_layers, num_blocks)

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families all of which cannot be in columns."""
        check_family(encoder, self.num_shared_layers, "sharing.groups")

    def has_layers_in_blocks(self, task_names: Sequence[str], num_blocks: int) -> bool:
        """Whether there are several groups, or one of a single task."""
        return len(task_names) == 1 or not self._is_one_group(task_names)

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Say what no groups come to, and name shared blocks of a single group."""
        num_tasks = len(task_names)
        if not self.groups and num_tasks > 1:
            shared = "their upper blocks are their own" if self.num_shared_layers else "nothing is shared"
            return [
                f"sharing.groups: found none, so that each of the {num_tasks} tasks is a group by itself and {shared}; "
                "name them with sharing.groups=[[TASK,TASK],[TASK]]"
            ]
        if num_tasks > 1 and self._is_one_group(task_names):
            return self.without_effect("num_shared_layers", why="with all tasks in one group")
        return []

    def _is_one_group(self, task_names: Sequence[str]) -> bool:
        return any(len(group) == len(task_names) for group in self.groups)

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return the number of blocks below the groups' own, or all of them where a group has several tasks."""
        return num_blocks if any(len(group) > 1 for group in self.groups) else self.num_shared_layers

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Without shared blocks several groups have no state in common."""
        if self.num_shared_layers > 0 or self._in_one_group:
            return None
        return "groups of tasks have encoders of their own"

    def shares_parameters(self) -> bool:
        """Whether several tasks share blocks or are in one group."""
        return self.num_shared_layers > 0 or any(len(group) > 1 for group in self.groups)

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Give each group its own copy of the encoder, or of the blocks above the shared ones."""
        encoder.require_blocks("sharing.groups")
        self.check_tasks(task_names)
        self.check_num_blocks(len(encoder.blocks))
        named = {task for group in self.groups for task in group}
        # In the run's order of tasks, whatever the order in the setting.
        groups = [tuple(task for task in task_names if task in group) for group in self.groups]
        groups += [(task,) for task in task_names if task not in named]
        groups.sort(key=lambda group: list(task_names).index(group[0]))
        if len(groups) == 1 and len(task_names) > 1:
            return
        split_encoder(
            encoder,
            {_name(group, task_names): group for group in groups},
            num_shared_layers=self.num_shared_layers,
            setting="sharing.groups",
        )


def _name(group: Sequence[str], task_names: Sequence[str]) -> str:
    """A group's name among the parameters' names: of one task its own, of several theirs, joined."""
    name = "+".join(group)
    while len(group) > 1 and name in task_names:
        name += "+"
    return name
