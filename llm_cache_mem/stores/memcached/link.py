"""Connections to one Memcached server, each lent to one caller at a time, that keep to their time
and are never used again once in doubt.

pymemcache speaks over them. Its pool is left out, except where one is handed in: it cannot bound
the time that a reply takes in all, nor tell a connection on which something came that nobody asked
for.
"""

import functools
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.in_time import in_time, is_name

try:
    from pymemcache.client.base import Client, PooledClient
    from pymemcache.client.hash import HashClient
    from pymemcache.client.rendezvous import RendezvousHash
    from pymemcache.exceptions import MemcacheServerError
    from pymemcache.serde import LegacyWrappingSerde
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
    "Due",
    "HashClient",
    "Link",
    "MemcacheServerError",
    "PoolLink",
    "PooledClient",
    "RendezvousHash",
    "TooMuch",
    "shown",
]

R = TypeVar("R")
Address = tuple[str, int] | str
"""Host and port, or the path of a socket."""

_BYTES_PER_SECOND = 4 * 1024 * 1024  # a large value gets more time, at this rate
_CHUNK = 64 * 1024
_SMALL = 4096
_DIGITS = 10
_IDLE = 32  # connections kept


class TooMuch(Exception):
    """The server sends more than was asked for."""


class Due:
    """When an operation must be over: *timeout* seconds from now, a little later for every byte
    that moves; *room* bytes may come."""

    __slots__ = ("_at", "_room")

    def __init__(self, timeout: float, room: int) -> None:
        self._at = monotonic() + timeout
        self._room = room

    def left(self) -> float:
        """Seconds, more than 0; TimeoutError if none are left."""
        left = self._at - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def sent(self, size: int) -> None:
        """*size* bytes are to be sent."""
        self._at += size / _BYTES_PER_SECOND

    def came(self, size: int) -> None:
        """*size* bytes have come; TooMuch if there is no room for them."""
        self._room -= size
        self._at += size / _BYTES_PER_SECOND
        if self._room < 0:
            raise TooMuch


class _Wire(socket.socket):
    """A socket whose calls together keep to the time of the operation that it serves."""

    due: Due
    poll: Callable[[int], Any] | None = None

    def sendall(self, data: Any, flags: int = 0) -> None:
        if len(data) > _SMALL:
            self.due.sent(len(data))
        self._hurry()
        super().sendall(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._hurry()
        data = super().recv(_CHUNK, flags)
        self.due.came(len(data))
        return data

    def _hurry(self) -> None:
        """Give the next call what is left of the time, unless it has about that: to say so is a
        system call."""
        left = self.due.left()
        if abs((self.gettimeout() or 0.0) - left) > left / 10:
            self.settimeout(left)

    def is_silent(self) -> bool:
        """Whether nothing has come since the last reply: neither its end nor what nobody asked
        for."""
        if self.poll is None:
            if not hasattr(select, "poll"):
                return not select.select([self], [], [], 0)[0]
            poller = select.poll()
            poller.register(self, select.POLLIN)
            self.poll = poller.poll
        return not self.poll(0)


def _dial(address: Address, due: Due) -> _Wire:
    if isinstance(address, str):
        ways: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address)]
    else:
        look_up = functools.partial(socket.getaddrinfo, *address, type=socket.SOCK_STREAM)
        ways = in_time(look_up, due.left()) if is_name(address[0]) else look_up()
    failure: OSError = ConnectionError("no address")
    for (
        family,
        kind,
        protocol,
        _,
        where,
    ) in ways:  # localhost may be ::1, where nobody listens, before 127.0.0.1
        wire = _Wire(family, kind, protocol)
        wire.due = due
        try:
            wire.settimeout(due.left())
            wire.connect(where)
            if family != getattr(socket, "AF_UNIX", None):
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return wire
        except OSError as exc:
            wire.close()
            failure = exc
        except BaseException:
            wire.close()
            raise
    raise failure


def shown(address: Address) -> str:
    """*address* as a URL has it."""
    return (
        address
        if isinstance(address, str)
        else f"{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
    )


