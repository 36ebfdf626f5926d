"""A model of K tasks that classify texts, and one step of rows of random tokens for it: no data needed."""

from __future__ import annotations

import numpy as np
import torch

from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import Precision, choose_precision
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import SharingStrategy
from mtl_cli.tasks import SingleTextClassification
from mtl_cli.training import AdamW
from mtl_cli.types import Batch
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
        num_tokens: tokens of the step, a multiple of 64.
        device: where it computes.
        precision: of forward passes.
    """

    def __init__(
        self,
        encoder: Encoder,
        sharing: SharingStrategy,
        num_tasks: int,
        num_tokens: int,
        device: torch.device,
        precision: Precision = "auto",
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        self.precision = choose_precision(precision, device)
        tasks = {f"task{i}": SingleTextClassification(source=UnavailableSource()) for i in range(num_tasks)}
        labels = {name: [str(c) for c in range(NUM_CLASSES)] for name in tasks}
        vocabulary = len(encoder.tokenizer)
        self.model = MultiTaskModel(encoder, sharing, tasks, labels).to(device).train()
        self.optimizer = AdamW(lr=1e-5).build(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.step_of_rows = make_step(list(tasks), num_tokens, device, vocabulary)
        self.losses = Losses(self.model, self.precision, device)

    def engine(self, weighting: Weighting) -> GradientEngine:
        """Make the engine that fills the gradients of a step."""
        weighting.start(list(self.model.tasks), seed=0)
        return GradientEngine(self.model, weighting, self.losses)

    def update(self) -> None:
        """Clip, and let the optimizer make its step."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_step(
    tasks: list[str], num_tokens: int, device: torch.device, vocabulary: int = _TOKEN_IDS[1]
) -> dict[str, Batch]:
    """Rows of random tokens, dealt out to the tasks in turn; the same rows whatever the number of tasks.

    Args:
        tasks: their names.
        num_tokens: tokens of all rows together.
        device: where the batches are put.
        vocabulary: ids that the encoder knows.
    """
    num_rows = num_tokens * len(ROW_TOKENS) // sum(ROW_TOKENS)
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
