"""Columns of an encoder: a copy of it, or of its upper blocks, for each task or each group of tasks.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, R relative positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mtl_cli.encoders import Encoder, EncoderShape, current_layout
from mtl_cli.sharing.rows import ByColumn, is_by_row, run_each
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import replace_module
from mtl_cli.types import UserError

_LAYERS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.Linear, nn.LayerNorm, nn.Conv1d, Conv1D)
# Families that look biases of relative positions up once for all rows, in a table outside of the blocks.
_TABLES_OF_ALL_ROWS = {"mpnet": "relative_attention_bias"}
# What families call the normalisation behind their last block; it lies beside the list of blocks.
FINAL_NORMS = ("final_norm", "final_layer_norm", "final_layernorm", "ln_f", "norm")


def make_columns(
    encoder: Encoder,
    names: Sequence[str],
    *,
    num_shared_layers: int = 0,
    task_specific: bool = True,
    setting: str,
    own_from: int | None = None,
) -> None:
    """Give each of `names` a copy of the encoder's upper blocks and final normalisation, or of all of the encoder.

    The embeddings and the lowest `num_shared_layers` blocks stay one for all; with 0 the embeddings are copied, too.
    All copies begin with the encoder's weights. While the encoder runs, a name's copy sees the rows of the task of that
    name in the current layout. Blocks become `ColumnBlock`, layers outside of them `ColumnLayer`.

    DeBERTa's embeddings of relative positions belong to no row: each column computes its own, and its blocks get them.

    Args:
        encoder: changed in place.
        names: of the columns: tasks of the layouts that the encoder will see.
        num_shared_layers: blocks that all columns share, counted from the lowest.
        task_specific: whether a column is trained by its own task alone (then it is in `TaskModules`), or by others,
            too, because their rows go through it or its hidden states reach them. The final normalisation is always its
            task's own.
        setting: the key that asks for columns, for errors.
        own_from: with `task_specific` False, the first of the highest blocks that are their task's own all the same.

    Raises:
        UserError: the family has no list of blocks, or has weights outside of them that cannot be split by rows.
    """
    first_own = own_from if own_from is not None else len(encoder.blocks)
    split_encoder(
        encoder,
        {name: (name,) for name in names},
        num_shared_layers=num_shared_layers,
        setting=setting,
        is_own=lambda index: task_specific or (index is not None and index >= first_own),
    )


def split_encoder(
    encoder: Encoder,
    columns: Mapping[str, Sequence[str]],
    *,
    num_shared_layers: int,
    setting: str,
    is_own: Callable[[int | None], bool] = lambda index: True,
) -> None:
    """Do what `make_columns` says, for columns that serve any number of tasks.

    Args:
        encoder: changed in place.
        columns: name of a column -> the tasks whose rows go through it. One that serves a single task has its name.
        num_shared_layers: blocks that all columns share, counted from the lowest.
        setting: the key that asks for columns, for errors.
        is_own: whether the columns that serve one task are task-specific in a block, by its number; None stands for the
            layers below the blocks, the number of blocks for the final normalisation.

    Raises:
        UserError: as `make_columns`.
    """
    blocks = encoder.require_blocks(setting)
    num_blocks = len(blocks)
    check_num_shared_layers(num_shared_layers, num_blocks)
    outside = _layers_outside(encoder, setting, only_final_norms=num_shared_layers > 0)
    # One for all copies of a column, so that tied weights stay tied.
    memos: dict[str, dict[int, Any]] = {name: {} for name in columns}

    def copies(module: nn.Module) -> dict[str, nn.Module]:
        return {name: deepcopy(module, memo) for name, memo in memos.items()}

    for path, module in outside.items():
        kind = ColumnTable if _is_relative_table(encoder, path) else ColumnLayer
        own = is_own(num_blocks if _is_final_norm(encoder, path) else None)
        replace_module(encoder.model, path, kind(copies(module), columns, task_specific=own))
    for index in range(num_shared_layers, num_blocks):
        blocks[index] = ColumnBlock(copies(blocks[index]), columns, task_specific=is_own(index))


def check_num_shared_layers(num_shared_layers: int, num_blocks: int) -> None:
    """Refuse to share all blocks, which leaves nothing for columns, or more than there are.

    Raises:
        UserError: the setting does not fit.
    """
    if num_shared_layers >= num_blocks:
        raise UserError(
            f"sharing.num_shared_layers: found {num_shared_layers}, but the encoder has {num_blocks} blocks and one at "
            f"least must not be shared; allowed: 0 to {num_blocks - 1}. To share all blocks take sharing=hard."
        )


def check_family(encoder: EncoderShape, num_shared_layers: int, setting: str) -> None:
    """Refuse families that are known to have weights outside of the blocks that cannot be split by rows.

    Raises:
        UserError: such a family, all of which is to be in columns.
    """
    if num_shared_layers == 0 and encoder.family in _TABLES_OF_ALL_ROWS:
        raise UserError(_cannot_be_split(setting, encoder.family, _TABLES_OF_ALL_ROWS[encoder.family]))


def _cannot_be_split(setting: str, family: str, what: str) -> str:
    return (
        f"{setting}: a '{family}' model has weights outside of its blocks ({what}) that cannot be split by rows. Share "
        "them: set sharing.num_shared_layers to 1 or more."
    )


def _layers_outside(encoder: Encoder, setting: str, *, only_final_norms: bool) -> dict[str, nn.Module]:
    """The layers with weights outside of the blocks, by path, or only those behind the last block."""
    inside = {id(module) for block in encoder.blocks for module in block.modules()}
    found = {}
    for path, module in encoder.model.named_modules():
        if id(module) in inside or not any(True for _ in module.parameters(recurse=False)):
            continue
        if only_final_norms and not _is_final_norm(encoder, path):
            continue
        known = type(module) in _LAYERS or "Norm" in type(module).__name__
        if not known or ("relative" in path and not _is_relative_table(encoder, path)):
            raise UserError(_cannot_be_split(setting, encoder.family, f"{path}, {type(module).__name__}"))
        found[path] = module
    return found


def _is_final_norm(encoder: Encoder, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return name in FINAL_NORMS and encoder.model.get_submodule(parent) is _holder_of_blocks(encoder)


def _holder_of_blocks(encoder: Encoder) -> nn.Module:
    blocks = encoder.blocks
    return next(m for m in encoder.model.modules() if any(child is blocks for child in m.children()))


def _is_relative_table(encoder: Encoder, path: str) -> bool:
    """DeBERTa reads the weight of this embedding instead of looking ids up."""
    return encoder.family.startswith("deberta") and path.rpartition(".")[2] == "rel_embeddings"


class Columns(nn.Module):
    """Stands in place of a module that each column has for itself, and sends rows through their column's copy.

    Args:
        copies: the module of each column, by the column's name.
        tasks: the tasks whose rows go through each column.
        task_specific: whether the columns that serve one task belong to that task alone.

    Attributes:
        of_task: the columns that belong to one task each.
        of_several: the columns that several tasks train.
    """

    def __init__(
        self, copies: Mapping[str, nn.Module], tasks: Mapping[str, Sequence[str]], *, task_specific: bool
    ) -> None:
        super().__init__()
        self._tasks = {name: tuple(tasks[name]) for name in copies}
        own = [name for name, of_column in self._tasks.items() if task_specific and of_column == (name,)]
        self.of_task = TaskModules({name: copies[name] for name in own})
        self.of_several = nn.ModuleDict({name: module for name, module in copies.items() if name not in own})

    def __getattr__(self, name: str) -> Any:
        """Some encoders read settings from their modules (ModernBERT: attention_type); all copies have the same."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "of_several" not in modules or name.startswith("__"):
                raise
            return getattr(next(iter([*modules["of_task"].values(), *modules["of_several"].values()])), name)

    def column(self, name: str) -> nn.Module:
        """Return a column's module."""
        return self.of_task[name] if name in self.of_task else self.of_several[name]

    def columns(self) -> dict[str, nn.Module]:
        """Return each column's module by name, in the order in which columns were named."""
        return {name: self.column(name) for name in self._tasks}

    def run(self, first: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run each column's rows through its module, in one call a column; returns what one module would."""
        return run_each(self.columns(), first, args, kwargs, self._tasks)


class ColumnBlock(Columns):
    """A block of the encoder in columns.

    Works for blocks of any family: the first argument is the hidden states, (1, N, D) or (B, T, D); other arguments
    that are laid out by rows or by tokens are split as it is, and the rest is handed on. What a block returns besides
    hidden states (T5's position bias) is put together again.
    """

    @classmethod
    def of_tasks(cls, block: nn.Module, task_names: Sequence[str]) -> ColumnBlock:
        """A copy of a block for each task, which that task alone trains."""
        copies = {task: deepcopy(block) for task in task_names}
        return cls(copies, {task: (task,) for task in task_names}, task_specific=True)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run each column's rows through its block; returns what one block would."""
        return self.run(hidden, args, kwargs)


class ColumnLayer(Columns):
    """An embedding, a normalisation or a linear layer outside of the blocks in columns."""

    def forward(self, inputs: torch.Tensor | ByColumn) -> Any:
        """Apply each column's layer to its rows: (1, N, ...), (B, T, ...), or (1, T) that all rows have in common."""
        if isinstance(inputs, ByColumn):
            return ByColumn({name: self.column(name)(value) for name, value in inputs.items()})
        layout = current_layout()
        if not layout.packed and inputs.shape[0] == 1:
            inputs = inputs.expand(layout.num_rows, *inputs.shape[1:])
        if len(layout.tasks) > 1 and not is_by_row(inputs, layout):
            raise RuntimeError(f"A layer outside of the blocks got inputs of shape {tuple(inputs.shape)}: not by rows.")
        return self.run(inputs, (), {})


class ColumnTable(ColumnLayer):
    """An embedding in columns whose weight is read as a whole: each column's own, (R, D), by name."""

    @property
    def weight(self) -> ByColumn:
        """The table of each column."""
        return ByColumn({name: module.get_parameter("weight") for name, module in self.columns().items()})


@dataclass(frozen=True)
class ColumnParameter:
    """A parameter of the encoder that each column has for itself.

    Attributes:
        name: its name in the encoder before it was copied.
        part: "embeddings" for what lies below the blocks, "block_<i>", or "final_norm".
        of_columns: each column's, in the order of the columns' names, all of one shape.
    """

    name: str
    part: str
    of_columns: tuple[nn.Parameter, ...]


def column_parameters(encoder: Encoder) -> Iterator[ColumnParameter]:
    """Go through the parameters that columns have for themselves, frozen ones left out, tied ones once."""
    block_of = {id(block): index for index, block in enumerate(encoder.blocks)}
    seen: set[int] = set()
    for path, module in encoder.model.named_modules():
        if not isinstance(module, Columns):
            continue
        if id(module) in block_of:
            part = f"block_{block_of[id(module)]}"
        else:
            part = "final_norm" if _is_final_norm(encoder, path) else "embeddings"
        by_column = [dict(column.named_parameters()) for column in module.columns().values()]
        for name, parameter in by_column[0].items():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield ColumnParameter(f"{path}.{name}", part, tuple(found[name] for found in by_column))
