"""Servers of a benchmark's own: real ones, on loopback, each on a free port, stopped by who started
them."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from time import monotonic, sleep

__all__ = ["connected", "memcached_server", "redis_server"]

START_SECONDS = 20.0


def connected(port: int) -> socket.socket:
    """A connection to *port* that sends at once what it is given."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextlib.contextmanager
def redis_server() -> Iterator[int]:
    """The port of an empty Redis that writes nothing to disk. FileNotFoundError if there is none on
    this machine."""
    port = _free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir"]
    with tempfile.TemporaryDirectory() as folder, _running([*command, folder], port):
        yield port


@contextlib.contextmanager
def memcached_server() -> Iterator[int]:
    """The port of an empty Memcached. FileNotFoundError if there is none on this machine."""
    port = _free_port()
    with _running(
        ["memcached", "-p", str(port), "-U", "0", "-l", "127.0.0.1", "-u", "nobody"], port
    ):
        yield port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        give_up_at = monotonic() + START_SECONDS
        while True:
            try:
                connected(port).close()
                break
            except OSError:
                if monotonic() > give_up_at:
                    raise
                sleep(0.01)
        yield
    finally:
        server.kill()
        server.wait()
