"""Hierarchical sharing: low-level tasks leave the encoder at lower blocks.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, K tasks, L blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.label_embeddings import LabelEmbeddings, Source, final_norm
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import run_some
from mtl_cli.sharing.strategy import SharingStrategy, TrainingMoment
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper
from mtl_cli.types import NonNegativeFloat, PositiveInt, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel

log = logging.getLogger(__name__)

_LABELS, _SNAPSHOT = "hierarchical_labels", "hierarchical_snapshot"


@dataclass(kw_only=True)
class Hierarchical(SharingStrategy):
    """One encoder whose tasks have their heads at different heights: low-level tasks lower.

    The rows of task k go through the lowest l_k blocks alone. They pass by those above, which they do not train, and
    take part again in the final normalisation behind the last block, where the family has one. With every head at the
    top this is hard sharing. A block that is left to one task is that task's own.

    Søgaard and Goldberg, Deep multi-task learning with low level tasks supervised at lower layers, ACL 2016;
    Hashimoto, Xiong, Tsuruoka and Socher, A Joint Many-Task Model: Growing a Neural Network for Multiple NLP Tasks,
    EMNLP 2017, who add label embeddings and successive regularisation, both off by default here. Both papers train
    recurrent networks from word vectors; which heights suit a pretrained encoder is not known from them. Hashimoto et
    al. train the tasks one after the other in each epoch, here a step may hold them all.

    Label embeddings: with p_j(x) the distribution over the labels of a lower task j for a token x of a higher task k,
    read off behind l_j blocks by j's own head, the states of x there become

        h(x) + P_kj sum_c p_jc(x) v_jc,

    v_jc a learnt embedding of label c and P_kj a projection to the width of the states (in the paper the embedding is
    one of the inputs of the next recurrent layer, and P_kj a part of that layer's weights). A task with a label a row
    has one distribution for all tokens of the row; one with a label a word is asked about every token, although its
    head is trained on first sub-words alone. No gradient passes through p: to the higher task the lower one's
    predictions are given, so that a head is trained by its own task alone; in the paper the layers are trained end to
    end. v begins at zero, so that at first the labels change nothing. Tasks with scores have no labels to embed.

    Successive regularisation: delta * sum |theta - theta'|² is added to the objective, theta the encoder's trained
    parameters that tasks share and theta' what they were at the last snapshot. The paper takes one when training passes
    from one task to the next; here, where tasks alternate from step to step, at the start of every epoch.

    Attributes:
        levels: blocks below a task's head, by task, from 1 to the encoder's number of blocks; tasks that are not named
            have theirs at the top.
        order: the same by rank: tasks, or lists of tasks of the same height, from low to high, which are spread evenly
            over the blocks, the last at the top; tasks that are not named have theirs at the top. A single
            height is the top, too: hard sharing. One of `levels` and `order` must be given.
        label_embeddings: whether higher tasks see what lower ones predict.
        label_embedding_size: width of v; 100 is the paper's.
        successive_regularisation: delta; 0: none. The paper has 0.01, with plain gradient descent at a rate near 1;
            for AdamW no value has been tested.
        snapshot_every_steps: steps from one snapshot to the next; None: an epoch's. A model is saved with the last
            snapshot, which takes as much space as the parameters do.
    """

    levels: dict[str, PositiveInt] | None = None
    order: list[str | list[str]] | None = None
    label_embeddings: bool = False
    label_embedding_size: PositiveInt = 100
    successive_regularisation: NonNegativeFloat = 0.0
    snapshot_every_steps: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.order is not None:
            raise UserError(
                f"sharing.levels and sharing.order: found {self.levels} and {self.order}, but they say the same in two "
                "ways. Give one of them and set the other to null."
            )
        self._task_names: tuple[str, ...] = ()
        for task, level in (self.levels or {}).items():
            if level < 1:
                raise UserError(f"sharing.levels.{task}: found {level}; at least 1 block is below a head")
        names = [task for group in self._groups() for task in group]
        if not all(self._groups()):
            raise UserError(f"sharing.order: found {self.order}, in which a list names no task. Leave it out.")
        if repeated := sorted({task for task in names if names.count(task) > 1}):
            raise UserError(f"sharing.order: found {', '.join(repeated)} more than once. A task has one height.")
        if self.snapshot_every_steps is not None and self.successive_regularisation == 0:
            raise UserError(
                f"sharing.snapshot_every_steps: found {self.snapshot_every_steps}, which has no effect while "
                "sharing.successive_regularisation is 0. Set that too, or leave this out."
            )

    def _groups(self) -> list[list[str]]:
        return [[group] if isinstance(group, str) else list(group) for group in self.order or []]

    def _named(self) -> list[str]:
        """The tasks that `levels` or `order` names."""
        return list(self.levels or {}) or [task for group in self._groups() for task in group]

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Parameters of higher tasks are among the blocks then."""
        return "the projections of label embeddings stand between shared blocks" if self.label_embeddings else None

    # What the settings say.

    def check_tasks(self, task_names: Sequence[str]) -> None:
        """Refuse settings that say nothing, or name a task that the run does not have."""
        if not self.levels and not self.order:
            # The example has the first task lowest, which may be the wrong one.
            first = task_names[0]
            raise UserError(
                "sharing.order: missing. Say which tasks have their heads lower than others, from low to high, for "
                f"example 'sharing.order={_example(first, task_names)}', or give the blocks below each head, for "
                f"example 'sharing.levels={{{first}: 2}}'. All at the same height is sharing=hard."
            )
        named = self._named()
        key = "sharing.levels" if self.levels else "sharing.order"
        for task in named:
            if task not in task_names:
                raise UserError(f"{key}: '{task}' is no task of this run. Tasks: {', '.join(task_names)}.")
        self._task_names = tuple(task_names)

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse heights that the encoder does not have."""
        for task, level in (self.levels or {}).items():
            if level > num_blocks:
                raise UserError(
                    f"sharing.levels.{task}: found {level}, but the encoder has {num_blocks} blocks. Give 1 to "
                    f"{num_blocks}."
                )
        if len(self._groups()) > num_blocks:
            raise UserError(
                f"sharing.order: found {len(self._groups())} heights, but the encoder has {num_blocks} blocks. Join "
                f"tasks in lists until there are at most {num_blocks}."
            )

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Say where all heads are at the top, and name the width of embeddings that there are not."""
        found = []
        named = self._named()
        if named and len(task_names) > 1 and not self.has_layers_in_blocks(task_names, num_blocks):
            key, value = ("levels", self.levels) if self.levels else ("order", self.order)
            found.append(
                f"sharing.{key}: found {value}, with which all heads are at the top: this is hard sharing. To place "
                f"'{named[0]}' below the others give 'sharing.order={_example(named[0], task_names)}', or take "
                "sharing=hard"
            )
        if not self.label_embeddings:
            found += self.without_effect("label_embedding_size", why="with label_embeddings=false")
        return found

    def has_layers_in_blocks(self, task_names: Sequence[str], num_blocks: int) -> bool:
        """Whether a task leaves the encoder below the top."""
        return min(self.levels_of(task_names, num_blocks).values()) < num_blocks

    def levels_of(self, task_names: Sequence[str], num_blocks: int) -> dict[str, int]:
        """Return how many blocks are below each task's head."""
        found = dict.fromkeys(task_names, num_blocks)
        found.update(self.levels or {})
        groups = self._groups()
        for rank, group in enumerate(groups, start=1):
            found.update(dict.fromkeys(group, -(-rank * num_blocks // len(groups))))
        return found

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return the number of blocks that at least two tasks go through; all, before the tasks are known."""
        if not self._task_names:
            return num_blocks
        levels = sorted(self.levels_of(self._task_names, num_blocks).values())
        return levels[-2] if len(levels) > 1 else levels[0]

    # The model.

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Wrap the blocks above the lowest head."""
        blocks = encoder.require_blocks("sharing.levels" if self.levels else "sharing.order")
        self.check_tasks(task_names)
        self.check_num_blocks(len(blocks))
        levels = self.levels_of(task_names, len(blocks))
        if max(levels.values()) < len(blocks):
            log.warning(
                "sharing: the highest head is at block %d, so that the %d blocks above it are not used",
                max(levels.values()),
                len(blocks) - max(levels.values()),
            )
        for index in range(min(levels.values()), len(blocks)):
            blocks[index] = ExitBlock(blocks[index], index, [task for task in task_names if levels[task] > index])

    def attach_heads(self, model: MultiTaskModel) -> None:
        """Make the label embeddings and the first snapshot."""
        if self.label_embeddings:
            self._attach_labels(model)
        if self.successive_regularisation > 0:
            model.encoder.extras[_SNAPSHOT] = Snapshot(_parameters_of_all(model.encoder.model))

    def _attach_labels(self, model: MultiTaskModel) -> None:
        encoder = model.encoder
        levels = self.levels_of(list(model.tasks), len(encoder.blocks))
        sources = {}
        for name, task in model.tasks.items():
            readers = tuple(other for other in model.tasks if levels[other] > levels[name])
            if readers and task.label_kind != "score":
                pooling = None if task.level == "word" else task.pooling or encoder.pooling
                outputs = task.num_outputs(model.labels[name])
                sources[name] = Source(levels[name], outputs, model._head(name), pooling, readers)
        if not sources:
            log.warning("sharing.label_embeddings has no effect: no task with labels has its head below another's")
            return
        labels = LabelEmbeddings(sources, self.label_embedding_size, encoder.hidden_size, final_norm(encoder))
        encoder.extras[_LABELS] = labels
        for block in encoder.blocks:
            if isinstance(block, ExitBlock) and block.level in labels.levels():
                block.labels = (labels,)

    # Successive regularisation.

    def start_step(self, model: MultiTaskModel, moment: TrainingMoment) -> None:
        """Take a snapshot where one is due."""
        if self.successive_regularisation > 0:
            every = self.snapshot_every_steps or moment.steps_per_epoch
            if moment.step % every == 0:
                _snapshot_of(model).take()

    def penalties(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Return the regularisation term."""
        if self.successive_regularisation == 0:
            return {}
        distance = _snapshot_of(model).distance()
        return {} if distance is None else {"successive_regularisation": self.successive_regularisation * distance}

    def penalised_parameters(self, model: MultiTaskModel) -> Sequence[nn.Parameter]:
        """Return what snapshots hold."""
        if self.successive_regularisation == 0:
            return []
        return list(_parameters_of_all(model.encoder.model).values())

    # What came of it.

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return which blocks each task goes through and, where they are on, the lengths of label embeddings."""
        tasks, num_blocks = list(model.tasks), len(model.encoder.blocks)
        levels = self.levels_of(tasks, num_blocks)
        uses_KL = torch.tensor([[float(index < levels[task]) for index in range(num_blocks)] for task in tasks])
        blocks = [f"block_{index}" for index in range(num_blocks)]
        found = {"levels": Learnt.of("Blocks below each task's head", tasks, blocks, uses_KL, "share")}
        if _LABELS in model.encoder.extras:
            labels = model.encoder.extras[_LABELS]
            assert isinstance(labels, LabelEmbeddings)
            found["label_embeddings"] = Learnt.of(
                "Length of the label embeddings that a task (row) reads of a lower one",
                tasks,
                tasks,
                labels.norms(tasks),
            )
        return found


def _example(lowest: str, task_names: Sequence[str]) -> str:
    """An order that places one task below the others."""
    others = [task for task in task_names if task != lowest]
    return f"[{lowest},[{','.join(others)}]]" if len(others) > 1 else f"[{','.join([lowest, *others])}]"


class ExitBlock(Wrapper):
    """A block that some tasks' rows pass by.

    Args:
        block: the block; where one task alone goes through it, it becomes that task's own, and where none does, it is
            not trained.
        level: how many blocks are below.
        tasks: the tasks that go through it.
    """

    def __init__(self, block: nn.Module, level: int, tasks: Sequence[str]) -> None:
        super().__init__(TaskModules({tasks[0]: block}) if len(tasks) == 1 else block)
        if not tasks:
            block.requires_grad_(False)
        self.level = level
        self.tasks = tuple(tasks)
        # At most one; it is registered with the encoder, not here.
        self.labels: tuple[LabelEmbeddings, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """Look a name up in the block."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            wrapped = self.__dict__.get("_modules", {}).get("wrapped")
            if not isinstance(wrapped, TaskModules) or name.startswith("__"):
                raise
            return getattr(next(iter(wrapped.values())), name)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the rows of the tasks that go on through the block."""
        for labels in self.labels:
            hidden = labels(hidden, self.layout(), self.level)
        wrapped = self.wrapped
        block = wrapped[self.tasks[0]] if isinstance(wrapped, TaskModules) else wrapped
        return run_some(block, self.tasks, hidden, args, kwargs)


class Snapshot(nn.Module):
    """Copies of parameters as they were at some step.

    Args:
        parameters: by name; they stay registered where they are.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self._parameters_now = tuple(parameters.values())
        self._buffer_names = [name.replace(".", "/") for name in parameters]
        for name, parameter in zip(self._buffer_names, self._parameters_now, strict=True):
            self.register_buffer(name, parameter.detach().clone())

    def _pairs(self) -> list[tuple[nn.Parameter, torch.Tensor]]:
        return list(zip(self._parameters_now, self.buffers(), strict=True))

    @torch.no_grad()
    def take(self) -> None:
        """Copy the parameters as they are now."""
        for parameter, copy in self._pairs():
            copy.copy_(parameter)

    def distance(self) -> torch.Tensor | None:
        """Return the sum of squared differences of the parameters from their copies, with a graph.

        None where no parameter is trained.
        """
        squares = [(parameter - copy).square().sum() for parameter, copy in self._pairs() if parameter.requires_grad]
        return torch.stack(squares).sum() if squares else None


def _parameters_of_all(model: nn.Module) -> dict[str, nn.Parameter]:
    """An encoder's parameters that are no task's own, by name.

    Frozen ones, too: a saved model, which is loaded with nothing frozen, has the same.
    """
    own = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, TaskModules)
        for parameter in module.parameters()
    }
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in own}


def _snapshot_of(model: MultiTaskModel) -> Snapshot:
    snapshot = model.encoder.extras[_SNAPSHOT]
    assert isinstance(snapshot, Snapshot)
    return snapshot
