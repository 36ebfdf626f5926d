"""A connection between rank 0 and each other rank, by which all learn at once that one of them has ended, and why.

A process that waits for another in a collective operation waits for ever, or fails with a message about sockets, once
the other is gone. The system closes a process's connections however it ends; whoever fails says why before.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mtl_cli.distributed.ranks import from_main, gather, num_ranks, rank
from mtl_cli.errors import UserError

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 60.0
_EXPLAIN_SECONDS = 3.0
_GRACE_SECONDS = 10.0
"""For the main thread to notice by itself that a peer is gone, before the process ends."""
_CLOSING_SECONDS = 30.0
"""For the main thread to close files and dashboards, once it has noticed."""
_ANSWER_SECONDS = 1.0
"""For a machine to answer, once rank 0 is gone."""


class PeerFailed(UserError):  # noqa: N818 (it names what happened)
    """Another process of the run has ended before its time.

    Attributes:
        rank: which.
    """

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(f"rank {rank} of {num_ranks()}: {reason}")
        self.rank = rank
        self.reason = reason


class Lifeline:
    """Opened by all ranks at once, after the process group.

    Args:
        on_lost: called in a thread of its own, shortly before this process ends, where the main thread waits for a peer
            that is gone.

    Attributes:
        lost: the end of a peer, once it is known.
        speaks: whether this process shows the user what happened: rank 0, or where it has ended without a word, the
            lowest rank that is left.
    """

    def __init__(self, on_lost: Callable[[PeerFailed], None] = lambda error: None) -> None:
        self.on_lost = on_lost
        self.lost: PeerFailed | None = None
        self.speaks = rank() == 0
        self._noticed = threading.Event()
        self._stopped: PeerFailed | None = None
        self._taken = False  # no lock: a signal's handler asks, too
        self._closed = threading.Event()
        self._main_ended = threading.Event()
        self._lock = threading.Lock()
        self._peers: dict[int, socket.socket] = {}
        # Nobody reads from it: while this process lives, the system answers whoever asks.
        self._answering = socket.create_server(("", 0), backlog=num_ranks())
        self._places = gather([socket.gethostname(), self._answering.getsockname()[1]])
        if rank() == 0:
            self._listen()
        else:
            self._connect()

    def explain(self, error: BaseException) -> BaseException:
        """Return the end of a peer in the place of an error that followed from it."""
        if isinstance(error, RuntimeError):
            self._noticed.wait(_EXPLAIN_SECONDS)
            return self.take() or self.lost or self._stopped or error
        return error

    def take(self) -> PeerFailed | None:
        """Return the end of a peer once, to whoever raises it."""
        if self.lost is None or self._taken:
            return None
        self._taken = True
        return self.lost

    def fail(self, reason: str) -> bool:
        """Tell the others that this process ends; return whether rank 0 is there to show the reason."""
        self._closed.set()
        return self._tell({"failed": rank(), "reason": reason})

    def stop(self) -> None:
        """Tell the others that this process ends because it was asked to; most likely all were.

        Others than rank 0 then wait for its end: torchrun ends all processes once one has ended, and rank 0 still has
        results to write and dashboards to close.
        """
        self._closed.set()
        if self._tell({"stopped": rank()}) and rank() > 0:
            self._main_ended.wait(_CLOSING_SECONDS)

    def close(self) -> None:
        """Tell the others that this process has come to its end."""
        self._closed.set()
        self._tell({"done": rank()})

    def _tell(self, message: dict[str, Any]) -> bool:
        told = False
        with self._lock:
            for peer in self._peers.values():
                told = _send(peer, message) or told
        return told

    # Rank 0.

    def _listen(self) -> None:
        server = socket.create_server(("", 0), backlog=num_ranks())
        server.settimeout(_CONNECT_SECONDS)
        token = secrets.token_hex(16)
        from_main({"port": server.getsockname()[1], "token": token, "host": socket.gethostname()})
        arrived = threading.Event()
        threading.Thread(target=self._accept, args=(server, token, arrived), daemon=True).start()
        arrived.wait(_CONNECT_SECONDS)

    def _accept(self, server: socket.socket, token: str, arrived: threading.Event) -> None:
        with server:
            while len(self._peers) < num_ranks() - 1:
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    log.warning("some ranks have no lifeline: should one end, the others may not notice")
                    break
                peer.settimeout(_CONNECT_SECONDS)
                lines = peer.makefile("r", encoding="utf-8")
                try:
                    hello = _last_message(lines)
                except OSError:
                    hello = {}
                if hello.get("token") != token:
                    peer.close()
                    continue
                _keep_alive(peer)
                with self._lock:
                    self._peers[hello["rank"]] = peer
                threading.Thread(target=self._follow, args=(hello, lines), daemon=True).start()
        arrived.set()

    def _follow(self, hello: dict[str, Any], lines: Any) -> None:
        number = hello["rank"]
        message = _last_message(lines)
        with self._lock:
            self._peers.pop(number, None)
        if "done" in message or self._closed.is_set():
            return
        if "stopped" in message:
            self._tell(message)
            self._note_stop(number)
            return
        reason = message.get("reason") or f"{_GONE} (process {hello['process']} on {hello['host']})"
        self._tell({"failed": number, "reason": reason})
        self._lose(number, reason)

    # Other ranks.

    def _connect(self) -> None:
        server = from_main(None)
        for host in dict.fromkeys((os.environ.get("MASTER_ADDR", "localhost"), server["host"])):
            try:
                connection = socket.create_connection((host, server["port"]), timeout=_CONNECT_SECONDS / 2)
            except OSError:
                continue
            _keep_alive(connection)
            me = {"rank": rank(), "token": server["token"], "host": socket.gethostname(), "process": os.getpid()}
            _send(connection, me)
            self._peers[0] = connection
            lines = connection.makefile("r", encoding="utf-8")
            threading.Thread(target=self._follow_main, args=(lines,), daemon=True).start()
            return
        log.warning("rank %d cannot reach rank 0: should one end, the other may not notice", rank())

    def _follow_main(self, lines: Any) -> None:
        message = _last_message(lines)
        if "stopped" in message:
            self._note_stop(message["stopped"])
            while _last_message(lines):  # until rank 0's end closes the connection
                pass
        elif "done" not in message and not self._closed.is_set():
            self.speaks = "failed" not in message and self._is_lowest_left()
            self._lose(message.get("failed", 0), message.get("reason") or _GONE)
        self._main_ended.set()

    def _is_lowest_left(self) -> bool:
        """Whether no rank between 0 and this one is left."""
        silent: set[str] = set()  # machines
        for host, port in self._places[1 : rank()]:
            if host in silent:
                continue
            address = "127.0.0.1" if host == socket.gethostname() else host
            try:
                with socket.create_connection((address, port), timeout=_ANSWER_SECONDS):
                    return False
            except ConnectionRefusedError:
                continue
            except OSError:
                silent.add(host)
        return True

    def _note_stop(self, number: int) -> None:
        self._stopped = PeerFailed(number, "it was stopped by a signal")
        self._noticed.set()

    def _lose(self, number: int, reason: str) -> None:
        """Note that a peer is gone; end this process where the main thread does not."""
        if self.lost is None:
            self.lost = PeerFailed(number, reason)
        self._noticed.set()
        if self._closed.wait(_GRACE_SECONDS):
            return
        if self._taken and self._closed.wait(_CLOSING_SECONDS):
            return
        time.sleep(0.5 * (not self.speaks))  # whoever speaks is first
        self.on_lost(self.lost)
        if self.speaks:
            who = f"rank {rank()}: " if rank() else ""
            print(f"{who}error: {self.lost}", file=sys.stderr, flush=True)
        os._exit(2)


_GONE = "it has ended without a word: was it killed, by lack of memory say?"


def _last_message(lines: Any) -> dict[str, Any]:
    """Wait for the one message that a peer sends, or for the end of its connection."""
    try:
        line = lines.readline()
        message = json.loads(line) if line else {}
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}


def _send(connection: socket.socket, message: dict[str, Any]) -> bool:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def _keep_alive(connection: socket.socket) -> None:
    """Also notice a machine that is switched off; wait for messages for ever."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