class Link:
    """The server at *address*. Thread-safe, without a lock; a forked child makes connections of its
    own."""

    key_prefix = b""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.name = shown(address)
        self._idle: list[Client] = []  # append and pop are atomic
        self._pid = os.getpid()
        self._closed = False
        weakref.finalize(self, _close_all, self._idle)  # of a store that nobody closed
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self.distrust()  # the parent's: only our copies of the descriptors are closed
        self._pid = os.getpid()

    def call(self, work: Callable[[Client], R], due: Due) -> R:
        """``work(client)``, connected. Whatever is raised, the connection is not used again."""
        client = self._borrow(due)
        try:
            result = work(client)
        except BaseException:
            client.close()
            raise
        self._give_back(client)
        return result

    def _give_back(self, client: Client) -> None:
        if self._closed or len(self._idle) >= _IDLE or client.sock is None:
            client.close()
        else:
            self._idle.append(client)

    def fetch(self, names: Sequence[bytes], due: Due) -> dict[bytes, bytes]:
        """What is stored under *names*: pymemcache's ``get_many``, at a third of its cost, and
        believing less."""
        client = self._borrow(due)
        try:
            found = _fetched(client.sock, names)
        except BaseException:
            client.close()
            raise
        self._give_back(client)
        return found

    def distrust(self) -> None:
        """A reply made no sense: it may have been meant for another command, so start over with new
        connections."""
        _close_all(self._idle)

    def close(self) -> None:
        self._closed = True
        self.distrust()

    def _borrow(self, due: Due) -> Client:
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        if self._closed:
            raise ConnectionError("the store is closed")
        while True:
            try:
                client = (
                    self._idle.pop()
                )  # the last one given back: the least likely to have been closed by the server
            except IndexError:
                break
            wire: Any = client.sock
            if wire is not None and wire.is_silent():
                wire.due = due
                return client
            client.close()
        client = Client(self._address)
        client.sock = _dial(self._address, due)
        return client


def _close_all(idle: list[Client]) -> None:
    while idle:
        try:
            idle.pop().close()
        except IndexError:  # another thread took the last one
            return


def _fetched(wire: Any, names: Sequence[bytes]) -> dict[bytes, bytes]:
    wire.sendall(b"get %b\r\n" % b" ".join(names))
    found: dict[bytes, bytes] = {}
    reply: bytes = wire.recv(_CHUNK)
    at = 0
    while True:
        end = reply.find(b"\r\n", at)
        if end < 0:
            reply = _more(wire, reply)
            continue
        if reply[at:end] == b"END":
            if end + 2 != len(reply):
                raise TooMuch
            return found
        kind, name, _, size = reply[at:end].split(b" ")
        if kind != b"VALUE" or name not in names or len(size) > _DIGITS or not size.isdigit():
            raise ValueError("not the reply to a get")
        begin, at = end + 2, end + 4 + int(size)
        while len(reply) < at:
            reply = _more(wire, reply)
        if reply[at - 2 : at] != b"\r\n":
            raise ValueError("not the reply to a get")
        found[name] = reply[begin : at - 2]


def _more(wire: Any, reply: bytes) -> bytes:
    data: bytes = wire.recv(_CHUNK)
    if not data:
        raise ConnectionError("closed by the server")
    return reply + data


class PoolLink:
    """The server of a pool that its owner made, and that goes by its owner's settings."""

    def __init__(self, pooled: PooledClient) -> None:
        self._pooled = pooled
        self.key_prefix: bytes = pooled.key_prefix
        self.name = (
            ":".join(map(str, pooled.server))
            if isinstance(pooled.server, tuple)
            else str(pooled.server)
        )
        self._serde = LegacyWrappingSerde(None, None)
        self._pid = os.getpid()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        pool = self._pooled.client_pool
        pool._lock = threading.Lock()  # another thread of the parent may have held it
        pool.clear()
        self._pid = os.getpid()

    def call(self, work: Callable[[Client], R], due: Due) -> R:
        """As ``Link.call``."""
        if self._pid != os.getpid():
            self._after_fork()
        pool = self._pooled.client_pool
        client: Any = pool.get()
        theirs, client.serde = (
            client.serde,
            self._serde,
        )  # whatever its owner stores, ours are bytes, and not to be unpickled
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

    def fetch(self, names: Sequence[bytes], due: Due) -> dict[bytes, bytes]:
        """As ``Link.fetch``."""
        found: dict[Any, bytes] = self.call(lambda client: client.get_many(names), due)
        return found

    def distrust(self) -> None:
        """Nothing to do: the connections are their owner's."""

    def close(self) -> None:
        """It stays open: it is its owner's."""
