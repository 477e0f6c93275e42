"""Caches on one Redis over loopback, each with the client that it brings, against the round trip
that none can go below."""

import json
import socket
from typing import Any

from benchmarks.peers.contestant import LOOP, Contestant, Place
from benchmarks.peers.in_memory import AioCache, Cashews, LiteLLM, Ours, OursAsync
from benchmarks.peers.langchain_caches import OnRedis
from benchmarks.servers import connected
from benchmarks.workload import key_of
from llm_cache_mem import LLMCache

__all__ = ["ALL"]


class Floor(Contestant):
    """One GET on a bare socket, of a key and for a value that are ready bytes."""

    name = "floor: GET of ready bytes, bare socket"
    key = "none: the request is a ready command"
    value = "bytes, as they come"
    reference = True

    def __init__(self, place: Place) -> None:
        self._socket: socket.socket = connected(place.port)

    def asked(self, request: dict[str, Any]) -> bytes:
        return f"floor:{key_of(request)}".encode()

    def answered(self, value: dict[str, Any]) -> bytes:
        return json.dumps(value).encode()

    def get(self, asked: bytes) -> Any:
        self._socket.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(asked), asked))
        reply = self._socket.recv(65536)
        if reply.startswith(b"$-1"):
            return None
        head, _, body = reply.partition(b"\r\n")
        while len(body) < int(head[1:]) + 2:
            body += self._socket.recv(65536)
        return body[:-2]

    def put(self, asked: bytes, answer: bytes) -> None:
        self._socket.sendall(
            b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (len(asked), asked, len(answer), answer)
        )
        assert self._socket.recv(64) == b"+OK\r\n"

    def close(self) -> None:
        self._socket.close()


class OursOnRedis(Ours):
    """This library, on Redis."""

    value = "JSON; a new object for each hit"

    def __init__(self, place: Place) -> None:
        self._cache = LLMCache(backend=f"redis://127.0.0.1:{place.port}/0")


class OursOnRedisAsync(OursAsync):
    """This library on Redis, awaited: each call in a thread, so that the loop goes on."""

    value = OursOnRedis.value

    def __init__(self, place: Place) -> None:
        self._cache = LLMCache(backend=f"redis://127.0.0.1:{place.port}/0", namespace="async")


class LiteLLMOnRedis(LiteLLM):
    """LiteLLM's cache on Redis."""

    name = "litellm, redis"
    value = "JSON text, which is read twice for a hit"
    spares = f"{LiteLLM.spares}; no checksum"

    def __init__(self, place: Place) -> None:
        self._cache = self._made(
            type="redis", host="127.0.0.1", port=str(place.port), max_messages=None, ttl=3600
        )


class CashewsOnRedis(Cashews):
    """cashews on Redis."""

    name = "cashews, redis, async"
    value = "pickle"
    spares = "pickle, which runs what the server says; no checksum, no account of what it saved"

    def __init__(self, place: Place) -> None:
        self._cache = self._made(f"redis://127.0.0.1:{place.port}/1")


class AioCacheOnRedis(AioCache):
    """aiocache on Redis."""

    name = "aiocache, redis, async"
    value = "JSON"
    spares = "no checksum, no account of what it saved"

    def __init__(self, place: Place) -> None:
        from aiocache import RedisCache

        self._cache = RedisCache(endpoint="127.0.0.1", port=place.port, namespace="aiocache")

    def close(self) -> None:
        LOOP.run_until_complete(self._cache.close())


ALL: tuple[type[Contestant], ...] = (
    OursOnRedis,
    OursOnRedisAsync,
    OnRedis,
    LiteLLMOnRedis,
    CashewsOnRedis,
    AioCacheOnRedis,
    Floor,
)
