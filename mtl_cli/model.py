"""The multi-task model: one encoder, a sharing strategy, a head a task.

Shapes: B rows, N tokens of all rows, R of them that heads read, M labels, D hidden width, C outputs of a head.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.encoders import Encoder, EncoderShape, Layout, pool, pooled_token, use_layout
from mtl_cli.encoders.dropout import use_fast_dropout
from mtl_cli.sharing import SharingStrategy, TaskModules, check_task_names, parameter_partition
from mtl_cli.sharing.task_modules import SHARED
from mtl_cli.tasks import Task
from mtl_cli.types import Batch, Pooling, Step, UserError


class MultiTaskModel(nn.Module):
    """Encoder, sharing strategy and heads; the rows of all tasks of a step go through the encoder in one pass.

    Attributes:
        encoder: the encoder, as the sharing strategy left it.
        sharing: the strategy.
        tasks: the tasks by name.
        labels: label names of each task in the order of their ids; None for scores.
        heads: heads that serve one task.
        shared_heads: heads that serve several tasks, by the name of the task that defines them.
    """

    def __init__(
        self,
        encoder: Encoder,
        sharing: SharingStrategy,
        tasks: Mapping[str, Task],
        labels: Mapping[str, Sequence[str] | None],
    ) -> None:
        """Put the model together and draw the heads' weights from PyTorch's default generator.

        Raises:
            UserError: a task's name cannot be used, a strategy's setting does not fit the encoder, or a shared head
                does not fit a task.
        """
        super().__init__()
        check_task_names(tasks)
        self.encoder = encoder
        self.sharing = sharing
        self.tasks = dict(tasks)
        self.labels: dict[str, list[str] | None] = {
            name: None if labels[name] is None else list(labels[name] or ()) for name in tasks
        }
        shape = EncoderShape.of(encoder.model.config)
        for warning in [] if shape is None else sharing.warnings(list(tasks), shape.num_blocks):
            warnings.warn(warning, stacklevel=2)
        sharing.attach(encoder, list(tasks))
        self._head_of_task = {name: _head_owner(name, self.tasks, self.labels) for name in tasks}
        self.heads = TaskModules()
        self.shared_heads = nn.ModuleDict()
        owners = list(self._head_of_task.values())
        for owner in dict.fromkeys(owners):
            head = tasks[owner].head.build(encoder.hidden_size, tasks[owner].num_outputs(self.labels[owner]))
            use_fast_dropout(head)
            (self.heads if owners.count(owner) == 1 else self.shared_heads)[owner] = head
        sharing.attach_heads(self)
        self.parameter_partition()

    def forward(self, step: Step) -> dict[str, torch.Tensor]:
        """Return each task's logits, (M, C), in the order of its batch's labels.

        Args:
            step: a batch for each of some or all of the tasks; the tensors on the model's device, lengths on the CPU.
        """
        layout = Layout.from_lengths(
            {name: batch.lengths_B.numpy() for name, batch in step.items()}, packed=self.encoder.packed
        )
        read = {name: self._tokens_read(name, batch, layout.of(name)) for name, batch in step.items()}
        layout = layout.reading(read)
        input_ids_N = torch.cat([batch.input_ids_N for batch in step.values()])
        hidden_RD = self.sharing.encode(self.encoder, input_ids_N, _token_types(list(step.values())), layout)
        hidden_of_tasks = hidden_RD.split([part.stop - part.start for part in layout.read_slices.values()])
        logits = {}
        for (name, of_read), hidden_of_task in zip(read.items(), hidden_of_tasks, strict=True):
            of_task = layout.of(name)
            features_MD = pool(hidden_of_task, of_task, self._pooling(name)) if of_read is None else hidden_of_task
            with use_layout(of_task):
                logits[name] = self._head(name)(features_MD)
        return logits

    def _tokens_read(self, name: str, batch: Batch, layout: Layout) -> torch.Tensor | None:
        """Which of a task's tokens its head sees, one a word or one a row, int64 (M,); None: all, pooled."""
        if batch.positions_M is not None:
            return batch.positions_M
        return pooled_token(layout, self._pooling(name), batch.input_ids_N.device)

    def _pooling(self, name: str) -> Pooling:
        return self.tasks[name].pooling or self.encoder.pooling

    def _head(self, name: str) -> nn.Module:
        owner = self._head_of_task[name]
        return self.heads[owner] if owner in self.heads else self.shared_heads[owner]

    def parameter_partition(self) -> dict[str, str]:
        """Return which part each trainable parameter belongs to: name -> "shared" or the name of a task."""
        return parameter_partition(self)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that several tasks train."""
        return self._part(SHARED)

    def task_specific_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters that this task alone trains."""
        return self._part(task)

    def _part(self, part: str) -> list[nn.Parameter]:
        parameters = dict(self.named_parameters(remove_duplicate=False))
        return [parameters[name] for name, found in self.parameter_partition().items() if found == part]

    def parameter_counts(self) -> dict[str, int]:
        """Count parameters: "total" (frozen ones too), and of the trainable ones "shared" and "task_specific"."""
        shared = sum(parameter.numel() for parameter in self.shared_parameters())
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in self.parameters())
        return {"total": total, "shared": shared, "task_specific": trainable - shared}

    def predict(self, task: str, texts: Sequence[Any], max_tokens: int = 8192) -> list[dict[str, Any]]:
        """Predict labels or scores for raw texts.

        Args:
            task: name of one of the model's tasks.
            texts: strings; pairs of strings for a task on pairs; lists of words for a task with a label a word.
            max_tokens: tokens that go through the encoder at once.

        Returns:
            One record a text, in order, as in a run's prediction files: `prediction` and what the type of task knows
            about its certainty.
        """
        if task not in self.tasks:
            raise UserError(f"The model has no task '{task}'. It has: {', '.join(self.tasks)}.")
        if len(texts) == 0:
            return []
        how = self.tasks[task]
        columns = _columns(how, texts)
        limit = min(how.max_length or self.encoder.max_length, self.encoder.max_length)
        split = _to_split(how.encode(columns, self.encoder.tokenizer, limit, None), len(texts))
        logits_MC = self._logits(task, split, max_tokens)
        return list(how.prediction_records(logits_MC, split, Dataset.from_dict(columns), self.labels[task]))

    def _logits(self, task: str, split: EncodedSplit, max_tokens: int) -> np.ndarray:
        """Logits of one task in the order of the split's labels, float32, (M, C), without dropout and gradients."""
        device = next(self.parameters()).device
        parts, slots = [], []
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                for rows in _batches(split.lengths, max_tokens):
                    parts.append(self({task: split.batch(rows).to(device)})[task].float().cpu().numpy())
                    slots.append(split.label_slots(rows))
        finally:
            self.train(was_training)
        logits_MC = np.concatenate(parts)
        logits_MC[np.concatenate(slots)] = logits_MC.copy()
        return logits_MC


