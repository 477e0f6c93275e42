"""Connections to one Redis server, each lent to one caller at a time, and thrown away when there is
any doubt about it.

redis-py reads the URL and makes the connections: TCP, TLS or Unix socket, with all its options.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.in_time import in_time, is_name
from llm_cache_mem.stores.redis.wire import Refused, Wire, packed, packed_mget

try:
    from redis.backoff import NoBackoff
    from redis.connection import Connection, parse_url
    from redis.exceptions import RedisError
    from redis.retry import Retry
except ModuleNotFoundError as exc:
    if exc.name != "redis":  # installed but broken: let that error speak
        raise
    raise ImportError(
        "RedisStore needs redis: pip install 'llm-cache-mem[redis]'", name="redis"
    ) from None

__all__ = ["SCHEMES", "Link", "open_link"]

R = TypeVar("R")

SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}  # ours, and redis-py's

_SCAN_COUNT = 1000  # keys that the server looks at before it serves others


class Link:
    """One server, asked over at most *limit* of the wires that *connect* makes. Thread-safe; a
    forked child makes its own.

    Waiting for a wire, making one, and the reply may take *timeout* seconds each. Refused is raised
    when the server refuses a command, and anything else when the conversation fails; then the wire
    is not used again.
    """

    clustered = False

    def __init__(
        self, connect: Callable[[], Wire], *, name: str, timeout: float, limit: int
    ) -> None:
        self.name = name
        self.timeout = timeout
        self._connect = connect
        self._limit = limit
        self._idle: list[Wire] = []
        self._closed = False
        self._after_fork()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        # the parent's: redis-py closes its descriptors in this process and lets the connection be
        self._idle = []
        self._open = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._pid = os.getpid()

    def call(self, *command: bytes) -> Any:
        """The reply to *command*; Refused when the server refuses it."""
        reply = self._ask(lambda wire: wire.ask(packed(command)))[0]
        if type(reply) is Refused:
            raise reply
        return reply

    def calls(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """The replies to *commands*, sent at once; Refused takes the place of a reply."""
        return self._ask(
            lambda wire: wire.ask(b"".join(map(packed, commands)), replies=len(commands))
        )

    def values(self, names: Sequence[bytes], hints: Sequence[bytes | None]) -> list[Any]:
        """What is stored under *names*, None for what is no string; a value that is as its hint
        says is that very object."""
        return self._ask(lambda wire: wire.ask_values(packed_mget(names), hints))

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The names of the keys that match *pattern*, some at a time. A name may come twice."""
        cursor = b"0"
        while True:
            cursor, names = self.call(
                b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN_COUNT
            )
            yield names
            if cursor == b"0":
                return

    def distrust(self) -> None:
        """A reply made no sense: it may have been meant for another command, so start over with new
        connections."""
        with self._changed:
            while self._idle:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """Close what is idle now and the rest as it comes back; nothing is lent any more."""
        self._closed = True
        self.distrust()

    # -- Lending

    def _ask(self, work: Callable[[Wire], R]) -> R:
        wire = self._borrow()
        try:
            reply = work(wire)
        except Refused:  # a reply like any other
            self._give_back(wire)
            raise
        except BaseException:
            self._discard(wire)
            raise
        self._give_back(wire)
        return reply

    def _borrow(self) -> Wire:
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        while True:
            try:
                wire = (
                    self._idle.pop()
                )  # the last one given back: the least likely to have been closed by the server
            except IndexError:
                return self._wait_or_open()
            if wire.silent:
                return wire
            self._discard(wire)

    def _wait_or_open(self) -> Wire:
        deadline = monotonic() + self.timeout
        with self._changed:
            self._waiting += 1
            try:
                while self._open >= self._limit and not self._closed:
                    with suppress(IndexError):  # those who need not wait take without the lock
                        return self._idle.pop()
                    if not self._changed.wait(deadline - monotonic()):
                        raise TimeoutError(f"all {self._limit} connections are in use")
                if self._closed:
                    raise ConnectionError("the store is closed")
                self._open += 1
            finally:
                self._waiting -= 1
        try:
            return self._connect()
        except BaseException:
            self._discard(None)
            raise

    def _give_back(self, wire: Wire) -> None:
        self._idle.append(wire)
        if self._waiting or self._closed:
            with self._changed:
                self._changed.notify()
            if self._closed:
                self.distrust()

    def _discard(self, wire: Wire | None) -> None:
        with self._changed:
            self._drop(wire)
            self._changed.notify()

    def _drop(self, wire: Wire | None) -> None:
        self._open -= 1
        if wire is not None:
            wire.close()


