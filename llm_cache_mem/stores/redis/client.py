"""The two kinds of client that a RedisStore sends its commands by: one made from a URL, and one of
redis-py's that belongs to its caller."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any

from llm_cache_mem.stores.failures import UnexpectedReply
from llm_cache_mem.stores.redis.connections import (
    ask,
    ask_all,
    open_pool,
    server_of,
)
from llm_cache_mem.stores.redis.event_loops import EventLoops

__all__ = ["GivenClient", "UrlClient"]

_log = logging.getLogger(__name__)

_SCAN_COUNT = 1000  # keys that the server looks at before it serves others
_LONG_SECONDS = 2.0
_NEEDED = ("execute_command", "pipeline", "scan_iter")


class UrlClient:
    """A client with a pool of at most *limit* connections to the server of *url*, and one for each
    event loop.

    Waiting for a connection, making one, and all replies to what is sent at once may take *timeout*
    seconds each. A connection whose exchange failed is not used again. Replies are bytes, int, None
    or a list; a ResponseError is the server's refusal, and any other exception a failure.
    """

    clustered = False

    def __init__(self, url: str, *, timeout: float, limit: int) -> None:
        server = server_of(url, timeout=timeout, limit=limit)
        self.name, self.timeout = server.name, server.timeout
        self._pool = open_pool(server)
        self._loops = EventLoops(server.connect, timeout=server.timeout)

    def call(self, *command: bytes) -> Any:
        """The reply to *command*."""
        return _or_raised(self._pool.run(ask, *command))

    def calls(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """The replies to *commands*, sent at once; a ResponseError takes the place of a reply."""
        return self._pool.run(ask_all, commands)

    def value(self, name: bytes) -> Any:
        """What is stored under *name*; None if there is nothing, or it is no string."""
        return _value(self._pool.run(ask, b"GET", name))

    async def avalue(self, name: bytes) -> Any:
        """As ``value``, for a task of asyncio; a thread is needed only to connect."""
        return _value(await self._loops.ask(b"GET", name))

    def values(self, names: Sequence[bytes]) -> list[Any]:
        """As ``value``, for each of *names*."""
        return _checked(self.call(b"MGET", *names), names)

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The names of the keys that match *pattern*, in batches. A name may come twice."""
        cursor = b"0"
        while True:
            cursor, names = self.call(
                b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN_COUNT
            )
            yield names
            if cursor == b"0":
                return

    def renew(self) -> None:
        """Start over with new connections: a reply made no sense, and may have been meant for
        another command."""
        self._pool.renew()
        self._loops.renew()

    def close(self) -> None:
        self._pool.close()
        self._loops.close()


class GivenClient:
    """As UrlClient, by the public methods of *client*, which may be one for Cluster or Sentinel.

    Its timeouts, retries and connections are its owner's business, and it stays open.

    TypeError for any other object or an asyncio client, ValueError for one that decodes replies.
    """

    def __init__(self, client: Any, *, timeout: float) -> None:
        kind = f"{type(client).__module__}.{type(client).__name__}"
        if not all(callable(getattr(client, name, None)) for name in _NEEDED):
            raise TypeError(f"RedisStore needs a URL or a client such as redis.Redis, not {kind}")
        if iscoroutinefunction(client.execute_command):
            raise TypeError(
                f"RedisStore needs a client for threads, such as redis.Redis: {kind} is one for"
                " asyncio"
            )
        if getattr(client.get_encoder(), "decode_responses", False):
            raise ValueError(
                "RedisStore needs a client that gives bytes: make it without decode_responses=True"
            )
        _warn_of_long_waits(client)
        self.name = type(client).__name__
        self.timeout = timeout
        self.clustered = hasattr(client, "mget_nonatomic")
        self._client = client

    def call(self, *command: bytes) -> Any:
        name, *words = command
        return _plain(self._client.execute_command(name.decode(), *words))

    def calls(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        pipeline = (
            self._client.pipeline() if self.clustered else self._client.pipeline(transaction=False)
        )
        for name, *words in commands:
            pipeline.execute_command(name.decode(), *words)
        return [_plain(reply) for reply in pipeline.execute(raise_on_error=False)]

    def value(self, name: bytes) -> Any:
        try:
            return self.call(b"GET", name)
        except Exception as exc:  # noqa: BLE001  # mostly raised again
            return _value(exc)

    def values(self, names: Sequence[bytes]) -> list[Any]:
        if not self.clustered:
            return _checked(self.call(b"MGET", *names), names)
        replies = self.calls(
            [(b"GET", name) for name in names]
        )  # the keys of one MGET would have to be neighbours
        return [_value(reply) for reply in replies]

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        names: list[bytes] = []
        for name in self._client.scan_iter(match=pattern, count=_SCAN_COUNT):
            names.append(name)
            if len(names) == _SCAN_COUNT:
                yield names
                names = []
        yield names

    def renew(self) -> None:
        pool = getattr(self._client, "connection_pool", None)
        with suppress(Exception):  # not every kind of client has such a pool
            if pool is not None:
                pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Nothing of ours is open."""


def _or_raised(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _value(reply: Any) -> Any:
    """What a GET gave; None if the server refuses because the value, another program's, is no
    string."""
    if isinstance(reply, Exception) and "WRONGTYPE" in str(reply):
        return None
    return _or_raised(reply)


def _plain(reply: Any) -> Any:
    """A reply as the server sent it: redis-py makes True of an OK."""
    return b"OK" if reply is True else reply


def _checked(reply: Any, names: Sequence[bytes]) -> list[Any]:
    if type(reply) is not list or len(reply) != len(names):
        raise UnexpectedReply(type(reply).__name__)
    return reply


def _warn_of_long_waits(client: Any) -> None:
    """Log a warning if a call may wait long for a paused server, as by redis-py's defaults."""
    settings = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    if not isinstance(settings, dict):
        return  # of a Cluster each node has its own
    seconds, tries = settings.get("socket_timeout"), getattr(settings.get("retry"), "_retries", 0)
    tries = tries if isinstance(tries, int) else 0
    if seconds is None or seconds * (1 + tries) > _LONG_SECONDS:
        _log.warning(
            "this %s lets a call wait %s for a server that does not answer: make it with"
            " socket_timeout=0.25, retry=Retry(NoBackoff(), 0)",
            type(client).__name__,
            "for ever" if seconds is None else f"{seconds * (1 + tries):.0f} seconds",
        )
