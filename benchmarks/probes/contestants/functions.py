"""Caches of functions around one that calls the provider, as their documentation decorates one; and
what such contestants share."""

import asyncio
import functools
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.probes.contestant import Cannot, Looped, Peer
from benchmarks.probes.provider import complete, stream

__all__ = [
    "AioCache",
    "CacheTools",
    "Cashews",
    "DiskCache",
    "FunctionPeer",
    "completion",
    "of_function",
]


class FunctionPeer(Peer):
    """A cache around ``complete(**request)``. The API key is not an argument of that function: it
    belongs to its client."""

    _exits = False

    def exiting(self) -> None:
        """The next call exits the thread that makes it, with the answer in hand."""
        self._exits = True

    def call(self, **request: Any) -> dict[str, Any]:
        exits, self._exits = self._exits, False
        answer = complete(**{"base_url": self.base_url, **request})
        if exits:
            raise SystemExit
        return answer

    async def acall(self, **request: Any) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, functools.partial(self.call, **request)
        )

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """The provider's, who has one for each call: a cache may have the event loop's own full of
        those who wait."""
        return ThreadPoolExecutor(64)

    def pieces(self, **request: Any) -> Iterator[str]:
        return stream(**{"base_url": self.base_url, **request})


def of_function(request: dict[str, Any]) -> dict[str, Any]:
    """*request*, if it holds arguments of the function only."""
    for name in ("api_key", "timeout"):
        if name in request:
            raise Cannot("which arguments count is for the caller to say")
    return request


def completion(texts: list[str]) -> dict[str, Any]:
    """A completion with *texts*, as the provider would send it."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": choices,
    }


class DiskCache(FunctionPeer):
    name = "diskcache"
    configured = "`@cache.memoize()` of `Cache(folder)`; `size_limit` for the bound"
    general = True
    shared = "file"
    weighs = expires = True
    packages = ("diskcache",)

    def prepare(self) -> None:
        import diskcache

        limits = {} if self.max_bytes is None else {"size_limit": self.max_bytes}
        self.cache = diskcache.Cache(str(self.folder / "diskcache"), **limits)
        self.wrapped = self.cache.memoize(name="complete", expire=self.ttl)(self.call)
        self.streamed = self.cache.memoize(name="stream", expire=self.ttl)(self.pieces)

    def ask(self, **request: Any) -> Any:
        return self.wrapped(**of_function(request))

    def stream(self, **request: Any) -> Iterator[str]:
        try:
            return iter(self.streamed(**request))
        except TypeError as exc:
            raise Cannot("takes no generator functions") from exc

    def replace(self, texts: list[str], **request: Any) -> None:
        self.cache.set(self.wrapped.__cache_key__(**request), completion(texts), expire=self.ttl)

    def close(self) -> None:
        self.cache.close()


class CacheTools(FunctionPeer):
    name = "cachetools"
    configured = (
        "`@cached(TTLCache(...), key=..., condition=Condition())`; the key is our JSON, for dicts"
        " have none of its own"
    )
    general = True
    keyed = False
    bounded = expires = True
    packages = ("cachetools",)

    def prepare(self) -> None:
        import cachetools

        size = self.max_size or 1_000
        self.cache: Any = (
            cachetools.LRUCache(size) if self.ttl is None else cachetools.TTLCache(size, self.ttl)
        )
        self.lock = threading.Condition()
        self.wrapped = cachetools.cached(self.cache, key=self._key, condition=self.lock)(self.call)
        self.streamed = cachetools.cached(
            cachetools.LRUCache(size), key=self._key, condition=threading.Condition()
        )(self.pieces)

    @staticmethod
    def _key(**request: Any) -> str:
        return json.dumps(request, sort_keys=True)

    def ask(self, **request: Any) -> Any:
        return self.wrapped(**request)

    def stream(self, **request: Any) -> Iterator[str]:
        return iter(self.streamed(**request))

    def replace(self, texts: list[str], **request: Any) -> None:
        with self.lock:
            self.cache[self._key(**request)] = completion(texts)


class Cashews(Looped, FunctionPeer):
    name = "cashews"
    configured = '`Cache()` with `setup("mem://")`, `@cache(ttl=...)`, its default key'
    general = True
    bounded = expires = True
    packages = ("cashews",)

    def prepare(self) -> None:
        import cashews

        self.cache = cashews.Cache()
        self.cache.setup("mem://", **({} if self.max_size is None else {"size": self.max_size}))

        @self.cache(ttl=self.ttl or "1h")
        async def complete_(**request: Any) -> dict[str, Any]:
            return await self.acall(**request)

        @self.cache.iterator(ttl=self.ttl or "1h")
        async def stream_(**request: Any) -> Any:
            for piece in await asyncio.to_thread(lambda: list(self.pieces(**request))):
                yield piece

        self.wrapped, self.streamed = complete_, stream_

    async def aask(self, **request: Any) -> Any:
        return await self.wrapped(**of_function(request))

    def astream(self, **request: Any) -> AsyncGenerator[str]:
        return self.streamed(**request)

    def close(self) -> None:
        self.bench.run(self.cache.close())


class AioCache(Looped, FunctionPeer):
    name = "aiocache"
    configured = "`@cached_stampede(lease=10, ttl=...)` in memory, its default key"
    general = True
    expires = True
    packages = ("aiocache",)

    def prepare(self) -> None:
        import aiocache

        async def complete_(**request: Any) -> dict[str, Any]:
            return await self.acall(**request)

        self.wrapped = aiocache.cached_stampede(lease=10, ttl=self.ttl)(complete_)

    async def aask(self, **request: Any) -> Any:
        return await self.wrapped(**of_function(request))
