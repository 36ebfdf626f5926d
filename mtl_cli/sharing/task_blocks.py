"""A block of the encoder that each task has for itself.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from mtl_cli.sharing.rows import run_each
from mtl_cli.sharing.task_modules import TaskModules


class TaskBlocks(nn.Module):
    """Stands in place of one block and sends each task's rows through that task's own copy of it.

    All copies begin with the original's weights. Works for blocks of any family: the first argument is the hidden
    states, (1, N, D) or (B, T, D); other arguments that are laid out by rows or by tokens are split as it is, and the
    rest is handed on. What a block returns besides hidden states (T5's position bias) is put together again.
    """

    def __init__(self, block: nn.Module, task_names: list[str]) -> None:
        super().__init__()
        self.of_task = TaskModules({task: deepcopy(block) for task in task_names})

    def __getattr__(self, name: str) -> Any:
        """Some encoders read settings from their blocks (ModernBERT: attention_type); all copies have the same."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "of_task" not in modules or name.startswith("__"):
                raise
            return getattr(next(iter(modules["of_task"].values())), name)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run each task's rows through its block; returns what one block would."""
        return run_each(dict(self.of_task.items()), hidden, args, kwargs)
