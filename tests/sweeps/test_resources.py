"""Each of several runs gets its share of the machine."""

import subprocess
import sys

import pytest

from mtl_cli.sweeps import environment_of_slot
from mtl_cli.sweeps.resources import free_slot, usable_cores, visible_gpus

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.mark.parametrize(("cores", "slots", "threads"), [(16, 4, "4"), (2, 2, "1"), (2, 8, "1"), (7, 2, "3")])
def test_threads_are_divided_and_at_least_one(cores, slots, threads):
    share = environment_of_slot(0, slots, cores=cores, gpus=[], environment={})
    assert share == dict.fromkeys(THREADS, threads)


def test_one_run_at_a_time_keeps_the_whole_machine():
    assert environment_of_slot(0, 1, cores=8, gpus=[], environment={}) == {}


def test_a_number_of_threads_that_the_user_set_stays():
    assert environment_of_slot(0, 2, cores=8, gpus=[], environment={"OMP_NUM_THREADS": "3"}) == {}


def test_gpus_go_round_robin():
    given = [environment_of_slot(i, 5, cores=8, gpus=["0", "3"], environment={}) for i in range(5)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in given] == ["0", "3", "0", "3", "0"]


def test_only_gpus_that_this_process_may_see_are_given_away():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 5"}) == ["2", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_cores_are_those_of_this_process():
    assert usable_cores() >= 1


def test_slots_are_taken_in_turn_and_given_back(tmp_path):
    with free_slot(tmp_path, 3) as first, free_slot(tmp_path, 3) as second:
        assert (first, second) == (0, 1)
    with free_slot(tmp_path, 3) as again:
        assert again == 0


def test_a_slot_of_a_process_that_was_killed_is_free_again(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom mtl_cli.sweeps.resources import free_slot\n"
        "with free_slot(pathlib.Path(sys.argv[1]), 2) as slot:\n    print(slot, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        with free_slot(tmp_path, 2) as beside:
            assert beside == 1
        process.kill()
        process.wait()
    with free_slot(tmp_path, 2) as slot:
        assert slot == 0
