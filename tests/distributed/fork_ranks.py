"""Runs of one and of several processes, all of them children of one process that has imported everything once.

usage: fork_ranks.py PLAN.json RESULTS.json

PLAN.json: a list of runs; each has
    ranks: how many processes;
    arguments: of mtl; or checks: the folder for what `rank_checks.py` finds; or fails: for its check of that name; or
        mixtures: the folder for what `random_mixtures.py` finds;
    files: where each rank's standard output and error go, `<files>.<rank>`;
    signal, to, after, file: send this signal to this rank once the file has so many lines (optional).
RESULTS.json: for each run the exit code of each rank, the seconds from the signal to the last one's end, and the CPU's
seconds of all ranks.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import datasets  # noqa: F401 (children inherit what is imported)
import hydra._internal.hydra  # noqa: F401
import random_mixtures
import rank_checks
import scipy.stats  # noqa: F401
import seqeval.metrics  # noqa: F401
import sklearn.metrics  # noqa: F401

import mtl_cli.check_config
import mtl_cli.commands.train  # noqa: F401
from mtl_cli.cli import _main


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(run: dict, rank: int, port: int) -> int:
    """Start one rank; return its process id."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    end_with(parent)
    if run["ranks"] > 1:
        local = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(run["ranks"])}
        os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(run["ranks"]), **local})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    output = os.open(f"{run['files']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        if "checks" in run:
            code = rank_checks.run_all(Path(run["checks"]))
        elif "mixtures" in run:
            code = random_mixtures.run_all(Path(run["mixtures"]))
        elif "fails" in run:
            code = rank_checks.what_goes_wrong_on_one_rank_is_known_to_the_other()
        else:
            code = _main(run["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_with(parent: int) -> None:
    """Have the system end this process with its parent, also where it waits for another rank for ever."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def watch(run: dict, children: list[int]) -> dict:
    codes: dict[int, int] = {}
    cpu = 0.0
    sent = None
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            number, status, usage = os.wait4(child, os.WNOHANG)
            if number:
                codes[child] = os.waitstatus_to_exitcode(status)
                cpu += usage.ru_utime + usage.ru_stime
        if sent is None and "signal" in run:
            file = Path(run["file"])
            if file.exists() and len(file.read_bytes().splitlines()) >= run["after"]:
                os.kill(children[run["to"]], getattr(signal, run["signal"]))
                sent = time.monotonic()
        time.sleep(0.005)
    seconds = time.monotonic() - (sent or time.monotonic())
    return {"codes": [codes[child] for child in children], "seconds": seconds, "cpu_seconds": cpu}


def main() -> None:
    plan, results = json.loads(Path(sys.argv[1]).read_text()), []
    for run in plan:
        port = free_port()
        results.append(watch(run, [start(run, rank, port) for rank in range(run["ranks"])]))
    Path(sys.argv[2]).write_text(json.dumps(results))


main()
