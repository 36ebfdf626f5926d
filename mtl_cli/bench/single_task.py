"""What the baselines train: transformers' own model with a head, on padded rows of one task.

Shapes: B rows, T tokens of a padded row, D hidden width, M labels, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from mtl_cli.bench.work import Work
from mtl_cli.data import EncodedSplit
from mtl_cli.encoders import Encoder, loading
from mtl_cli.model import MultiTaskModel
from mtl_cli.tasks import Task
from mtl_cli.training.allocator import freed_memory_as_by_default
from mtl_cli.types import IGNORE_INDEX, Pooling, UserError


def as_without_us(device: torch.device) -> AbstractContextManager[None]:
    """Within it memory is freed as in a process in which none of ours runs."""
    return freed_memory_as_by_default() if device.type == "cpu" else nullcontext()


def stock_encoder(encoder: Encoder, share_weights: bool = False) -> nn.Module:
    """Return transformers' model of the encoder's architecture and weights: its own attention, its own dropout."""
    config = type(encoder.model.config).from_dict(encoder.model.config.to_dict())
    model = loading.new_model(config)
    assert isinstance(model, nn.Module)
    model.load_state_dict(encoder.model.state_dict(), assign=share_weights)
    for (_, ours), parameter in zip(encoder.model.named_parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(ours.requires_grad)
    return model


def heads_of(work: Work, model: MultiTaskModel | None) -> dict[str, nn.Module]:
    """Copies of our model's heads, as they are; without a model new ones.

    Raises:
        UserError: tasks share a head, which no single-task run can.
    """
    shared = [name for name, task in work.tasks.items() if task.share_head_with is not None]
    if shared:
        raise UserError(
            f"tasks.{shared[0]}.share_head_with: a run of one task alone has no head to share; leave it out to compare "
            "with single-task training"
        )
    heads: dict[str, nn.Module] = {}
    for name, task in work.tasks.items():
        head = (
            task.head.build(work.encoder.hidden_size, task.num_outputs(work.data[name].labels))
            if model is None
            else deepcopy(model.heads[name])
        )
        heads[name] = head.to(work.device)
    return heads


class SingleTaskModel(nn.Module):
    """An encoder of transformers with one head, called as its Trainer calls models."""

    def __init__(self, encoder: nn.Module, head: nn.Module, task: Task, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.task = task
        self.pooling: Pooling = task.pooling or pooling

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return `loss`, the mean over valid labels, and `logits`: (B, C), or (B, T, C) with a label a token."""
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden_BTD = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        features = hidden_BTD if self.task.level == "word" else pool_padded(hidden_BTD, attention_mask, self.pooling)
        logits = self.head(features)
        if labels is None:
            return {"logits": logits}
        return {"loss": self.task.loss(logits.flatten(0, -2), labels.flatten()), "logits": logits}


def pool_padded(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return one vector a row, (B, D), padding apart."""
    real_BT1 = mask_BT[:, :, None].bool()
    match pooling:
        case "first":
            return hidden_BTD[:, 0]
        case "last":
            return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), mask_BT.sum(1) - 1]
        case "mean":
            sum_BD = hidden_BTD.float().masked_fill(~real_BT1, 0.0).sum(1)
            return sum_BD / mask_BT.sum(1)[:, None]
        case "max":
            return hidden_BTD.masked_fill(~real_BT1, -torch.inf).max(1).values


def records(split: EncodedSplit) -> dict[str, list[Any]]:
    """Columns of a split's rows, as a tokenised data set holds them: lists without padding, tags a token."""
    found: dict[str, list[Any]] = {"input_ids": _lists(split.input_ids, split.row_starts)}
    found["attention_mask"] = [[1] * len(row) for row in found["input_ids"]]
    if split.token_type_ids is not None:
        found["token_type_ids"] = _lists(split.token_type_ids, split.row_starts)
    if split.labels is None:
        return found
    if split.positions is None or split.label_starts is None:
        found["labels"] = split.labels.tolist()
        return found
    of_tokens = np.full(len(split.input_ids), IGNORE_INDEX, dtype=np.int64)
    of_tokens[slots_of_words(split)] = split.labels
    found["labels"] = _lists(of_tokens, split.row_starts)
    return found


def slots_of_words(split: EncodedSplit) -> np.ndarray:
    """The token among all of the split's that stands for each label."""
    assert split.positions is not None
    assert split.label_starts is not None
    return np.repeat(split.row_starts[:-1], np.diff(split.label_starts)) + split.positions


def _lists(flat: np.ndarray, starts: np.ndarray) -> list[list[int]]:
    return [flat[begin:end].tolist() for begin, end in pairwise(starts.tolist())]


def padded(rows: Mapping[str, list[Any]], chosen: np.ndarray, pad_token_id: int, length: int) -> dict[str, list[Any]]:
    """Columns of some rows, each padded to `length`."""
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "labels": IGNORE_INDEX}
    found = {}
    for column, values in rows.items():
        of_chosen = [values[row] for row in chosen]
        found[column] = [
            value + [fill[column]] * (length - len(value)) if isinstance(value, list) else value for value in of_chosen
        ]
    return found


def first_losses(work: Work, models: Mapping[str, SingleTaskModel], precision: Any) -> dict[str, float]:
    """Each task's loss of its first rows, without dropout, as a baseline computes it."""
    from mtl_cli.precision import autocast

    found = {}
    for task, model in models.items():
        chosen = work.first_rows(task)
        split = work.train_splits[task]
        columns = padded(records(split), chosen, pad_id(work.encoder), int(split.lengths[chosen].max()))
        batch = {column: torch.tensor(values, device=work.device) for column, values in columns.items()}
        with torch.no_grad(), autocast(precision, work.device):
            found[task] = model.eval()(**batch)["loss"].item()
        model.train()
    return found


def pad_id(encoder: Encoder) -> int:
    """The id that padding has."""
    return int(encoder.tokenizer.pad_token_id or 0)
