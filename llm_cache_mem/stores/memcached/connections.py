"""Connections of pymemcache to one server: a pool of our own, or that of a client which belongs to
its caller."""

import functools
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.deadline import DeadlineSocket, call_within, is_host_name
from llm_cache_mem.stores.pool import Pool

try:
    from pymemcache.client.base import Client, PooledClient
    from pymemcache.client.hash import HashClient
    from pymemcache.client.rendezvous import RendezvousHash
    from pymemcache.exceptions import MemcacheError, MemcacheServerError
except ModuleNotFoundError as exc:
    if (
        exc.name is None or exc.name.partition(".")[0] != "pymemcache"
    ):  # installed but broken: let that error speak
        raise
    raise ImportError(
        "MemcachedStore needs pymemcache: pip install 'llm-cache-mem[memcached]'", name="pymemcache"
    ) from None

__all__ = [
    "Address",
    "Client",
    "GivenConnections",
    "HashClient",
    "MemcacheError",
    "MemcacheServerError",
    "PooledClient",
    "RendezvousHash",
    "UrlConnections",
    "shown",
]

R = TypeVar("R")
Address = tuple[str, int] | str
"""Host and port, or the path of a socket."""

_MAX_CONNECTIONS = 64


def shown(address: Address) -> str:
    """*address* as a URL has it."""
    return (
        address
        if isinstance(address, str)
        else f"{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
    )


class UrlConnections:
    """Connections to the server at *address*, for operations of *timeout* seconds. Thread-safe; a
    forked child makes its own."""

    key_prefix = b""

    def __init__(self, address: Address, timeout: float) -> None:
        self.name = shown(address)
        self._pool: Pool[Client] = Pool(
            functools.partial(_connected, address, timeout),
            is_usable=_is_usable,
            close=Client.close,
            limit=_MAX_CONNECTIONS,
            timeout=timeout,
            store="MemcachedStore",
        )

    def run(self, work: Callable[[Client], R], seconds: float, max_bytes: int) -> R:
        """Return ``work(client)``, which may take *seconds* and receive *max_bytes*. Whatever it
        raises, the connection is not used again."""
        return self._pool.run(_begun, work, seconds, max_bytes)

    def renew(self) -> None:
        """Start over with new connections: a reply made no sense, and may have been meant for
        another command."""
        self._pool.renew()

    def close(self) -> None:
        self._pool.close()


def _begun(client: Client, work: Callable[[Client], R], seconds: float, max_bytes: int) -> R:
    sock: Any = client.sock
    sock.begin(seconds, max_bytes)
    return work(client)


def _is_usable(client: Client) -> bool:
    sock: Any = client.sock
    return sock is not None and sock.is_quiet()


class _Client(Client):  # type: ignore[misc]  # pymemcache comes without types
    """pymemcache's, for keys that are known to be valid and values that are bytes."""

    def check_key(self, key: bytes, key_prefix: bytes) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]  # of inferred types
        return key


class _Bytes:
    """No serializer: whatever else is stored there, it is never unpickled."""

    def serialize(self, key: bytes, value: bytes) -> tuple[bytes, int]:
        return value, 0

    def deserialize(self, key: bytes, value: bytes, flags: int) -> bytes:
        return value


def _connected(address: Address, timeout: float) -> Client:
    client: Any = _Client(address, serde=_Bytes())  # its attributes have types only by inference
    client.sock = DeadlineSocket(_dial(address, timeout), timeout)
    return client


def _dial(address: Address, timeout: float) -> socket.socket:
    if not isinstance(address, str):
        connect = functools.partial(socket.create_connection, address, timeout)
        if not is_host_name(address[0]):
            return _without_delay(connect())
        return _without_delay(call_within(timeout, connect, late=socket.socket.close))
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _without_delay(sock: socket.socket) -> socket.socket:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class GivenConnections:
    """The connections of *pooled*, a client that belongs to its caller: its timeouts, its keys'
    prefix, and it stays open."""

    def __init__(self, pooled: PooledClient) -> None:
        self._pooled = pooled
        self.key_prefix: bytes = pooled.key_prefix
        self.name = shown(pooled.server)
        self._serde = _Bytes()
        self._pid = os.getpid()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        pool = self._pooled.client_pool
        pool._lock = threading.Lock()  # another thread of the parent may have held it
        pool.clear()
        self._pid = os.getpid()

    def run(self, work: Callable[[Client], R], seconds: float, max_bytes: int) -> R:
        """As ``UrlConnections.run``, but for the time and the bytes."""
        if self._pid != os.getpid():
            self._after_fork()
        pool = self._pooled.client_pool
        client: Any = pool.get()
        # whatever its owner stores, our values are bytes, and not to be unpickled
        theirs, client.serde = client.serde, self._serde
        try:
            if client.sock is None:
                client._connect()
            result = work(client)
        except BaseException:
            client.serde = theirs
            pool.destroy(client)
            raise
        client.serde = theirs
        pool.release(client)
        return result

    def renew(self) -> None:
        """Nothing to do: the connections are their owner's."""

    def close(self) -> None:
        """Nothing to do: it stays open."""
