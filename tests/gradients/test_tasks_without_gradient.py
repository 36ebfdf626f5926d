"""Tasks whose rows do not go through some shared parameters: what balances the others there leaves them out."""

import pytest
import torch
from gradients.steps import Probe, gramian_weights, halves, model_of, reference, relative_error, run, step_of

from mtl_cli.sharing import Grouped, Hierarchical
from mtl_cli.weighting import CRMOGM, MGDA, CAGrad, ExcessMTL, Krum, MoCo, MoDo, NashMTL

TASKS = ("mood", "nli", "tags", "score")
ENGINES = ("segmented", "per_task")


def with_others(weights, there):
    """The weights of the tasks that are there, and their mean for the others."""
    found = weights.mean().repeat(len(there)).double()
    found[torch.tensor(there)] = weights
    return found


def block_of(name):
    return f"block_{name.split('.layer.')[1][0]}" if ".layer." in name else "embeddings"


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_group_of_one_task_does_not_weigh_where_other_groups_share(engine, cut):
    model, step = model_of(sharing=Grouped(groups=[["mood", "nli"]])), step_of()
    expected = reference(model, step)
    gramian = expected.gramian()
    assert (gramian.diagonal() != 0).tolist() == [True, True, False, False]
    weighting = Probe(engine=engine)
    _, result, found = run(model, weighting, [halves(step) if cut else [step]])
    assert weighting.seen == pytest.approx(gramian[:2, :2], rel=1e-4, abs=1e-6 * float(gramian.max()))
    weights = with_others(gramian_weights(gramian[:2, :2]), [True, True, False, False])
    assert torch.stack(list(result.weights.values())) == pytest.approx(weights, rel=1e-3)
    assert relative_error(found, {**expected.combined(weights), **expected.own}) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_above_a_head_are_balanced_without_its_task(engine):
    model, step = model_of(sharing=Hierarchical(levels={"tags": 1, "score": 2})), step_of()
    expected = reference(model, step)
    _, result, found = run(model, Probe(engine=engine, grouping="block"), [[step]])
    through = {"embeddings": TASKS, "block_0": TASKS, "block_1": ("mood", "nli", "score"), "block_2": ("mood", "nli")}
    wanted = {}
    for group, tasks in through.items():
        names = {name for name in expected.shared if block_of(name) == group}
        there = [task in tasks for task in TASKS]
        places = torch.tensor(there).nonzero()[:, 0]
        weights = with_others(gramian_weights(expected.gramian(names)[places][:, places]), there)
        wanted |= {name: value for name, value in expected.combined(weights).items() if name in names}
        of_group = torch.stack([result.group_weights[task][group] for task in TASKS])
        assert of_group == pytest.approx(weights, rel=1e-3)
    assert relative_error(found, {**wanted, **expected.own}) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_below_the_scope_has_the_mean_weight_of_the_others(engine):
    model, step = model_of(sharing=Hierarchical(levels={"tags": 1})), step_of()
    expected = reference(model, step)
    _, result, found = run(model, Probe(engine=engine, scope=1), [[step]])
    there = [task != "tags" for task in TASKS]
    places = torch.tensor(there).nonzero()[:, 0]
    names = {name for name in expected.shared if block_of(name) == "block_2"}
    weights = with_others(gramian_weights(expected.gramian(names)[places][:, places]), there)
    assert torch.stack(list(result.weights.values())) == pytest.approx(weights, rel=1e-3)
    assert relative_error(found, {**expected.combined(weights), **expected.own}) < 1e-5


METHODS = {
    "mgda": lambda: MGDA(),
    "mgda_loss": lambda: MGDA(normalization="loss+"),
    "cagrad": lambda: CAGrad(),
    "nash_mtl": lambda: NashMTL(weigh_heads=True),
    "cr_mogm": lambda: CRMOGM(weighting=MGDA()),
    "moco": lambda: MoCo(),
    "modo": lambda: MoDo(),
    "excess_mtl": lambda: ExcessMTL(),
    "krum": lambda: Krum(num_selected=4),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_trains_beside_a_group_of_one_task(method):
    model = model_of(sharing=Grouped(groups=[["mood", "nli", "score"]]))
    weighting = METHODS[method]()
    steps = [[step_of(seed=10 * part)] for part in range(weighting.num_batches)]
    _, result, found = run(model, weighting, steps)
    assert all(weight.isfinite() for weight in result.weights.values())
    dead = {name for name, gradient in found.items() if not float(gradient.norm()) > 0 and "key.bias" not in name}
    assert dead == set()
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_shortest_vector_is_that_of_the_tasks_that_share():
    model, step = model_of(sharing=Grouped(groups=[["mood", "nli"]])), step_of()
    expected = reference(model, step)
    first, second = (torch.cat([g[k].flatten() for g in expected.shared.values()]) for k in (0, 1))
    # The minimum over w of |w a + (1 - w) b|² (Sener and Koltun 2018, equation 4).
    share = float(((second - first) @ second / (first - second).square().sum()).clamp(0, 1))
    _, result, _ = run(model, MGDA(), [[step]])
    assert float(result.weights["mood"]) == pytest.approx(share, rel=1e-3, abs=1e-4)
    assert float(result.weights["nli"]) == pytest.approx(1 - share, rel=1e-3, abs=1e-4)
