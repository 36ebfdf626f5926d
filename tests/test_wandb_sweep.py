"""scripts/wandb_sweep.yaml, as W&B's own agent makes command lines of it."""

from pathlib import Path

import pytest
import wandb.wandb_agent
import yaml
from compose import composed

from mtl_cli.check_config import check_config

SWEEP = Path(__file__).parents[1] / "scripts" / "wandb_sweep.yaml"
CONFIG = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
LOWEST = {key: {"value": p["values"][0] if "values" in p else p["min"]} for key, p in CONFIG["parameters"].items()}
HIGHEST = {key: {"value": p["values"][-1] if "values" in p else p["max"]} for key, p in CONFIG["parameters"].items()}


def command_of(arguments, monkeypatch):
    """Have the agent start a run with these values; return the words that it would start."""
    started = []

    class Process:
        last_sigterm_time = None

        def __init__(self, command, **_):
            started.append(command)

    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Process)
    agent = object.__new__(wandb.wandb_agent.Agent)
    agent._sweep_command = list(CONFIG["command"])
    agent._function, agent._in_jupyter, agent._forward_signals = None, False, False
    agent._run_processes = {}
    agent._command_run({"run_id": "abc", "program": CONFIG["program"], "args": arguments})
    return started[0]


@pytest.mark.parametrize("values", [LOWEST, HIGHEST], ids=["lowest", "highest"])
def test_the_agents_command_line_is_a_sound_run_of_mtl_train(values, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the agent writes the values below ./wandb
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(name, "x")  # the agent sets them: put back afterwards
    env, mtl, command, *overrides = command_of(values, monkeypatch)
    assert (env, mtl, command) == ("/usr/bin/env", "mtl", "train")
    config = composed(*overrides)
    check_config(config)
    assert config["optimizer"]["lr"] == values["optimizer.lr"]["value"]
    assert config["encoder"]["dropout"] == values["encoder.dropout"]["value"]
    assert list(config["loggers"]) == ["wandb"]


def test_every_choice_of_a_parameter_is_sound():
    for key, parameter in CONFIG["parameters"].items():
        for value in parameter.get("values", []):
            check_config(composed(f"{key}={value}"))


def test_every_parameter_is_a_setting_that_the_configuration_has_or_a_group():
    config = composed()
    for key in CONFIG["parameters"]:
        node = config
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_the_sweep_has_the_keys_that_wandb_asks_for():
    assert CONFIG["method"] in ("grid", "random", "bayes")
    assert CONFIG["metric"] == {"name": "validation/score", "goal": "maximize"}
    assert {"program", "parameters", "command", "early_terminate"} <= set(CONFIG)
    assert CONFIG["early_terminate"]["type"] == "hyperband"
