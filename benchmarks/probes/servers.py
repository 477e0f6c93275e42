"""A Redis for one probe: on loopback, on a free port, stopped with its bench."""

import os
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot

__all__ = ["Redis", "redis_of"]


class Redis:
    """One process. It is killed when the bench is closed."""

    def __init__(self, program: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        command = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp"
        )
        give_up_at = time.monotonic() + 20
        while not self._answers():
            if time.monotonic() > give_up_at:
                raise TimeoutError("the Redis of this probe does not answer")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def flush(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(16)

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After a pause; nothing if it was killed."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    close = kill


def redis_of(bench: Bench) -> Any:
    """The Redis of *bench*, started when first asked for; Cannot where there is none on this
    machine."""
    for opened in bench.opened:
        if isinstance(opened, Redis):
            return opened
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise Cannot("no redis-server on this machine")
    server = Redis(program)
    bench.opened.append(server)  # type: ignore[arg-type]  # closed with the rest
    bench.given["redis"] = str(server.port)
    return server


def redis_port(bench: Bench) -> int:
    """Where the bench's Redis listens, which another process of the probe may have started."""
    return int(bench.given["redis"]) if "redis" in bench.given else redis_of(bench).port
