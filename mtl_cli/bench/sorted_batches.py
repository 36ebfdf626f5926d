"""B3: a plain loop with one data set a batch, sorted by length under a word budget, a run for each task.

The batches are those that MaChAmp (van der Goot et al., EACL 2021 demos) makes with its own settings: all rows sorted
by length, cut into batches of 32 rows and 1,024 tokens at most, in random order. The loop is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mtl_cli.bench.epoch_clock import EpochClock
from mtl_cli.bench.protocol import Measured
from mtl_cli.bench.single_task import (
    SingleTaskModel,
    as_without_us,
    first_losses,
    pad_id,
    padded,
    records,
    stock_encoder,
)
from mtl_cli.bench.work import Work
from mtl_cli.precision import autocast

BATCH_SIZE, BATCH_TOKENS = 32, 1024


class SortedBatches:
    """One round: an epoch over each task's rows, one task after the other.

    Timed: cutting and padding batches, forward, backward, torch's AdamW with its default settings. No clipping, no
    logging, no schedule. The tasks share the encoder's weights, each with an optimizer of its own.
    """

    def __init__(self, work: Work, heads: Mapping[str, nn.Module]) -> None:
        self.work = work
        self.size = work.size
        self.precision = work.precision
        encoder = stock_encoder(work.encoder, share_weights=work.alone).to(work.device).train()
        self.models = {
            name: SingleTaskModel(encoder, heads[name], task, work.encoder.pooling).train()
            for name, task in work.tasks.items()
        }
        self._optimizers = {
            name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
            for name, model in self.models.items()
        }
        self._rows = {name: records(split) for name, split in work.train_splits.items()}
        self._draw = np.random.default_rng(work.config["seed"])
        self._clock = EpochClock(work.device)

    @property
    def padding(self) -> tuple[float, float]:
        """Share of padding in the slots of linear layers and of attention, over the last round."""
        return self._clock.padding

    def round(self) -> Measured:
        """Train for an epoch of each task."""
        self._clock.reset()
        with as_without_us(self.work.device):
            self._clock.begin()
            updates = sum(self._epoch(task, model, self._optimizers[task]) for task, model in self.models.items())
            self._clock.end()
        return self._clock.measured(updates)

    def first_losses(self) -> dict[str, float]:
        """Each task's loss of its first rows, without dropout."""
        return first_losses(self.work, self.models, self.work.precision)

    def close(self) -> None:
        """Nothing to remove."""

    def _epoch(self, task: str, model: SingleTaskModel, optimizer: torch.optim.Optimizer) -> int:
        """Train on a task's rows; return the updates."""
        device, lengths = self.work.device, self.work.train_splits[task].lengths
        batches = sorted_batches(lengths)
        for place in self._draw.permutation(len(batches)):
            rows = batches[place]
            longest = int(lengths[rows].max())
            self._clock.count(lengths[rows].tolist(), longest * len(rows))
            columns = padded(self._rows[task], rows, pad_id(self.work.encoder), longest)
            batch = {column: torch.tensor(values).to(device) for column, values in columns.items()}
            with autocast(self.work.precision, device):
                loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return len(batches)


def sorted_batches(
    lengths: np.ndarray, batch_size: int = BATCH_SIZE, batch_tokens: int = BATCH_TOKENS
) -> list[np.ndarray]:
    """Cut rows, shortest first, into batches of so many rows and so many tokens at most, and at least one row."""
    order = np.argsort(lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        tokens = np.cumsum(lengths[order[begin : begin + batch_size]])
        size = max(1, int(np.searchsorted(tokens, batch_tokens, side="right")))
        batches.append(order[begin : begin + size])
        begin += size
    return batches
