"""Weightings of gradients that look at blocks apart, with strategies whose blocks do not all serve all tasks."""

import pytest
import torch
from gradients.steps import CPU, gradients_of
from sharing.test_every_weighting import new_model, steps_of, yaml_of
from sharing.test_matrix import draws_without_noise, gradients_of_tasks, reached_by, without_dropout

from mtl_cli.build import instantiate
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.sharing import TrainingMoment

TASKS = ("mood", "nli", "tags")
# Of two blocks `tags` does not reach the upper one, which the others share.
SETTINGS = {
    "adashare": {"warmup_epochs": 0.0},
    "grouped": {"groups": [["mood", "nli"], ["tags"]], "num_shared_layers": 1},
    "hierarchical": {"order": ["tags", ["mood", "nli"]]},
}


@pytest.mark.parametrize("weighting", ["pcgrad", "mgda"])
@pytest.mark.parametrize("setting", [{"grouping": "block"}, {"scope": 1}, {"grouping": "block", "engine": "per_task"}])
@pytest.mark.parametrize("strategy", SETTINGS)
def test_what_a_task_reaches_is_trained_where_others_do_not_reach_it(strategy, setting, weighting):
    model = without_dropout(new_model(strategy, TASKS, SETTINGS[strategy]))
    if strategy == "adashare":
        with torch.no_grad():
            model.encoder.blocks[1].of_task["tags"].logit.fill_(-2.0)
    model.sharing.start_step(model, TrainingMoment(0, 2, 1))
    step = steps_of(TASKS, 1)[0][0][0]
    with draws_without_noise():
        reached = reached_by(model, gradients_of_tasks(model, step))
        model.zero_grad(set_to_none=True)
        method = instantiate(yaml_of("weighting", weighting) | setting)
        method.start(list(TASKS), seed=1)
        engine = GradientEngine(model, method, Losses(model, "fp32", CPU))
        assert {"mood", "nli"} in [reached[name] for name in engine.shared]
        engine.step([[step]])
    found = gradients_of(model)
    assert [name for name, tasks in reached.items() if tasks and (name not in found or not found[name].any())] == []
    assert all(gradient.isfinite().all() for gradient in found.values())
