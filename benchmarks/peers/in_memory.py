"""Caches in memory: libraries for LLM calls, libraries for anything with the published key in
front, and what one would write oneself."""

import copy
import functools
import hashlib
import json
import os
import threading
from typing import Any

from benchmarks.peers.contestant import LOOP, OURS, Contestant, Place
from benchmarks.peers.langchain_caches import InMemory as LangChainInMemory
from benchmarks.workload import Published, key_of
from llm_cache_mem import LLMCache

__all__ = ["ALL", "Keyed", "Ours", "OursAsync"]

PUBLISHED_KEY = "published: json.dumps, SHA-256"
NOTHING_BUT = "no check that the request has one wire form, no codec, no account of what it saved"
SHARED = "the stored object itself, to every caller the same"


class Floor(Contestant):
    """SHA-256 of bytes that somebody else made, and a dict."""

    name = "floor: SHA-256 of ready bytes, dict"
    key = "none: the request is ready bytes"
    value = SHARED
    reference = True

    def __init__(self, place: Place) -> None:
        self._entries: dict[str, Any] = {}

    def asked(self, request: dict[str, Any]) -> bytes:
        return json.dumps(request, sort_keys=True).encode()

    def get(self, asked: bytes) -> Any:
        return self._entries.get(hashlib.sha256(asked).hexdigest())

    def put(self, asked: bytes, answer: Any) -> None:
        self._entries[hashlib.sha256(asked).hexdigest()] = answer


class Ours(Contestant):
    """This library."""

    name = OURS
    package = "llm-cache-mem"
    key = "its own: the published key, remembered"
    value = "bytes; a new object for each hit"

    def __init__(self, place: Place) -> None:
        self._cache = LLMCache(max_size=place.entries)

    def get(self, asked: dict[str, Any]) -> Any:
        return self._cache.get(**asked)

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        self._cache.put(value=answer, **asked)

    def close(self) -> None:
        self._cache.close()


class OursAsync(Ours):
    """This library, awaited."""

    name = f"{OURS}, async"
    asynchronous = True

    async def get(self, asked: dict[str, Any]) -> Any:
        return await self._cache.aget(**asked)

    async def put(self, asked: dict[str, Any], answer: Any) -> None:
        await self._cache.aput(value=answer, **asked)

    async def miss(self, asked: Any, answer: Any) -> None:
        await self.get(asked)
        await self.put(asked, answer)


class PublishedAlgorithm(Contestant):
    """The published algorithm, in forty lines."""

    name = "published algorithm"
    key = PUBLISHED_KEY
    value = SHARED
    spares = f"{NOTHING_BUT}; it hands out the stored object itself"

    def __init__(self, place: Place) -> None:
        self._cache = Published(max_size=place.entries)

    def get(self, asked: dict[str, Any]) -> Any:
        return self._cache.get(**asked)

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        self._cache.put(value=answer, **asked)


class LruCache(Contestant):
    """functools.lru_cache around the call, of a tuple made from the request."""

    name = "functools.lru_cache"
    key = "a tuple made of the request; 1, 1.0 and True are one key"
    value = SHARED
    spares = (
        "no JSON and no hash but a tuple in which 1, 1.0 and True are equal, no time to live; it"
        " hands out the stored object itself"
    )

    def __init__(self, place: Place) -> None:
        self._answer: Any = None
        self._call = functools.lru_cache(place.entries)(self._called)

    def _called(self, frozen: Any) -> Any:
        if self._answer is None:
            raise LookupError  # so that nothing is kept
        return self._answer

    def get(self, asked: dict[str, Any]) -> Any:
        try:
            return self._call(_frozen(asked))
        except LookupError:
            return None

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        self._answer = answer
        self._call(_frozen(asked))
        self._answer = None

    def miss(self, asked: dict[str, Any], answer: Any) -> None:
        self.put(asked, answer)  # a call is the look and the keeping at once


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple([(name, _frozen(part)) for name, part in sorted(value.items())])
    if isinstance(value, list):
        return tuple([_frozen(part) for part in value])
    return value


class Keyed(Contestant):
    """A library for values under names: its user builds the published key, and copies if the
    library does not."""

    key = PUBLISHED_KEY


class CacheTools(Keyed):
    """cachetools as its manual shows it: a TTLCache and a lock."""

    name = "cachetools"
    package = "cachetools"
    value = SHARED
    spares = PublishedAlgorithm.spares

    def __init__(self, place: Place) -> None:
        from cachetools import TTLCache

        self._cache: Any = TTLCache(place.entries, 3600)
        self._lock = threading.Lock()

    def get(self, asked: dict[str, Any]) -> Any:
        name = key_of(asked)
        with self._lock:
            return self._cache.get(name)

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        name = key_of(asked)
        with self._lock:
            self._cache[name] = answer


class CacheToolsCopied(CacheTools):
    """cachetools, with the copies that keep callers apart."""

    name = "cachetools + deepcopy"
    value = "deepcopy on the way in and out"
    spares = NOTHING_BUT

    def get(self, asked: dict[str, Any]) -> Any:
        return copy.deepcopy(super().get(asked))

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        super().put(asked, copy.deepcopy(answer))


