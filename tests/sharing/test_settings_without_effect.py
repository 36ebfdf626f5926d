"""Settings that change nothing beside the others are told of, and those that do are not."""

from pathlib import Path

import pytest
import yaml
from gradients.steps import LABELS, model_of, tasks

from mtl_cli.build import instantiate
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import (
    MTRL,
    PAL,
    PLE,
    Adapters,
    AdaShare,
    Grouped,
    Hierarchical,
    MMoE,
    MoE,
    MTLLoRA,
    Sluice,
    SoftL2,
    SoftTraceNorm,
)

CONF = Path(__file__).parents[2] / "conf/sharing"


@pytest.mark.parametrize(
    ("strategy", "idle"),
    [
        (MMoE(experts="block", expert_width=64), ["expert_width"]),
        (MMoE(expert_noise=0.1, num_selected=3, gamma=2.0), ["expert_noise", "num_selected", "gamma"]),
        (MMoE(experts="block", expert_noise=0.1, gate="dselect_k", num_experts=3, surplus_penalty=0.1), []),
        (MMoE(gate="dselect_k", num_experts=8, surplus_penalty=0.1), ["surplus_penalty"]),
        (MMoE(num_experts=1, gate_level="row", gate_lr_factor=2.0), ["gate_level", "gate_lr_factor"]),
        (PLE(experts="block", num_levels=3, shared_gate="own"), ["num_levels", "shared_gate"]),
        (PLE(blocks=[3], expert_noise=0.0), ["expert_noise", "blocks"]),
        (PLE(num_levels=1, shared_gate="own"), ["shared_gate"]),
        (PLE(num_levels=3, shared_gate="own"), []),
        (MoE(num_experts=2, load_balance=0.1), ["load_balance"]),
        (MoE(num_experts=3, load_balance=0.1), []),
        (Adapters(train_norms=False), ["train_norms"]),
        (Adapters(train_norms=False, train_encoder=False), []),
        (PAL(train_norms=False), ["train_norms"]),
        (MTRL(prior_on="heads", bottleneck=8, blocks=[1]), ["blocks", "bottleneck"]),
        (MTRL(bottleneck=8, blocks=[1]), []),
        (MTLLoRA(num_up_projections=1, temperature=1.0), ["temperature"]),
        (MTLLoRA(temperature=1.0), []),
        (SoftL2(strength=0.0, form="pairwise"), ["form"]),
        (SoftTraceNorm(strength=0.0, form="tucker"), ["form"]),
        (SoftTraceNorm(form="tucker"), []),
        (Sluice(num_subspaces=1, orthogonality=1.0), ["orthogonality"]),
        (Sluice(num_subspaces=1, orthogonality=0.0), []),
        (Sluice(num_shared_layers=2, last_block_weight=0.5), ["last_block_weight"]),
        (Hierarchical(order=["a", "b"], label_embedding_size=5), ["label_embedding_size"]),
        (AdaShare(sparsity=0.0, sparsity_form="code"), ["sparsity_form"]),
        (AdaShare(blocks=[-1], sharing=0.5), ["sharing"]),
        (AdaShare(temperature_decay=1.0, min_temperature=1.0), ["min_temperature"]),
        (Grouped(), ["groups"]),
        (Grouped(groups=[["a"], ["b"]]), []),
        (Grouped(groups=[["a", "b"]], num_shared_layers=1), ["num_shared_layers"]),
    ],
    ids=repr,
)
def test_settings_without_effect_are_named(strategy, idle):
    found = strategy.warnings(["a", "b"], 3)
    assert [text.removeprefix("sharing.").partition(":")[0] for text in found] == idle
    assert all("found" in text and ("no effect" in text or "groups" in text) for text in found)


@pytest.mark.parametrize(
    ("settings", "tasks_of_run", "found", "example"),
    [
        ({"order": ["b"]}, "abc", "order: found ['b']", "[b,[a,c]]"),
        ({"order": ["b"]}, "ab", "order: found ['b']", "[b,a]"),
        ({"order": [["a", "b", "c"]]}, "abc", "order: found [['a', 'b', 'c']]", "[a,[b,c]]"),
        ({"levels": {"c": 6}}, "abc", "levels: found {'c': 6}", "[c,[a,b]]"),
        ({"levels": {"b": 6, "a": 6}}, "ab", "levels: found {'b': 6, 'a': 6}", "[b,a]"),
    ],
)
def test_heads_that_are_all_at_the_top_are_told_of_with_the_order_that_places_one_lower(
    settings, tasks_of_run, found, example
):
    (text,) = Hierarchical(**settings).warnings(list(tasks_of_run), 6)
    assert text.startswith(f"sharing.{found}, with which")
    assert "this is hard sharing" in text
    assert f"'sharing.order={example}'" in text
    working = Hierarchical(order=yaml.safe_load(example))
    working.check_tasks(list(tasks_of_run))
    assert working.warnings(list(tasks_of_run), 6) == []


@pytest.mark.parametrize(
    ("settings", "num_blocks"),
    [({"order": ["a", "b"]}, 2), ({"levels": {"a": 5}}, 6), ({"levels": {"a": 3, "b": 3}}, 6)],
)
def test_heads_of_different_heights_or_below_the_top_are_not_told_of(settings, num_blocks):
    assert Hierarchical(**settings).warnings(["a", "b"], num_blocks) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "grouped"))
def test_no_yaml_as_shipped_warns(name):
    strategy = instantiate(yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")))
    assert strategy.warnings(["a", "b"], 6) == []


def test_a_model_warns_when_it_is_put_together():
    encoder, of_tasks = model_of().encoder, {name: tasks()[name] for name in ("mood", "nli")}
    with pytest.warns(UserWarning, match=r"sharing\.groups: found none, so that each of the 2 tasks is a group"):
        MultiTaskModel(encoder, Grouped(), of_tasks, LABELS)
