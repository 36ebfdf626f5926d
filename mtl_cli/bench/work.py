"""What a benchmark trains: the encoder, the tasks, and of each task the same few examples in every round."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from mtl_cli.bench.ceiling import EncoderSize, own_parameters
from mtl_cli.build import instantiate
from mtl_cli.data import EncodedSplit, TaskData
from mtl_cli.encoders import Encoder, Layout
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import choose_device, choose_precision
from mtl_cli.tasks import Task
from mtl_cli.training import Trainer, seed_everything


@dataclass(frozen=True)
class Work:
    """What the variants of a benchmark share.

    Attributes:
        config: of the run that is measured.
        encoder: as it was loaded.
        tasks: the tasks by name.
        data: of each task.
        device: where training computes.
        precision: of its forward passes.
        alone: this process holds one variant only, which may take the encoder's weights as they are.
    """

    config: Mapping[str, Any]
    encoder: Encoder
    tasks: Mapping[str, Task]
    data: Mapping[str, TaskData]
    device: torch.device
    precision: Literal["bf16", "fp32"]
    alone: bool = False

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        loaded: tuple[Encoder, Mapping[str, Task], Mapping[str, TaskData]],
        rows: int | None = None,
        alone: bool = False,
    ) -> Work:
        """Take what was loaded, of each training split the same number of examples: `rows` or fewer; None: all."""
        encoder, tasks, data = loaded
        trainer = instantiate(config["trainer"])
        assert isinstance(trainer, Trainer)
        device = choose_device(trainer.device)
        if rows is not None:
            fewest = min([rows, *(of_task.splits["train"].num_examples for of_task in data.values())])
            data = {name: _cut(of_task, fewest, config["seed"]) for name, of_task in data.items()}
        precision = choose_precision(trainer.precision, device)
        return cls(config, encoder, dict(tasks), dict(data), device, precision, alone)

    @property
    def train_splits(self) -> dict[str, EncodedSplit]:
        """The training split of each task."""
        return {name: of_task.splits["train"] for name, of_task in self.data.items()}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each training row of all tasks."""
        return np.concatenate([split.lengths for split in self.train_splits.values()])

    @cached_property
    def size(self) -> EncoderSize:
        """Of the encoder as it was loaded: what the baselines train."""
        return EncoderSize.of(self.encoder)

    def build_model(self) -> tuple[MultiTaskModel, EncoderSize]:
        """Put our model together; the weights of new layers follow from the seed.

        Returns:
            The model, and the size of its encoder with what the sharing strategy trains of it.
        """
        seed_everything(self.config["seed"])
        labels = {name: of_task.labels for name, of_task in self.data.items()}
        encoder = self.encoder if self.alone else deepcopy(self.encoder)
        own = own_parameters(encoder)
        model = MultiTaskModel(encoder, instantiate(self.config["sharing"]), self.tasks, labels)
        return model, EncoderSize.of(model.encoder, own, model)

    def of_one_task(self) -> Work:
        """Keep the task whose training rows hold the most tokens."""
        splits = self.train_splits
        name = max(splits, key=lambda task: int(splits[task].lengths.sum()))
        return dataclasses.replace(self, tasks={name: self.tasks[name]}, data={name: self.data[name]})

    def first_rows(self, task: str, num_rows: int = 16) -> np.ndarray:
        """Rows whose losses before the first update are compared."""
        return np.arange(min(num_rows, len(self.train_splits[task])))

    def describe(self) -> dict[str, Any]:
        """What is trained, for the figures."""
        size = self.size
        return {
            "encoder": self.config["encoder"].get("path") or self.config["encoder"]["_target_"].split(".")[-1],
            "parameters_without_embeddings": size.num_parameters,
            "layers": size.num_layers,
            "width": size.width,
            "tasks": {name: len(split) for name, split in self.train_splits.items()},
            "tokens": int(self.lengths.sum()),
            "mean_tokens_of_a_row": float(self.lengths.mean()),
            "precision": self.precision,
            **{key: self.config[key]["_target_"].split(".")[-1] for key in ("sharing", "weighting", "sampler")},
        }


def _cut(data: TaskData, num_examples: int, seed: int) -> TaskData:
    """Keep some training examples, drawn by the seed."""
    split = data.splits["train"]
    chosen = np.random.default_rng(seed).permutation(split.num_examples)[:num_examples]
    train = split.select(np.sort(chosen))
    return dataclasses.replace(data, splits={**data.splits, "train": train})


def slots_of(layout: Layout, encoder: Encoder) -> tuple[int, int]:
    """Slots that linear layers and attention (as it runs on a CPU) compute in a pass, padding included."""
    slots = encoder.num_slots(layout.lengths)
    if not layout.packed:
        return slots, slots
    groups = layout.attention_plan(torch.device("cpu")).groups
    return slots, sum(group.num_rows * group.length for group in groups)