class DSPy(Contestant):
    """DSPy's cache, in memory."""

    name = "dspy, memory"
    package = "dspy"
    key = "its own: orjson, SHA-256"
    value = "keeps the caller's object; deepcopy for each hit"
    spares = (
        "orjson, written in Rust, makes the key; it keeps the caller's own object; no check of the"
        " request, no account of what it saved"
    )

    def __init__(self, place: Place) -> None:
        from dspy.clients.cache import Cache

        self._cache = Cache(
            enable_disk_cache=False,
            enable_memory_cache=True,
            disk_cache_dir="",
            disk_size_limit_bytes=0,
            memory_max_entries=place.entries,
        )

    def get(self, asked: dict[str, Any]) -> Any:
        return self._cache.get(asked)

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        self._cache.put(asked, answer)


class LiteLLM(Contestant):
    """LiteLLM's cache in memory. max_messages=None: by its default it leaves conversations of more
    than four messages uncached."""

    name = "litellm, local"
    package = "litellm"
    key = "its own: str of the parameters, SHA-256"
    value = "JSON text, made for each put and read for each hit, as its completion() does"
    spares = (
        "no canonical form of the request: its key depends on the order of its parts; no account of"
        " what it saved"
    )

    def __init__(self, place: Place) -> None:
        cache = self._made(type="local", max_messages=None)
        from litellm.caching.in_memory_cache import InMemoryCache

        cache.cache = InMemoryCache(max_size_in_memory=place.entries)  # 200 by default
        self._cache = cache

    @staticmethod
    def _made(**settings: Any) -> Any:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices when imported
        from litellm.caching.caching import Cache

        return Cache(**settings)

    def get(self, asked: dict[str, Any]) -> Any:
        return self._cache.get_cache(**asked)

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        self._cache.add_cache(json.dumps(answer), **asked)


class GPTCache(Contestant):
    """GPTCache's exact map. Its default key is the last message's text alone; here it gets the
    whole request, as JSON."""

    name = "gptcache, exact map"
    package = "gptcache"
    key = "the whole request by json.dumps, as the map's key"
    value = "JSON text, made for each put and read for each hit"
    spares = (
        "no hash of the key, no check of the request, no time to live, no account of what it saved"
    )

    def __init__(self, place: Place) -> None:
        from gptcache.manager import get_data_manager

        self._manager = get_data_manager(
            data_path=str(place.folder / "map"), max_size=place.entries
        )

    def get(self, asked: dict[str, Any]) -> Any:
        found = self._manager.search(json.dumps(asked, sort_keys=True))
        return json.loads(found[0][1]) if found else None

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        text = json.dumps(asked, sort_keys=True)
        self._manager.save(text, json.dumps(answer), text)


class Cashews(Keyed):
    """cashews in memory, which is for asyncio only."""

    name = "cashews, memory, async"
    package = "cashews"
    value = SHARED
    spares = PublishedAlgorithm.spares
    asynchronous = True

    def __init__(self, place: Place) -> None:
        self._cache = self._made(f"mem://?size={place.entries}")

    @staticmethod
    def _made(url: str, **settings: Any) -> Any:
        from cashews import Cache

        cache = Cache()
        cache.setup(url, **settings)
        LOOP.run_until_complete(cache.init())
        return cache

    async def get(self, asked: dict[str, Any]) -> Any:
        return await self._cache.get(key_of(asked))

    async def put(self, asked: dict[str, Any], answer: Any) -> None:
        await self._cache.set(key_of(asked), answer, expire=3600)

    async def miss(self, asked: Any, answer: Any) -> None:
        await self.get(asked)
        await self.put(asked, answer)

    def close(self) -> None:
        LOOP.run_until_complete(self._cache.close())


class AioCache(Keyed):
    """aiocache in memory, which is for asyncio only and has no bound on its size."""

    name = "aiocache, memory, async"
    package = "aiocache"
    value = SHARED
    spares = f"no bound on its size; {PublishedAlgorithm.spares}"
    asynchronous = True

    def __init__(self, place: Place) -> None:
        from aiocache import SimpleMemoryCache

        self._cache: Any = SimpleMemoryCache()

    async def get(self, asked: dict[str, Any]) -> Any:
        return await self._cache.get(key_of(asked))

    async def put(self, asked: dict[str, Any], answer: Any) -> None:
        await self._cache.set(key_of(asked), answer, ttl=3600)

    async def miss(self, asked: Any, answer: Any) -> None:
        await self.get(asked)
        await self.put(asked, answer)

    def close(self) -> None:
        LOOP.run_until_complete(self._cache.clear())
        LOOP.run_until_complete(self._cache.close())


class AioCachePickled(AioCache):
    """aiocache in memory, with the serializer that keeps callers apart."""

    name = "aiocache + pickle, memory, async"
    value = "pickle on the way in and out"
    spares = f"no bound on its size; {NOTHING_BUT}"

    def __init__(self, place: Place) -> None:
        from aiocache import SimpleMemoryCache
        from aiocache.serializers import PickleSerializer

        self._cache = SimpleMemoryCache(serializer=PickleSerializer())


ALL: tuple[type[Contestant], ...] = (
    Ours,
    OursAsync,
    PublishedAlgorithm,
    LruCache,
    CacheTools,
    CacheToolsCopied,
    DSPy,
    LiteLLM,
    GPTCache,
    LangChainInMemory,
    Cashews,
    AioCache,
    AioCachePickled,
    Floor,
)