def _token_types(batches: Sequence[Batch]) -> torch.Tensor | None:
    if all(batch.token_type_ids_N is None for batch in batches):
        return None
    return torch.cat(
        [
            torch.zeros_like(batch.input_ids_N) if batch.token_type_ids_N is None else batch.token_type_ids_N
            for batch in batches
        ]
    )


def _head_owner(name: str, tasks: Mapping[str, Task], labels: Mapping[str, list[str] | None]) -> str:
    """The task whose head `name` uses: its own, or at the end of a chain of `share_head_with`.

    Raises:
        UserError: the other task does not exist, refers back, or has other outputs.
    """
    chain = [name]
    while (other := tasks[chain[-1]].share_head_with) is not None:
        key = f"tasks.{chain[-1]}.share_head_with"
        if other not in tasks:
            raise UserError(f"{key}: '{other}' is no task of this run. Tasks: {', '.join(tasks)}.")
        if other in chain:
            raise UserError(f"{key}: {' -> '.join([*chain, other])} goes in a circle. Leave out one of them.")
        chain.append(other)
    owner = chain[-1]
    if owner != name and (labels[name] != labels[owner] or tasks[name].level != tasks[owner].level):
        raise UserError(
            f"tasks.{name}.share_head_with: '{owner}' has the labels {labels[owner]} (a label a {tasks[owner].level}), "
            f"'{name}' has {labels[name]} (a label a {tasks[name].level}). One head needs the same labels in the same "
            f"order: set tasks.{name}.labels."
        )
    return owner


def _columns(task: Task, texts: Sequence[Any]) -> dict[str, list[Any]]:
    """The input columns that the task reads, or an error that says what a text should have been."""
    names = task.input_columns()
    if task.level == "word":
        wanted = "a non-empty list of words"
        fits = [not isinstance(text, str) and len(text) > 0 and _are_strings(text) for text in texts]
    elif len(names) > 1:
        wanted = f"{len(names)} strings ({', '.join(names)})"
        fits = [not isinstance(text, str) and len(text) == len(names) and _are_strings(text) for text in texts]
    else:
        wanted = "a string"
        fits = [isinstance(text, str) for text in texts]
    if not all(fits):
        place = fits.index(False)
        raise UserError(f"Text {place + 1}: found {texts[place]!r}, but {type(task).__name__} takes {wanted} a text.")
    if len(names) > 1:
        return {column: [text[index] for text in texts] for index, column in enumerate(names)}
    return {names[0]: [text if isinstance(text, str) else list(text) for text in texts]}


def _are_strings(items: Sequence[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _to_split(rows: Mapping[str, list[Any]], num_examples: int) -> EncodedSplit:
    def flat(column: str, dtype: type) -> np.ndarray | None:
        return np.concatenate([np.asarray(row, dtype=dtype) for row in rows[column]]) if column in rows else None

    def starts(column: str) -> np.ndarray | None:
        return np.concatenate(([0], np.cumsum([len(row) for row in rows[column]]))) if column in rows else None

    input_ids, row_starts = flat("input_ids", np.int32), starts("input_ids")
    assert input_ids is not None
    assert row_starts is not None
    return EncodedSplit(
        input_ids=input_ids,
        row_starts=row_starts,
        token_type_ids=flat("token_type_ids", np.uint8),
        labels=None,
        positions=flat("positions", np.int32),
        label_starts=starts("positions"),
        word_numbers=flat("word_numbers", np.int32),
        example_numbers=np.asarray(rows["example_offset"], dtype=np.int64),
        num_examples=num_examples,
    )


def _batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Rows of similar length, at most `max_tokens` at a time and at least one row."""
    order = np.argsort(lengths, kind="stable")
    batch_of_row = np.cumsum(lengths[order]) // max(max_tokens, int(lengths.max()))
    return np.split(order, np.flatnonzero(np.diff(batch_of_row)) + 1)
