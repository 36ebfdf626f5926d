"""Every shipped weighting with every shipped strategy: what makes sense trains, the rest is refused with the reason."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from compose import composed
from encoders import tiny_encoders
from gradients.steps import CPU, LABELS, batch, tasks

from mtl_cli.build import instantiate
from mtl_cli.check_config import ConfigError, check_config
from mtl_cli.encoders import TransformerEncoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import TrainingMoment
from mtl_cli.training import AdamW
from mtl_cli.weighting import GradientWeighting

CONF = Path(__file__).parents[2] / "conf"
# With two tasks Krum and the trimmed mean are refused, whatever is shared.
TASKS = {"krum": ("mood", "tags", "nli"), "trimmed_mean": ("mood", "tags", "nli")}
# Narrow modules, and what a strategy must be told about the tasks.
SETTINGS = {
    "adapters": {"bottleneck": 4},
    "adashare": {"warmup_epochs": 0.0},
    "grouped": {"groups": [["mood"], ["tags"]], "num_shared_layers": 1},
    "hierarchical": {"order": ["tags", "mood"]},
    "hyperadapter": {"bottleneck": 4, "task_embedding_size": 4, "projector_size": 4},
    "mmoe": {"expert_width": 4, "blocks": [-1]},
    "moe": {"expert_width": 4, "num_experts": 4},
    "mtrl": {"bottleneck": 4, "update_every_steps": 1},
    "ple": {"expert_width": 4},
}

# What may have a gradient of zero in a step, by a part of its name.
MAY_BE_ZERO = {
    "layer_mix": ".logits",  # dropout may leave one state of two, whose share is 1 whatever the logits
    "moe": ".experts.",  # no token may have chosen an expert
}


WHOLE = ((4, 6),)  # tokens of each task's rows, of each micro-batch


def yaml_of(group, name):
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))


def names_of(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def of_gradients(name):
    return isinstance(instantiate(yaml_of("weighting", name)), GradientWeighting)


STRATEGIES, WEIGHTINGS = names_of("sharing"), names_of("weighting")
# As shipped these leave nothing that several tasks train: there are no gradients to balance.
SHARES_NOTHING = ("lora", "soft_l2", "soft_trace_norm")
REFUSED = [(strategy, weighting) for strategy in SHARES_NOTHING for weighting in WEIGHTINGS if of_gradients(weighting)]
PAIRS = [(strategy, weighting) for strategy in STRATEGIES for weighting in WEIGHTINGS]
TRAINED = [pair for pair in PAIRS if pair not in REFUSED]


def new_model(strategy, task_names, settings):
    """A model of two blocks away from its neutral start, in training."""
    torch.manual_seed(0)
    spec = TransformerEncoder(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2, max_length=32)
    encoder = spec.build(tokenizer=tiny_encoders.tokenizer())
    encoder.model.resize_token_embeddings(tiny_encoders.VOCABULARY, mean_resizing=False)
    sharing = instantiate(yaml_of("sharing", strategy) | settings)
    of_tasks = {task: tasks()[task] for task in task_names}
    model = MultiTaskModel(encoder, sharing, of_tasks, {task: LABELS[task] for task in task_names})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.train()


@cache
def model_of(strategy, task_names):
    """A new model and its tensors; steps leave the start to be put back."""
    model = new_model(strategy, task_names, SETTINGS.get(strategy, {}))
    tensors = [*model.parameters(), *model.buffers()]
    return model, tensors, [tensor.detach().clone() for tensor in tensors]


@cache
def steps_of(task_names, num_batches, lengths=WHOLE):
    """Two steps, each of so many batches, cut into a micro-batch for each list of lengths."""

    def rows(of_piece, seed):
        return {task: batch(task, of_piece, seed=seed) for task in task_names}

    return [
        [[rows(of_piece, 10 * number + part) for of_piece in lengths] for part in range(num_batches)]
        for number in range(2)
    ]


@pytest.mark.parametrize(
    ("precision", "lengths"), [("fp32", WHOLE), ("bf16", ((4,), (6,)))], ids=["fp32", "bf16-micro_batches"]
)
@pytest.mark.parametrize(("strategy", "weighting"), TRAINED)
def test_a_pair_that_makes_sense_trains_every_parameter(strategy, weighting, precision, lengths):
    task_names = TASKS.get(weighting, ("mood", "tags"))
    model, tensors, start = model_of(strategy, task_names)
    with torch.no_grad():
        torch._foreach_copy_(tensors, start)
    torch.manual_seed(1)
    method = instantiate(yaml_of("weighting", weighting))
    method.start(list(task_names), seed=1)
    engine = GradientEngine(model, method, Losses(model, precision, CPU))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = AdamW(lr=1e-3).build(model)
    model.sharing.forget_usage(model)
    for number, parts in enumerate(steps_of(task_names, method.num_batches, lengths)):
        model.sharing.start_step(model, TrainingMoment(number, 2, 1))
        result = engine.step(parts)
        assert all(value.isfinite() for value in [*result.losses.values(), *result.penalties.values()])
        assert [name for name, parameter in trained.items() if parameter.grad is None] == []
        norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in trained.values()]))
        assert norms.isfinite().all()
        zero = [name for name, norm in zip(trained, norms, strict=True) if norm == 0]
        if weighting == "pbi":  # leaves out a task of two whose weight it lowers to 0
            assert len(zero) <= 0.6 * len(norms)
        else:
            assert [name for name in zero if MAY_BE_ZERO.get(strategy, "none") not in name] == []
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        engine.after_update()
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.fixture(scope="module")
def config():
    return composed("encoder=minilm")


@pytest.mark.parametrize(("strategy", "weighting"), REFUSED)
def test_a_pair_that_makes_no_sense_is_refused_before_anything_is_loaded(strategy, weighting, config):
    nodes = {"sharing": yaml_of("sharing", strategy), "weighting": yaml_of("weighting", weighting)}
    with pytest.raises(ConfigError, match=r"shared parameters, but with these settings .* shares none") as caught:
        check_config(deepcopy(config) | nodes)
    assert len(caught.value.problems) <= 2  # a weighting may also want blocks that tasks share
