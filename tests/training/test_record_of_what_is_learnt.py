"""What a sharing strategy has learnt, from a run's evaluations to its metrics, its logger, its results and its page."""

import json
from pathlib import Path

import pytest
import tiny_project
import yaml
from report.made_up_run import Page

from mtl_cli.build import instantiate
from mtl_cli.cli import _main
from mtl_cli.report import inspect_page
from mtl_cli.sharing import SharingStrategy
from mtl_cli.tracking import NoLogger, RunFolder, read_metrics

CONF = Path(__file__).parents[2] / "conf/sharing"
STEPS = {"trainer.max_steps": 3, "trainer.evaluate_every": 2}  # evaluations after steps 2 and 3
# Narrow modules, what a strategy must be told about the tasks, and no frozen encoder, as this one begins at random.
SETTINGS = {
    "adapters": {"bottleneck": 4},
    "adashare": {"warmup_epochs": 0.0},
    "hierarchical": {"order": "[names,reviews]", "label_embeddings": "true", "label_embedding_size": 4},
    "hyperadapter": {"bottleneck": 4, "task_embedding_size": 4, "projector_size": 4},
    "lora": {"train_encoder": "true"},
    "mmoe": {"expert_width": 4, "blocks": "[-1]"},
    "moe": {"expert_width": 4, "num_experts": 4},
    "mtl_lora": {"train_encoder": "true"},
    "mtrl": {"bottleneck": 4, "update_every_steps": 1},
    "ple": {"expert_width": 4},
}
# The matrices that each strategy shows of two tasks and an encoder of two blocks.
MATRICES = {
    "adapters": {"adapter_norms"},
    "adashare": {"block_selection"},
    "cross_stitch": {"stitch_0", "stitch_1"},
    "hierarchical": {"levels", "label_embeddings"},
    "hyperadapter": {"task_cosines", "adapter_norms"},
    "layer_mix": {"layer_mix", "layer_mix_scale"},
    "lora": {"update_norms"},
    "mmoe": {"gates_block_1", "gate_entropy"},
    "moe": {"gates_block_0", "gates_block_1", "gate_entropy"},
    "mtl_lora": {"mixing_block_0", "mixing_block_1"},
    "mtrl": {"task_correlations", "task_covariance", "adapter_norms"},
    "pal": {"pal_norms"},
    "ple": {"gates_level_1", "gates_level_1_shared", "gates_level_2", "gate_entropy"},
    "sluice": {"stitch_0", "stitch_1", "depths"},
    "soft_l2": {"column_distance", "column_distance_by_block"},
    "soft_trace_norm": {"singular_values", "effective_rank"},
    "task_conditioning": {"task_embedding_norms", "task_embedding_cosines", "conditional_norms"},
}


def strategies_that_learn():
    found = {path.stem: instantiate(yaml.safe_load(path.read_text("utf-8"))) for path in sorted(CONF.glob("*.yaml"))}
    return [name for name, strategy in found.items() if type(strategy).learnt is not SharingStrategy.learnt]


def sharing_of(record):
    return {key: value for key, value in record.items() if key.startswith("sharing/")}


@pytest.mark.parametrize("strategy", strategies_that_learn())
def test_what_a_strategy_has_learnt_is_logged_kept_and_drawn(project, tmp_path, monkeypatch, strategy):
    logged = []
    monkeypatch.setattr(NoLogger, "log", lambda self, metrics, step: logged.append({"step": step, **metrics}))
    run = tmp_path / "run"
    given = STEPS | {f"sharing.{key}": value for key, value in SETTINGS.get(strategy, {}).items()}
    arguments = [*tiny_project.TINY, "task=[reviews,names]", f"sharing={strategy}", f"hydra.run.dir={run}"]
    arguments += [f"{key}={value}" for key, value in given.items()]
    assert _main(["train", "--config-dir", str(project), *arguments]) == 0
    learnt = json.loads((run / "results.json").read_text())["sharing"]
    assert set(learnt) == MATRICES[strategy]

    # results.json has the numbers that were measured with the weights that were kept.
    numbers = {
        f"sharing/{name}/{row}/{column}": value
        for name, found in learnt.items()
        for row, values in zip(found["rows"], found["values"], strict=True)
        for column, value in zip(found["columns"], values, strict=True)
        if value is not None
    }
    evaluations = {r["step"]: r for r in read_metrics(run / "metrics.jsonl") if "validation/score" in r}
    assert list(evaluations) == [2, 3]
    (best,) = (run / "checkpoints").glob("best-*")
    assert sharing_of(evaluations[int(best.name.removeprefix("best-"))]) == pytest.approx(numbers, rel=1e-5, abs=1e-7)
    for step, evaluation in evaluations.items():
        (told,) = (record for record in logged if record["step"] == step and "validation/score" in record)
        assert sharing_of(told) == sharing_of(evaluation)
        assert sharing_of(evaluation).keys() == numbers.keys()

    page = Page(inspect_page(RunFolder(run)))  # what `mtl inspect` writes
    assert {found["title"] for found in learnt.values()} <= set(page.headings)
    assert "learns nothing about the tasks" not in page.text
