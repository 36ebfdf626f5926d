"""Label embeddings: what a lower task predicts for a higher task's tokens, fed into the blocks above.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, C labels of a task, E width of a
label's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from mtl_cli.encoders import Encoder, Layout, pool, use_layout
from mtl_cli.precision import at_least_float32
from mtl_cli.sharing.columns import FINAL_NORMS
from mtl_cli.sharing.rows import apply_by_task
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.types import Pooling


@dataclass(frozen=True)
class Source:
    """A task whose predictions are fed into others' hidden states.

    Attributes:
        level: number of blocks below its head, at least 1; the labels join behind them.
        num_labels: C.
        head: its head.
        pooling: how a row becomes one vector for its head; None where it has a label a word.
        readers: the higher tasks.
    """

    level: int
    num_labels: int
    head: nn.Module
    pooling: Pooling | None
    readers: tuple[str, ...]


class LabelEmbeddings(nn.Module):
    """Embeddings of the labels of lower tasks, and their projections to the width of the hidden states.

    An embedding serves all tasks that read it; where that is one task alone, it is that task's own, as projections
    always are.

    Args:
        sources: the lower tasks by name.
        size: E.
        width: D.
        final_norm: the normalisation between the blocks and the heads, where the family has one.
    """

    def __init__(self, sources: Mapping[str, Source], size: int, width: int, final_norm: nn.Module | None) -> None:
        super().__init__()
        self.shared = nn.ModuleDict()
        readers = dict.fromkeys(reader for source in sources.values() for reader in source.readers)
        own = {
            reader: nn.ModuleDict({"embeddings": nn.ModuleDict(), "projections": nn.ModuleDict()}) for reader in readers
        }
        for name, source in sources.items():
            embedding = nn.Linear(source.num_labels, size, bias=False)
            nn.init.zeros_(embedding.weight)
            if len(source.readers) > 1:
                self.shared[name] = embedding
            for reader in source.readers:
                holders = own[reader]
                if len(source.readers) == 1:
                    _dict(holders, "embeddings")[name] = embedding
                projection = nn.Linear(size, width, bias=False)
                nn.init.normal_(projection.weight, std=size**-0.5)
                _dict(holders, "projections")[name] = projection
        self.of_task = TaskModules(own)
        self.sources = dict(sources)
        # Parts of the model themselves, to be registered there and not here.
        self._final_norm = (final_norm,)

    def levels(self) -> set[int]:
        """Return behind how many blocks labels join."""
        return {source.level for source in self.sources.values()}

    def forward(self, hidden: torch.Tensor, layout: Layout, level: int) -> torch.Tensor:
        """Add the label embeddings of the tasks that leave at `level` to the hidden states of those that read them."""
        sources = {name: source for name, source in self.sources.items() if source.level == level}

        def add(task: str, part: torch.Tensor) -> torch.Tensor:
            mine = [name for name, source in sources.items() if task in source.readers]
            if not mine:
                return part
            own = layout.of(task)
            with use_layout(own):
                labels = [self._projected(name, task, part, own) for name in mine]
            for projected in labels:
                part = part + projected.to(part.dtype)
            return part

        return apply_by_task(add, hidden, layout)

    def _projected(self, name: str, reader: str, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The expected label embedding of each token, (1, N, D), or (B, T or 1, D)."""
        probabilities = self.probabilities(name, hidden, layout)
        embedding, projection = self._pair(name, reader)
        projected: torch.Tensor = projection(embedding(probabilities))
        if self.sources[name].pooling is None:
            return projected
        if layout.packed:
            return projected.index_select(0, layout.row_of_token(projected.device))[None]
        return projected[:, None]

    def _pair(self, name: str, reader: str) -> tuple[nn.Linear, nn.Linear]:
        """The embedding of a lower task's labels and its projection for a higher task."""
        holders = self.of_task[reader]
        assert isinstance(holders, nn.ModuleDict)
        embedding = self.shared[name] if name in self.shared else _dict(holders, "embeddings")[name]
        projection = _dict(holders, "projections")[name]
        assert isinstance(embedding, nn.Linear)
        assert isinstance(projection, nn.Linear)
        return embedding, projection

    def probabilities(self, name: str, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return a lower task's distribution over its labels, without a gradient.

        Args:
            name: the lower task.
            hidden: hidden states of rows of another task, (1, N, D) or (B, T, D).
            layout: of these rows.

        Returns:
            (1, N, C) or (B, T, C) where the lower task has a label a word, else (B, C).
        """
        source = self.sources[name]
        # Detached at both ends, not torch.no_grad: autocast keeps weights as it has cast them, and the head's are used
        # again, with a graph, for its own rows. (torch 2.13 on a CPU gets both right; elsewhere not tested.)
        seen = hidden.detach()
        if source.pooling is None:
            features = self._normalised(seen)
        else:
            features = pool(self._normalised(_flat(seen, layout)), layout, source.pooling)
        with _without_dropout(source.head):
            logits = source.head(features)
        return at_least_float32(logits.detach()).softmax(dim=-1)

    def _normalised(self, hidden: torch.Tensor) -> torch.Tensor:
        (norm,) = self._final_norm
        if norm is None:
            return hidden
        normalised: torch.Tensor = norm(hidden)
        return normalised

    def norms(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return the root mean square length of a label's projected embedding: readers in rows, sources in columns.

        nan where a task does not read another.
        """
        values = torch.full((len(tasks), len(tasks)), float("nan"), dtype=torch.float64)
        for column, name in enumerate(tasks):
            for reader in self.sources[name].readers if name in self.sources else ():
                embedding, projection = self._pair(name, reader)
                labels_CD = embedding.weight.detach().T @ projection.weight.detach().T
                values[tasks.index(reader), column] = labels_CD.double().square().sum(1).mean().sqrt()
        return values


def final_norm(encoder: Encoder) -> nn.Module | None:
    """Return the normalisation between an encoder's blocks and the heads, where the family has one."""
    blocks = encoder.blocks
    for holder in encoder.model.modules():
        if any(child is blocks for child in holder.children()):
            return next((child for name, child in holder.named_children() if name in FINAL_NORMS), None)
    return None


def _flat(hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The hidden states of real tokens, (N, D)."""
    if layout.packed:
        return hidden[0]
    # Padded to the longest row of the step, which may be another task's: not as `layout.padding` has it.
    slot_of_token_N = layout.row_of_token(hidden.device) * hidden.shape[1] + layout.positions(hidden.device)
    return hidden.flatten(0, 1).index_select(0, slot_of_token_N)


def _dict(holders: nn.ModuleDict, key: str) -> nn.ModuleDict:
    found = holders[key]
    assert isinstance(found, nn.ModuleDict)
    return found


@contextmanager
def _without_dropout(head: nn.Module) -> Iterator[None]:
    """Inside, a head computes as in evaluation."""
    was_training = head.training
    head.eval()
    try:
        yield
    finally:
        head.train(was_training)
