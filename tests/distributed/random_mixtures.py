"""200 runs of settings drawn at random, each to the end of an epoch or further; `fork_ranks.py` runs it in two ranks.

No rank may wait for another for ever: not at the short end of a pass, nor where some task, or a whole step, has fewer
rows than there are ranks.
"""

import hashlib
import json
import random
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
from rank_checks import prepared

from mtl_cli import sampling, sharing, weighting
from mtl_cli.distributed.processes import processes_of_run
from mtl_cli.distributed.ranks import gather, is_main
from mtl_cli.encoders import TransformerEncoder
from mtl_cli.model import MultiTaskModel
from mtl_cli.tracking import Loggers, NoMetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training import AdamW, Constant, Trainer, TrainingRun, seed_everything
from mtl_cli.training.checkpoint import Checkpoints
from mtl_cli.training.length import run_length

SEEDS = range(200)
SAMPLERS = ("AllTasks", "RoundRobin", "Proportional", "Temperature", "Uniform", "Annealed")
LOSS_WEIGHTINGS = (weighting.Equal(), weighting.UncertaintyWeighting(), weighting.FAMO())
GRADIENT_WEIGHTINGS = (
    weighting.PCGrad(),
    weighting.CAGrad(engine="per_task"),
    weighting.MGDA(),
    weighting.DBMTL(),
)
STRATEGIES = (
    sharing.HardSharing(),
    sharing.HardSharing(),
    sharing.SoftL2(),
    sharing.MoE(num_experts=3, expert_width=8),
)


@dataclass(frozen=True)
class Mixture:
    """What was drawn.

    Attributes:
        seed: of the draws, and of the run.
        rows: training rows of each task.
        validation_rows: of each task.
        sampler: with its settings.
        weighs: the weighting.
        strategy: of sharing.
        settings: of the trainer.
        further_steps: behind the end of the first epoch.
    """

    seed: int
    rows: dict[str, int]
    validation_rows: dict[str, int]
    sampler: sampling.Sampler
    weighs: weighting.Weighting
    strategy: sharing.SharingStrategy
    settings: dict[str, Any]
    further_steps: int

    @classmethod
    def of(cls, seed: int, available: dict[str, int]) -> "Mixture":
        """Draw tasks of such names, with so many rows at most."""
        draw = random.Random(seed)
        names = draw.sample(list(available), draw.randint(1, len(available)))
        largest = draw.choice([1, 3, 7, 15])
        rows = {name: draw.randint(1, min(largest, available[name])) for name in names}
        sampler = _draw_sampler(draw, names)
        strategy = draw.choice(STRATEGIES)
        weightings = LOSS_WEIGHTINGS[:2]
        if len(names) > 1 and sampler.tasks_per_step != "one":  # others need several tasks in a step
            weightings = LOSS_WEIGHTINGS
            if not isinstance(strategy, sharing.SoftL2):  # and these parameters that tasks share
                weightings += GRADIENT_WEIGHTINGS
        return cls(
            seed=seed,
            rows=rows,
            validation_rows={name: draw.randint(1, 3) for name in names},
            sampler=sampler,
            weighs=draw.choice(weightings),
            strategy=strategy,
            settings={
                "num_micro_batches": draw.choice([1, 1, 2, 3]),
                "batch_tokens": draw.choice([None, None, 12, 40]),
                "evaluate_every": draw.choice(["epoch", 1000]),
            },
            further_steps=draw.randint(0, 3),
        )


def _draw_sampler(draw: random.Random, names: list[str]) -> sampling.Sampler:
    kind = draw.choice(SAMPLERS)
    more: dict[str, Any] = {"max_tokens": draw.choice([None, None, 15, 60]), "bucket_window": draw.choice([0, 1, 50])}
    more["batch_size"] = draw.randint(1, 9)
    if kind in ("AllTasks", "RoundRobin"):
        more["epoch"] = draw.choice(["largest", "smallest", "mean"])
        if draw.random() < 0.5:
            more["batch_size"] = {name: draw.randint(1, 5) for name in names}
    else:
        more["mixed"] = draw.random() < 0.7
    if kind == "Temperature":
        more |= {"temperature": draw.choice([1.0, 2.0, 5.0]), "max_size": draw.choice([None, 2])}
    if kind == "Annealed":
        more["final_exponent"] = draw.random()
    found: sampling.Sampler = getattr(sampling, kind)(**more)
    return found


def train(mixture, encoder, tasks, data, folder):
    """Train what was drawn to its end; return what came of it, with a digest of each rank's parameters."""
    seed_everything(mixture.seed)
    tasks = {name: tasks[name] for name in mixture.rows}
    sizes = {"train": mixture.rows, "validation": mixture.validation_rows}
    data = {
        name: replace(
            data[name],
            splits={split: data[name].splits[split].select(np.arange(sizes[split][name])) for split in sizes},
        )
        for name in tasks
    }
    labels = {name: found.labels for name, found in data.items()}
    model = MultiTaskModel(deepcopy(encoder), deepcopy(mixture.strategy), tasks, labels)
    splits = {name: found.splits["train"] for name, found in data.items()}
    epoch = run_length(Trainer(), mixture.sampler, splits, seed=mixture.seed).steps_per_epoch
    run = TrainingRun(
        model=model, data=data, sampler=mixture.sampler, weighting=deepcopy(mixture.weighs),
        optimizer=AdamW(lr=1e-3, eps=1e-6), schedule=Constant(), folder=folder, metrics_file=NoMetricsFile(),
        loggers=Loggers(), progress=Progress(enabled=False), seed=mixture.seed,
        info=RunInfo(folder=folder.path, name="mixture", tasks=tuple(tasks)),
    )  # fmt: skip
    trainer = Trainer(device="cpu", precision="fp32", max_steps=epoch + mixture.further_steps, **mixture.settings)
    state = trainer.fit(run)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    return {"steps": state.step, "steps_per_epoch": epoch, "passes": state.passes_of_tasks, "digests": gather(digest)}


def run_all(path):
    """Train all of them; leave what was drawn and what came of it in mixtures.json."""
    path.mkdir(exist_ok=True)
    found = []
    with processes_of_run("cpu"):
        _, tasks, data = prepared(path)
        # The words' ids are those of the encoder that prepared the data: same texts, same size of vocabulary.
        spec = TransformerEncoder(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, dropout=0.0)
        encoder = spec.build(["a fine film", "a dull song and a great meal"])
        available = {name: len(of_task.splits["train"]) for name, of_task in data.items()}
        for seed in SEEDS:
            mixture = Mixture.of(seed, available)
            if is_main():
                print(mixture, flush=True)  # the last one that is shown is the one that hangs
            # Both would read the best weights from rank 0's file, but those that each has trained are compared.
            files = dict.fromkeys(("save", "save_best", "load_best"), mock.DEFAULT)
            with mock.patch.multiple(Checkpoints, **files):
                outcome = train(mixture, encoder, tasks, data, RunFolder(path / "run"))
            found.append({"seed": seed, "rows": mixture.rows, "sampler": mixture.sampler.settings(), **outcome})
            found[-1] |= {"settings": mixture.settings, "weighting": type(mixture.weighs).__name__}
    if is_main():
        (path / "mixtures.json").write_text(json.dumps(found))
    return 0
