"""A model of K tasks that classify texts, and one step of rows of random tokens for it: no data needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import Precision, choose_precision
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import SharingStrategy, TrainingMoment
from mtl_cli.tasks import SingleTextClassification
from mtl_cli.training import AdamW
from mtl_cli.training.clipping import clip_gradients
from mtl_cli.types import Batch, UserError
from mtl_cli.weighting import Weighting

NUM_CLASSES = 3
ROW_TOKENS = (112, 88, 72, 64, 64, 56, 40, 16)  # 512 tokens in 8 rows
_TOKEN_IDS = (1000, 30_000)  # words of BERT's vocabulary


class SyntheticRun:
    """The model in training mode, with its optimizer and one step of rows.

    Args:
        encoder: the model's; it is changed.
        sharing: the strategy.
        num_tasks: K.
        num_tokens: tokens of the step; a multiple of 512 is held to exactly.
        device: where it computes.
        precision: of forward passes.
        lazy: whether rows of the word embedding are updated when they are read, as in training (`LazyAdamW`).
    """

    def __init__(
        self,
        encoder: Encoder,
        sharing: SharingStrategy,
        num_tasks: int,
        num_tokens: int,
        device: torch.device,
        precision: Precision = "auto",
        lazy: bool = True,
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        self.precision = choose_precision(precision, device)
        tasks = {f"task{i}": SingleTextClassification(source=UnavailableSource()) for i in range(num_tasks)}
        labels = {name: [str(c) for c in range(NUM_CLASSES)] for name in tasks}
        vocabulary = len(encoder.tokenizer)
        self.model = MultiTaskModel(encoder, sharing, tasks, labels).to(device).train()
        self.optimizer = AdamW(lr=1e-5).build(self.model, lazy=lazy)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.step_of_rows = make_step(list(tasks), num_tokens, device, vocabulary)
        self.losses = Losses(self.model, self.precision, device)

    def engine(self, weighting: Weighting) -> GradientEngine:
        """Make the engine that fills the gradients of a step."""
        weighting.start(list(self.model.tasks), seed=0)
        return GradientEngine(self.model, weighting, self.losses)

    def catch_up(self) -> None:
        """Bring the rows of the word embedding up to date that the step reads: before each forward pass."""
        if self.optimizer.is_lazy:
            self.optimizer.catch_up(self.model.encoder.ids_read([self.step_of_rows]))

    def update(self) -> None:
        """Clip, and let the optimizer make its step."""
        clip_gradients(self.optimizer, self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def moments_past_warm_ups() -> Iterator[TrainingMoment]:
    """Moments of a made-up run, from its middle on: what a strategy does after its warm-up is what most steps do."""
    total_steps, steps_per_epoch = 1000, 100
    return (TrainingMoment(step, total_steps, steps_per_epoch) for step in count(total_steps // 2))


def halves(task_names: Sequence[str]) -> list[list[str]]:
    """The first and the second half of the tasks; of one task, one group."""
    middle = (len(task_names) + 1) // 2
    return [list(half) for half in (task_names[:middle], task_names[middle:]) if half]


def told_of_tasks(sharing: Mapping[str, Any], task_names: Sequence[str]) -> dict[str, Any]:
    """Return a strategy's settings with those that name tasks saying halves of these: `order`, `groups`."""
    found = dict(sharing)
    if "order" in found:
        found |= {"order": halves(task_names), "levels": None}
    if "groups" in found:
        found["groups"] = halves(task_names)
    return found


def fewest_tokens(num_tasks: int) -> int:
    """Tokens of a step in which each of so many tasks has a row."""
    return num_tasks * sum(ROW_TOKENS) // len(ROW_TOKENS)


def make_step(
    tasks: list[str], num_tokens: int, device: torch.device, vocabulary: int = _TOKEN_IDS[1]
) -> dict[str, Batch]:
    """Rows of random tokens, dealt out to the tasks in turn; the same rows whatever the number of tasks.

    Args:
        tasks: their names.
        num_tokens: tokens of all rows together.
        device: where the batches are put.
        vocabulary: ids that the encoder knows.

    Raises:
        UserError: fewer rows than tasks.
    """
    num_rows = num_tokens * len(ROW_TOKENS) // sum(ROW_TOKENS)
    if num_rows < len(tasks):
        raise UserError(
            f"{num_tokens} tokens a step are {num_rows} rows, too few for a row of each of {len(tasks)} tasks; "
            f"allowed: at least {fewest_tokens(len(tasks))}"
        )
    lengths = np.resize(ROW_TOKENS, num_rows)
    generator = torch.Generator().manual_seed(1)
    order = np.random.default_rng(1).permutation(num_rows)
    first, last = (_TOKEN_IDS[0], _TOKEN_IDS[1]) if vocabulary >= _TOKEN_IDS[1] else (0, vocabulary)
    step = {}
    for place, task in enumerate(tasks):
        of_task = lengths[order[place :: len(tasks)]]
        step[task] = Batch(
            input_ids_N=torch.randint(first, last, (int(of_task.sum()),), generator=generator),
            lengths_B=torch.from_numpy(of_task.astype(np.int64)),
            token_type_ids_N=None,
            positions_M=None,
            labels_M=torch.randint(0, NUM_CLASSES, (len(of_task),), generator=generator),
            rows_B=np.arange(len(of_task)),
        ).to(device)
    return step
