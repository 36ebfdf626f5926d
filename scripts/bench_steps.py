"""What the benchmarks share: a model of K tasks with a step of rows for it, the clock, and the arithmetic."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import psutil
import torch
from transformers import BertConfig, BertModel

from mtl_cli.encoders import BundledMiniLM, Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.precision import choose_precision
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import SharingStrategy
from mtl_cli.tasks import SingleTextClassification
from mtl_cli.training import AdamW
from mtl_cli.types import Batch
from mtl_cli.weighting import Weighting

ENCODERS = ("minilm", "bert_base")
NUM_CLASSES = 3
ROW_TOKENS = (112, 88, 72, 64, 64, 56, 40, 16)  # 512 tokens in 8 rows
MAX_LOAD = 0.5  # of the cores, over the last minute


class Bench:
    """A model of K tasks that classify texts, in training mode, with its optimizer and one step of rows."""

    def __init__(
        self, encoder: str, sharing: SharingStrategy, num_tasks: int, num_tokens: int, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        self.precision = choose_precision("auto", device)
        tasks = {f"task{i}": SingleTextClassification(source=UnavailableSource()) for i in range(num_tasks)}
        labels = {name: [str(c) for c in range(NUM_CLASSES)] for name in tasks}
        self.model = MultiTaskModel(make_encoder(encoder), sharing, tasks, labels).to(device).train()
        self.optimizer = AdamW(lr=1e-5).build(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.step_of_rows = make_step(list(tasks), num_tokens, device)
        self.losses = Losses(self.model, self.precision, device)

    def engine(self, weighting: Weighting) -> GradientEngine:
        weighting.start(list(self.model.tasks), seed=0)
        return GradientEngine(self.model, weighting, self.losses)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_encoder(name: str) -> Encoder:
    if name == "minilm":
        return BundledMiniLM().build()
    tokenizer = BundledMiniLM().load_tokenizer()
    model = BertModel(BertConfig(), add_pooling_layer=False)
    return Encoder(model, tokenizer, pooling="mean", packed=True)


def make_step(tasks: list[str], num_tokens: int, device: torch.device) -> dict[str, Batch]:
    """Rows of random tokens, dealt out to the tasks in turn."""
    num_rows = num_tokens * len(ROW_TOKENS) // sum(ROW_TOKENS)
    lengths = np.resize(ROW_TOKENS, num_rows)
    generator = torch.Generator().manual_seed(1)
    order = np.random.default_rng(1).permutation(num_rows)
    step = {}
    for place, task in enumerate(tasks):
        of_task = lengths[order[place :: len(tasks)]]
        step[task] = Batch(
            input_ids_N=torch.randint(1000, 30_000, (int(of_task.sum()),), generator=generator),
            lengths_B=torch.from_numpy(of_task.astype(np.int64)),
            token_type_ids_N=None,
            positions_M=None,
            labels_M=torch.randint(0, NUM_CLASSES, (len(of_task),), generator=generator),
            rows_B=np.arange(len(of_task)),
        ).to(device)
    return step


def timed(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Wall time and CPU time of this thread, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.thread_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.thread_time() - cpu


def summary(found: Sequence[tuple[float, float]], baseline: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Ratios of wall and CPU times to the baseline's of the same round: medians and quartiles."""
    wall = [a / b for (a, _), (b, _) in zip(found, baseline, strict=True)]
    cpu = [a / b for (_, a), (_, b) in zip(found, baseline, strict=True)]
    low, median, high = statistics.quantiles(wall, n=4) if len(wall) > 1 else (wall[0],) * 3
    return {
        "ratio": median,
        "ratio_low": low,
        "ratio_high": high,
        "cpu_ratio": statistics.median(cpu),
        "seconds": statistics.median(wall_seconds for wall_seconds, _ in found),
    }


def refuse_overload(force: bool) -> float:
    """Stop where other work would be measured too."""
    load = psutil.getloadavg()[0] / (os.cpu_count() or 1)
    if load > MAX_LOAD and not force:
        sys.exit(f"the machine is busy: load {load:.2f} a core over the last minute, at most {MAX_LOAD}")
    return load
