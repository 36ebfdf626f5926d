"""The processes of one run, from their first meeting to their end."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from mtl_cli.distributed.launched import Launched, launched
from mtl_cli.distributed.lifeline import Lifeline, PeerFailed
from mtl_cli.distributed.ranks import from_main, gather, is_distributed, is_main, wait_for_all
from mtl_cli.errors import UserError
from mtl_cli.stopping import Interrupted

log = logging.getLogger(__name__)

ALREADY_TOLD = "mtl_told"
"""Attribute of an error: True where another process shows it; False where this one has to, as rank 0 is gone."""

_WAITING = timedelta(minutes=30)
"""How long a rank waits for another: more is an error, such as ranks that do different things."""
_PREPARING = timedelta(hours=24)
"""The same while rank 0 reads and tokenises data for the first time."""
_MARK = ".seen-by-all-processes"
_SEEN_WITHIN_SECONDS = 60.0
"""How long NFS, as it is set up by default, may go on without looking whether a folder has changed."""


@dataclass(frozen=True)
class Processes:
    """Those of a run, as one of them sees them.

    Attributes:
        place: of this one.
        lifeline: to the others; None where there are none.
    """

    place: Launched
    lifeline: Lifeline | None = None

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn an error that followed from another process's end into one that says so."""
        try:
            yield
        except RuntimeError as error:
            found = error if self.lifeline is None else self.lifeline.explain(error)
            raise found from (None if found is error else error)


@contextmanager
def processes_of_run(device: str, on_lost: Callable[[PeerFailed], None] = lambda error: None) -> Iterator[Processes]:
    """Inside, the processes that were started together know one another; with one process nothing happens.

    Args:
        device: the setting trainer.device.
        on_lost: see `Lifeline`.

    Raises:
        PeerFailed: another process has ended before its time.
        UserError: the processes do not fit the machine.
    """
    place = launched()
    if not place.is_one_of_several:
        yield Processes(place)
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    with _stops_by_sigterm() as answer:
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=_WAITING, rank=place.rank, world_size=place.world_size)
        lifeline = answer.lifeline = Lifeline(on_lost)
        try:
            if on_gpu:
                _refuse_to_share_gpus(place)
            else:
                _divide_threads()
            yield Processes(place, lifeline)
            wait_for_all()
        except BaseException as error:
            _say_farewell(lifeline, error)
        lifeline.close()
        dist.destroy_process_group()


def _say_farewell(lifeline: Lifeline, error: BaseException) -> None:
    """Tell the others why this process ends, and raise the error, or that of the peer that it followed from."""
    found = lifeline.explain(error)
    if isinstance(found, PeerFailed):
        lifeline.close()
        setattr(found, ALREADY_TOLD, not lifeline.speaks)
        raise found from (None if found is error else error)
    if isinstance(error, KeyboardInterrupt):
        lifeline.stop()
        raise error
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    told = lifeline.fail(kind + (str(error).strip() if isinstance(error, UserError) else (lines or [""])[0]))
    if told and not is_main():
        if not isinstance(error, UserError):  # a bug of ours: where it happened helps, and rank 0 does not know
            print(f"rank {dist.get_rank()}:\n{''.join(traceback.format_exception(error))}", file=sys.stderr, flush=True)
        setattr(error, ALREADY_TOLD, True)
    raise error


@contextmanager
def prepared_by_main_first() -> Iterator[None]:
    """Let rank 0 do what is inside first, then one process of each other machine, then all others.

    What the first one leaves in a cache is there for those that follow.
    """
    if not is_distributed():
        yield
        return
    place = launched()
    patient = dist.new_group(timeout=_PREPARING, backend="gloo")
    turn = 0 if place.rank == 0 else 1 if place.local_rank == 0 else 2
    for _ in range(turn):
        dist.all_reduce(torch.zeros(1), group=patient)
    yield
    for _ in range(turn, 2):
        dist.all_reduce(torch.zeros(1), group=patient)
    dist.destroy_process_group(patient)


def check_folder_in_common(folder: Path) -> None:
    """Refuse a run folder that some process does not see: rank 0 leaves a mark in it, and all look for that.

    Raises:
        UserError: on all ranks.
    """
    if not is_distributed():
        return
    mark, content = folder / _MARK, from_main(secrets.token_hex(8))
    if is_main():
        mark.write_text(content, encoding="utf-8")
    wait_for_all()
    blind = gather(None if _holds(mark, content) else socket.gethostname())
    if is_main():
        mark.unlink()
    who = [f"rank {number} on {host}" for number, host in enumerate(blind) if host is not None]
    if who:
        shown = ", ".join(who[:5]) + (f" and {len(who) - 5} more" if len(who) > 5 else "")
        raise UserError(
            f"{folder}: {shown} cannot see the run folder of rank 0. All processes of a run need it on a file system "
            "that their machines have in common; name a folder there with hydra.run.dir=..."
        )


def _holds(file: Path, content: str) -> bool:
    """Whether a file has this content, or gets it soon: a network's file system may show new files late."""
    until = time.monotonic() + _SEEN_WITHIN_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="utf-8") == content:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


def _divide_threads() -> None:
    """Share the cores out among the processes that run on the same ones, unless the user has set a number of threads.

    torchrun sets OMP_NUM_THREADS=1 where nobody has; whether somebody has, its own environment tells.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    mine = [socket.gethostname(), cores]
    sharing = gather(mine).count(mine)
    if os.environ.get("OMP_NUM_THREADS", "1") == "1" and not _set_by_user("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, len(cores) // sharing))


def _set_by_user(name: str) -> bool:
    """Whether the process that started this one was given an environment variable."""
    if name not in os.environ:
        return False
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    try:
        variables = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(variable.startswith(name.encode() + b"=") for variable in variables)


def _refuse_to_share_gpus(place: Launched) -> None:
    """Refuse two processes on one GPU, which NCCL cannot serve."""
    mine = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    all_of_them = gather(mine)
    if len(set(all_of_them)) < len(all_of_them):
        raise UserError(
            f"{place.local_world_size} processes were started on a machine where torch sees "
            f"{torch.cuda.device_count()} GPUs, so that two share one: start one a GPU (--nproc-per-node), or set "
            "trainer.device=cpu"
        )


class _Answer:
    """To SIGTERM outside of the loop, which has an answer of its own: an exception, once.

    torchrun sends it to all processes as soon as one has failed: then the exception says which, and a process that is
    about to say so goes on.
    """

    def __init__(self) -> None:
        self.lifeline: Lifeline | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        lost = None if self.lifeline is None else self.lifeline.take()
        if lost is None and self.lifeline is not None and self.lifeline.lost is not None:
            return
        signal.signal(number, signal.SIG_IGN)
        raise lost or Interrupted(number)


@contextmanager
def _stops_by_sigterm() -> Iterator[_Answer]:
    """Inside, answer SIGTERM, unless somebody else has an answer to it."""
    answer = _Answer()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield answer
        return
    signal.signal(signal.SIGTERM, answer)
    try:
        yield answer
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