def open_link(url: str, *, timeout: float, limit: int) -> Link:
    """A Link to the server that *url* names; it connects when first used. ValueError for a URL that
    can never work.

    ``redis://``, ``rediss://`` (TLS), ``unix://``, and ``valkey://`` and ``valkeys://``, which are
    the first two by another name, with the options that redis-py knows.
    """
    options = _options(url)
    timeout = options.setdefault("socket_timeout", timeout)
    limit = options.pop("max_connections", limit)
    if not (timeout > 0 and limit > 0):
        raise ValueError("a redis URL needs a socket_timeout and max_connections above 0")
    connection_class = options.pop("connection_class", Connection)
    # What redis-py would send first, and how it would read, is the wire's business; and what fails
    # fails once.
    ours = {
        "protocol": 2,
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "redis_connect_func": _say_nothing,
    }
    options = {"socket_connect_timeout": timeout} | options | ours
    greeting = _greeting(options)
    scheme = urlsplit(url).scheme
    connect_seconds = options["socket_connect_timeout"] + (
        timeout if SCHEMES[scheme] == "rediss" else 0
    )  # TLS has its own to say

    def connect() -> Wire:
        connection = connection_class(**options)
        if is_name(str(options.get("host", "127.0.0.1"))):
            in_time(connection.connect, connect_seconds, late=connection.disconnect)
        else:
            connection.connect()
        wire = Wire(connection, timeout)
        try:
            for reply in wire.ask(b"".join(greeting), replies=len(greeting)) if greeting else ():
                if type(reply) is Refused:
                    raise reply
        except BaseException:
            wire.close()
            raise
        return wire

    try:
        connection_class(**options)
    except (TypeError, ValueError, RedisError) as exc:
        raise ValueError(
            f"a {scheme}:// URL with an option that redis-py does not take:"
            f" {_option_in(exc, options)}"
        ) from None
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Link(
        connect, name=f"{scheme}://{where}/{options.get('db', 0)}", timeout=timeout, limit=limit
    )


def _say_nothing(connection: Any) -> None:
    """In place of redis-py's greeting, of which each part may take its time."""


def _greeting(options: dict[str, Any]) -> list[bytes]:
    """What a connection begins with: who we are, and which database."""
    commands: list[tuple[bytes, ...]] = []
    if "password" in options:
        names = (options["username"].encode(),) if "username" in options else ()
        commands.append((b"AUTH", *names, options["password"].encode()))
    if "client_name" in options:
        commands.append((b"CLIENT", b"SETNAME", options["client_name"].encode()))
    if options.get("db"):
        commands.append((b"SELECT", b"%d" % options["db"]))
    return [packed(command) for command in commands]


def _options(url: str) -> dict[str, Any]:
    """The arguments of a connection. No message of these repeats a part of *url*: a password that
    is not escaped may be anywhere."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(
            "RedisStore needs a URL such as redis://localhost:6379/0, or a client of redis-py"
        )
    try:
        options: dict[str, Any] = parse_url(f"{SCHEMES[scheme]}{separator}{rest}")  # type: ignore[no-untyped-call]
        path = urlsplit(url).path.strip("/")
    except ValueError:
        hint = (
            "check its port and options, and write / ? # @ : in a password as %2F %3F %23 %40 %3A"
        )
        raise ValueError(f"not a {scheme}:// URL: {hint}") from None
    if scheme != "unix" and path and not path.isdecimal():
        raise ValueError(
            f"what follows the host in a {scheme}:// URL is the number of a database, as in"
            f" {scheme}://localhost:6379/0"
        )
    if scheme == "unix" and not options.get("path"):
        raise ValueError(
            "a unix:// URL needs the path of a socket, as in unix:///run/redis/redis.sock"
        )
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options and not os.path.isfile(options[name]):
            raise ValueError(f"{name} in a {scheme}:// URL is not a file: {options[name]!r}")
    return options


def _option_in(exc: Exception, options: dict[str, Any]) -> str:
    """The name of the option that *exc* complains of."""
    return next((name for name in options if name in str(exc)), type(exc).__name__)
