"""Run folders of a sweep with made-up figures: sharing x weighting x seed, and runs that did not come to an end."""

import math
import random
from itertools import pairwise

from mtl_cli.tracking import MetricsFile, ParameterCounts, Results, RunFolder, TrainingCost

TASKS = {"sentiment": "accuracy", "entities": "span_f1", "inference": "accuracy"}
SCORES = {
    ("hard", "equal"): {"sentiment": 0.80, "entities": 0.70, "inference": 0.60},
    ("hard", "pcgrad"): {"sentiment": 0.84, "entities": 0.66, "inference": 0.63},
    ("mmoe", "equal"): {"sentiment": 0.78, "entities": 0.74, "inference": 0.61},
    ("mmoe", "pcgrad"): {"sentiment": 0.79, "entities": 0.65, "inference": 0.59},
}
"""Validation of the middle seed; the other two lie 0.02 below and above."""
CLASSES = {
    "hard": "mtl_cli.sharing.HardSharing",
    "mmoe": "mtl_cli.sharing.MMoE",
    "equal": "mtl_cli.weighting.Equal",
    "pcgrad": "mtl_cli.weighting.PCGrad",
}


def config(sharing="hard", weighting="equal", seed=1, lr=0.001, tasks=TASKS, **more):
    return {
        "encoder": {"_target_": "mtl_cli.encoders.TransformerEncoder", "hidden_size": 128},
        "tasks": {
            task: {"_target_": "mtl_cli.tasks.SingleTextClassification", "main_metric": metric, "text": "text"}
            for task, metric in tasks.items()
        },
        "sharing": {"_target_": CLASSES[sharing], **({"num_experts": 4} if sharing == "mmoe" else {})},
        "weighting": {"_target_": CLASSES[weighting]},
        "optimizer": {"_target_": "mtl_cli.training.AdamW", "lr": lr},
        "seed": seed,
        **more,
    }


def results(scores, status="finished", **more):
    tasks = {
        task: {
            "validation": {TASKS.get(task, "accuracy"): score, "loss": 2 - score},
            "test": {TASKS.get(task, "accuracy"): score - 0.1, "loss": 2.1 - score},
        }
        for task, score in scores.items()
    }
    score = sum(scores.values()) / len(scores) if scores else None
    cost = TrainingCost(steps=200, seconds=42.5, tokens=410_000, tokens_per_second=9_650.0, peak_memory_bytes=10**9)
    counts = ParameterCounts(total=696_000, shared=694_000, task_specific=2_000)
    return Results(status=status, tasks=tasks, score=score, training=cost, parameters=counts, **more)


def records(scores, seed=1, num_steps=200, every=2):
    """Losses that fall, weights, conflicts; at each twentieth line an evaluation."""
    draw = random.Random(seed)
    tasks = list(scores)
    for step in range(every, num_steps + 1, every):
        progress = 1 - math.exp(-3 * step / num_steps)
        record = {"step": step, "train/tokens": 2050 * step, "train/epoch": step / 50}
        for number, task in enumerate(tasks):
            record[f"train/loss/{task}"] = 1.2 - 0.8 * progress + 0.08 * draw.gauss(0, 1)
            record[f"train/weight/{task}"] = 1 + 0.3 * progress * (number - 1)
            record[f"train/grad_norm/{task}"] = 0.5 + 0.1 * draw.random()
        for one, other in pairwise(tasks):
            record[f"train/cosine/{one}/{other}"] = 0.3 * draw.gauss(0, 1) - 0.1
        record["train/conflict_rate"] = draw.choice([0.0, 0.5, 1.0])
        yield record
        if step % (20 * every) == 0:
            reached = {task: score * progress for task, score in scores.items()}
            evaluation = {f"validation/{task}/{TASKS.get(task, 'accuracy')}": value for task, value in reached.items()}
            evaluation |= {f"validation/{task}/loss": 2 - value for task, value in reached.items()}
            yield {"step": step, **evaluation, "validation/score": sum(reached.values()) / len(reached)}


def write_run(path, config, results, lines, overrides=(), created="2026-01-31T12:00:00+00:00", **environment):
    folder = RunFolder.create(path)
    folder.write_config(config)
    folder.write_overrides(list(overrides))
    packages = {"torch": "2.13.0", "transformers": "5.20.0"}
    folder.write_environment({"created": created, "mtl_version": "0.1.0", "packages": packages, **environment})
    with MetricsFile(folder.metrics_file) as file:
        for record in lines:
            file.append(record)
    folder.write_results(results)
    return path


def write_job(folder, sharing="hard", weighting="equal", seed=1, num_steps=200, every=2, lr=0.001, name=None, **more):
    """Write one finished run of the sweep."""
    scores = {task: score + 0.02 * (seed - 2) for task, score in SCORES[sharing, weighting].items()}
    typed = [f"sharing={sharing}", f"weighting={weighting}", f"seed={seed}"]
    path = folder / (name or ",".join(typed))
    lines = records(scores, seed, num_steps, every)
    return write_run(path, config(sharing, weighting, seed, lr), results(scores), lines, typed, **more)


def write_sweep(folder, **how):
    """Write twelve finished runs."""
    for sharing, weighting in SCORES:
        for seed in (1, 2, 3):
            write_job(folder, sharing, weighting, seed, **how)
    return folder


def write_unfinished(folder):
    """Write a failed run, one that is running and one whose results are torn."""
    scores = SCORES["hard", "equal"]
    lines = list(records(scores, seed=4))
    error = "step 61: the loss of <b>inference</b> is not finite"
    write_run(folder / "failed", config(seed=4, lr=0.1), results({}, "failed", error=error), lines[:40], ["seed=4"])
    write_run(folder / "running", config(seed=5), Results(), lines[:70], ["seed=5"])
    write_run(folder / "broken", config(seed=6), results(scores), lines, ["seed=6"])
    (folder / "broken" / "results.json").write_text('{"status": "fini')
    return folder
