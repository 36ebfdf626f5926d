"""What the environment says of several processes, and what is refused before any of them meet."""

import pytest
import tiny_project

from mtl_cli.cli import _main
from mtl_cli.distributed import Launched, launched
from mtl_cli.launching.train_job import environment_of_task
from mtl_cli.precision import choose_device
from mtl_cli.sharing import HardSharing, MMoE
from mtl_cli.training import Trainer
from mtl_cli.types import UserError
from mtl_cli.weighting import FAMO, Equal, PCGrad

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}


def test_torchruns_variables_say_which_process_this_is():
    assert launched({}) == Launched()
    assert launched({"WORLD_SIZE": "1", "RANK": "0"}) == Launched()
    assert launched(TORCHRUN) == Launched(rank=5, world_size=8, local_rank=1, local_world_size=4)
    bare = {key: value for key, value in TORCHRUN.items() if not key.startswith("LOCAL")}
    assert launched(bare) == Launched(rank=5, world_size=8, local_rank=5, local_world_size=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set: start several processes by torchrun"),
        ({"RANK": "8"}, "RANK: found 8, allowed: 0 to 7"),
        ({"LOCAL_RANK": "first"}, "LOCAL_RANK: found 'first'"),
    ],
)
def test_variables_that_do_not_fit_together_are_refused(changes, message):
    environment = {key: value for key, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        launched(environment)


@pytest.fixture
def first_of_two(monkeypatch):
    for name, value in {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_a_sweep_and_other_commands_are_one_process(first_of_two, capsys):
    assert _main(["train", "-m", "seed=1,2"]) == 2
    assert "-m: a sweep is one process" in capsys.readouterr().err
    assert _main(["evaluate", "run=outputs"]) == 2
    assert "mtl evaluate is one process; leave out torchrun" in capsys.readouterr().err


def test_the_tasks_of_a_clusters_job_train_one_run(monkeypatch):
    assert environment_of_task() == {}
    variables = {
        "EXECUTOR": "local",
        "LOCAL_NTASKS": "2",
        "LOCAL_GLOBALID": "1",
        "LOCAL_LOCALID": "1",
        "LOCAL_JOB_ID": "7",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    first = environment_of_task()
    assert launched(first) == Launched(rank=1, world_size=2, local_rank=1, local_world_size=2)
    assert first == environment_of_task()  # all tasks agree on a port
    monkeypatch.setenv("SUBMITIT_LOCAL_NTASKS", "1")
    assert environment_of_task() == {}


def test_one_gpu_for_all_processes_is_refused(first_of_two, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert str(choose_device("auto")) == "cuda:0"
    with pytest.raises(UserError, match=r"trainer.device: found 'cuda:1', but each of several processes takes a GPU"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("weighs", "strategy", "message"),
    [
        (PCGrad(), HardSharing(), "PCGrad looks at each task's whole gradient; use a weighting of losses"),
        (Equal(track_conflict_every=5), HardSharing(), "weighting.track_conflict_every=5 looks at"),
        (Equal(), MMoE(), "use sharing=hard with all layers shared"),
        (Equal(), HardSharing(num_shared_layers=1), "use sharing=hard with all layers shared"),
    ],
)
def test_what_needs_whole_parameters_does_not_go_with_fsdp(weighs, strategy, message):
    Trainer().check_parallelism(weighs, strategy)
    Trainer(parallelism="fsdp").check_parallelism(FAMO(), HardSharing())
    with pytest.raises(UserError, match=r"^trainer.parallelism: found 'fsdp', .*" + message):
        Trainer(parallelism="fsdp").check_parallelism(weighs, strategy)


def test_fsdp_is_checked_before_a_run(project, tmp_path, capsys):
    arguments = [*tiny_project.TINY, "task=[reviews,names]", "trainer=fsdp", "weighting=pcgrad"]
    assert _main(["train", "--config-dir", str(project), *arguments, f"hydra.run.dir={tmp_path}/run"]) == 2
    assert "trainer.parallelism: found 'fsdp'" in capsys.readouterr().err
