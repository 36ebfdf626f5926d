"""Under every weighting that is shipped, a run that goes on from a checkpoint equals one that was not stopped."""

from pathlib import Path

import pytest
import torch
import yaml
from gradients.steps import CPU, halves, model_of, step_of

from mtl_cli.build import instantiate
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.training import AdamW
from mtl_cli.training.checkpoint import Checkpoints
from mtl_cli.training.seeding import generator_state, restore_generators
from mtl_cli.types import UserError

CONF = Path(__file__).parents[2] / "conf/weighting"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
NUM_STEPS, STOP = 7, 4
MORE_THAN_INNER_PRODUCTS = ("db_mtl", "excess_mtl", "moco", "modo", "sdmgrad")


class Run:
    """A model in training, dropout on.

    With the settings of the YAML, rows of the word embedding wait to be read; with others they do not.
    """

    def __init__(self, name, **settings):
        self.model = model_of().train()
        self.optimizer = AdamW(lr=1e-3).build(self.model, lazy=not settings)
        assert self.optimizer.is_lazy != bool(settings)
        self.weighting = instantiate({**yaml.safe_load((CONF / f"{name}.yaml").read_text()), **settings})
        self.weighting.start(list(self.model.tasks), seed=3, steps_per_epoch=2)
        self.engine = GradientEngine(self.model, self.weighting, Losses(self.model, "fp32", CPU))

    def step(self, number):
        steps = [step_of(tasks_of_step(self.weighting, number), seed=number)]
        if self.weighting.num_batches > 1:
            steps = [step_of(tasks_of_step(self.weighting, number), seed=10 * number + i) for i in range(3)]
        if self.optimizer.is_lazy:
            self.optimizer.catch_up(self.model.encoder.ids_read(steps))
        self.engine.step([halves(step) if number == 2 else [step] for step in steps])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.after_update()

    def save(self, checkpoints):
        checkpoints.save(
            STOP,
            self.model,
            {
                "optimizer": self.optimizer.state_dict(),
                "weighting": self.weighting.state_dict(),
                "generators": generator_state(),
            },
        )

    def load(self, checkpoints):
        _, folder = checkpoints.latest()
        state = checkpoints.load(folder, self.model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.weighting.load_state_dict(state["weighting"])
        restore_generators(state["generators"])

    def weights(self):
        self.optimizer.catch_up()
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}


def tasks_of_step(weighting, number):
    """Some steps lack a task, the one after the checkpoint among them, where the method allows it."""
    if weighting.needs_tasks != "all" and number in (1, STOP):
        return ("mood", "tags")
    return ("mood", "nli", "tags", "score")


@pytest.mark.parametrize("settings", [{}, {"grouping": "block"}, {"scope": "representation"}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted_to_the_bit(name, settings, tmp_path):
    if name == "gradnorm" and "grouping" in settings:
        settings = {**settings, "scope": "all"}  # its default looks at one block
    whole = Run(name)
    if settings and not all(hasattr(whole.weighting, key) for key in settings):
        pytest.skip("a weighting of losses has no gradients to look at")
    torch.manual_seed(7)
    refusing = ("graddrop", "trimmed_mean", *(MORE_THAN_INNER_PRODUCTS if "scope" in settings else ()))
    if settings and name in refusing:
        ((key, value),) = settings.items()
        with pytest.raises(UserError, match=rf"weighting.{key}: found '{value}', but"):
            Run(name, **settings)
        return
    whole = Run(name, **settings)
    checkpoints = Checkpoints(tmp_path)
    for number in range(NUM_STEPS):
        if number == STOP:
            whole.save(checkpoints)
        whole.step(number)

    torch.manual_seed(99)
    resumed = Run(name, **settings)
    resumed.load(checkpoints)
    for number in range(STOP, NUM_STEPS):
        resumed.step(number)
    ours, theirs = resumed.weights(), whole.weights()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(value.isfinite().all() for value in theirs.values())
    assert torch.equal(resumed.weighting.generator.get_state(), whole.weighting.generator.get_state())


WITH_MEMORY = ["cr_mogm", "db_mtl", "dwa", "excess_mtl", "famo", "gradnorm", "gradvac", "imtl_l", "moco", "modo"]
WITH_MEMORY += ["pcd", "sdmgrad", "uncertainty"]


# SDMGrad's inner iterations find the same weights from anywhere in so small a problem.
@pytest.mark.parametrize("name", sorted({*WITH_MEMORY} - {"sdmgrad"}))
def test_the_steps_really_depend_on_what_is_kept(name, tmp_path):
    """A method whose memory is not restored ends elsewhere: what the other test compares can differ."""
    torch.manual_seed(7)
    whole = Run(name)
    checkpoints = Checkpoints(tmp_path)
    for number in range(NUM_STEPS):
        if number == STOP:
            whole.save(checkpoints)
        whole.step(number)
    resumed = Run(name)
    resumed.load(checkpoints)
    resumed.weighting.memory = {}
    for number in range(STOP, NUM_STEPS):
        resumed.step(number)
    assert any(not torch.equal(resumed.weights()[key], value) for key, value in whole.weights().items())


def test_the_list_of_methods_with_a_memory_is_complete():
    kept = []
    for name in NAMES:
        run = Run(name)
        run.step(0)
        memory = run.weighting.memory
        groups = memory.get("groups", {}).values()
        if any(groups) or set(memory) - {"groups"}:
            kept.append(name)
    assert sorted(WITH_MEMORY) == kept
