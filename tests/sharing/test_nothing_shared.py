"""Strategies by whose settings no parameter serves two tasks: as many single-task runs, through the training loop."""

from copy import deepcopy

import pytest
from distributed.rank_checks import prepared

from mtl_cli.model import MultiTaskModel
from mtl_cli.sampling import AllTasks
from mtl_cli.sharing import Grouped, HardSharing, LoRA, SoftL2, SoftTraceNorm
from mtl_cli.tracking import Loggers, MetricsFile, Progress, RunFolder, RunInfo, read_metrics
from mtl_cli.training import AdamW, Linear, Trainer, TrainingRun, seed_everything
from mtl_cli.weighting import Equal

NUM_STEPS = 8
# Name -> settings with which nothing is shared, and the strategy of the single-task runs.
STRATEGIES = {
    "soft_l2": (SoftL2(strength=0.0), HardSharing()),
    "soft_trace_norm": (SoftTraceNorm(strength=0.0), HardSharing()),
    "grouped": (Grouped(groups=[["reviews"], ["pairs"], ["scores"], ["names"]]), HardSharing()),
    "lora": (LoRA(dropout=0.0), LoRA(dropout=0.0)),
}


@pytest.fixture(scope="module")
def parts(project):
    return prepared(project.parent / "ranks")


def model_of(parts, strategy, names):
    encoder, tasks, data = parts
    seed_everything(1)
    of_tasks = {name: tasks[name] for name in names}
    return MultiTaskModel(deepcopy(encoder), deepcopy(strategy), of_tasks, {n: data[n].labels for n in names})


def losses(model, data, folder, max_grad_norm):
    """What metrics.jsonl says of each task's loss, step by step."""
    run_folder = RunFolder(folder)
    with MetricsFile(run_folder.metrics_file) as file:
        run = TrainingRun(
            model=model, data={name: data[name] for name in model.tasks}, sampler=AllTasks(batch_size=4),
            weighting=Equal(), schedule=Linear(warmup_fraction=0.2), folder=run_folder, metrics_file=file,
            # Gradients of which nothing but rounding is left (attention's key biases) would grow to whole updates.
            optimizer=AdamW(lr=2e-3, eps=1e-6), loggers=Loggers(), progress=Progress(enabled=False), seed=1,
            info=RunInfo(folder=run_folder.path, name=folder.name, tasks=tuple(model.tasks)),
        )  # fmt: skip
        settings = {"max_steps": NUM_STEPS, "steps_per_epoch": NUM_STEPS, "log_every_steps": 1}
        Trainer(device="cpu", precision="fp32", max_grad_norm=max_grad_norm, **settings).fit(run, resume=False)
    records = read_metrics(run_folder.metrics_file)
    return {task: [r[key] for r in records if (key := f"train/loss/{task}") in r] for task in model.tasks}


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_losses_are_those_of_single_task_runs_unless_gradients_are_clipped_together(parts, name, tmp_path):
    strategy, alone = STRATEGIES[name]
    tasks, data = list(parts[1]), parts[2]
    model = model_of(parts, strategy, tasks)
    assert not strategy.shares_parameters()
    assert set(model.parameter_partition().values()) == set(tasks)
    start = deepcopy(model.state_dict())
    clipped_model = deepcopy(model)
    together = losses(model, data, tmp_path / "together", max_grad_norm=None)
    clipped = losses(clipped_model, data, tmp_path / "clipped", max_grad_norm=0.1)
    for task in tasks:
        single = model_of(parts, alone, [task])
        # The encoder's weights are the same already; heads and small modules were drawn in another order.
        single.load_state_dict({key: start[key] for key in single.state_dict() if key in start}, strict=False)
        single_clipped = deepcopy(single)
        wanted = losses(single, data, tmp_path / task, max_grad_norm=None)[task]
        assert len(wanted) == NUM_STEPS
        assert together[task] == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        # One factor for all: the norm of all tasks' gradients is above that of one's.
        wanted = losses(single_clipped, data, tmp_path / f"{task}-clipped", max_grad_norm=0.1)[task]
        assert clipped[task][0] == pytest.approx(wanted[0], rel=1e-5)
        assert clipped[task] != pytest.approx(wanted, rel=1e-5, abs=1e-5)
