"""A client that somebody else opened, by its public methods alone: redis-py's, for Cluster and
Sentinel too, and what quacks like it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any

from llm_cache_mem._util import log
from llm_cache_mem.stores.redis.wire import Refused

__all__ = ["ClientLink", "is_wrong_type"]

_SCAN_COUNT = 1000
_PATIENT_SECONDS = 2.0
_NEEDED = ("execute_command", "pipeline", "scan_iter")


class ClientLink:
    """As Link, over *client*: its timeouts, its retries, its connections, and it stays open.

    TypeError for what is no such client or an asyncio one, ValueError for one that turns answers
    into str.
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
        _warn_of_patience(client)
        self.name = type(client).__name__
        self.timeout = timeout
        self.clustered = hasattr(client, "mget_nonatomic")
        self._client = client

    def call(self, *command: bytes) -> Any:
        name, *words = command
        try:
            return _plain(self._client.execute_command(name.decode(), *words))
        except Exception as exc:
            refused = _plain(exc)
            if refused is exc:
                raise
            raise refused from exc

    def calls(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        pipeline = (
            self._client.pipeline() if self.clustered else self._client.pipeline(transaction=False)
        )
        for name, *words in commands:
            pipeline.execute_command(name.decode(), *words)
        return [_plain(reply) for reply in pipeline.execute(raise_on_error=False)]

    def values(self, names: Sequence[bytes], hints: Sequence[bytes | None]) -> list[Any]:
        if not self.clustered:
            return list(self.call(b"MGET", *names))
        replies = self.calls(
            [(b"GET", name) for name in names]
        )  # the keys of one MGET would have to be neighbours
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        return [None if isinstance(reply, Exception) else reply for reply in replies]

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        names: list[bytes] = []
        for name in self._client.scan_iter(match=pattern, count=_SCAN_COUNT):
            names.append(name)
            if len(names) == _SCAN_COUNT:
                yield names
                names = []
        yield names

    def distrust(self) -> None:
        pool = getattr(self._client, "connection_pool", None)
        with suppress(Exception):  # there may be none that can be asked: the owner's business then
            if pool is not None:
                pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Nothing of ours is open."""


def _plain(reply: Any) -> Any:
    """A reply as Link gives it: redis-py makes True of an OK, and has many classes for what a
    server refuses."""
    if reply is True:
        return b"OK"
    if isinstance(reply, Exception) and any(
        base.__name__ == "ResponseError" for base in type(reply).__mro__
    ):
        return Refused(str(reply), type(reply).__name__)
    return reply


def _warn_of_patience(client: Any) -> None:
    """redis-py's own defaults let a call wait a minute for a server that is paused: worth a line
    when the owner left them so."""
    settings = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    if not isinstance(settings, dict):
        return  # of a Cluster each node has its own
    seconds, tries = settings.get("socket_timeout"), getattr(settings.get("retry"), "_retries", 0)
    tries = tries if isinstance(tries, int) else 0
    if seconds is None or seconds * (1 + tries) > _PATIENT_SECONDS:
        log.warning(
            __name__,
            "this %s lets a call wait %s for a server that does not answer: make it with"
            " socket_timeout=0.25, retry=Retry(NoBackoff(), 0)",
            type(client).__name__,
            "for ever" if seconds is None else f"{seconds * (1 + tries):.0f} seconds",
        )


def is_wrong_type(exc: Exception) -> bool:
    """Whether the server refuses because what it has is no string."""
    return "WRONGTYPE" in str(exc)
