"""A process that has imported the contestant and done nothing yet: forks of it are other processes
at no cost in imports.

On a busy machine some libraries take a minute to import, and probes ask for another process many
times.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Forked", "Spare"]

FAILED = "! failed"


class Forked:
    """A step in a fork of the spare process, as Running is one in a new interpreter."""

    def __init__(self, pid: int, out: int) -> None:
        self._pid = pid
        self._out = os.fdopen(out, encoding="utf-8")

    def line(self) -> str:
        """What it prints next; "" when it has ended."""
        return self._out.readline()

    def kill(self) -> None:
        if not self._out.closed:
            os.kill(
                self._pid, signal.SIGKILL
            )  # the number is still its own: the spare process, its parent, waits for none
            self._out.read()
            self._out.close()

    def result(self, seconds: float = 0.0) -> Any:
        """What the step returned. The probe's own time is the limit."""
        lines = self._out.read().splitlines()
        self._out.close()
        if not lines or lines[-1] == FAILED:
            raise RuntimeError("the other process ended with an error")
        return json.loads(lines[-1])


class Spare:
    """Fork it off before anything is opened. *run* does a step, prints its result, and is called in
    forks only."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            try:
                _serve(theirs, run)
            finally:
                os._exit(0)
        theirs.close()

    def start(self, *arguments: str, cwd: str, environment: dict[str, str]) -> Forked:
        """Run ``run(*arguments)`` in a fork, in *cwd*, with *environment* besides its own."""
        read, write = os.pipe()
        order = json.dumps([arguments, cwd, environment]).encode()
        socket.send_fds(self._ours, [len(order).to_bytes(8, "big")], [write])
        self._ours.sendall(order)
        os.close(write)
        return Forked(int.from_bytes(self._ours.recv(8), "big"), read)

    def close(self) -> None:
        self._ours.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _serve(orders: socket.socket, run: Callable[..., Any]) -> None:
    while True:
        length, descriptors, _, _ = socket.recv_fds(orders, 8, 1)
        if not length:
            return
        order = b""
        while len(order) < int.from_bytes(length, "big"):
            order += orders.recv(65_536)
        child = os.fork()
        if child == 0:
            orders.close()
            _step(descriptors[0], run, *json.loads(order))
        os.close(descriptors[0])
        orders.sendall(child.to_bytes(8, "big"))


def _step(
    out: int, run: Callable[..., Any], arguments: list[str], cwd: str, environment: dict[str, str]
) -> None:
    os.dup2(out, 1)
    os.close(out)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    os.chdir(cwd)
    os.environ.update(environment)
    try:
        run(*arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, the caller hears that there is no result
        print(f"\n{FAILED}")
    finally:
        sys.stdout.flush()
        os._exit(0)
