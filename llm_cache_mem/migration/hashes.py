"""Caches that store a hash in place of each request: their entries are counted, and can be read
through with the key that they compute, where the answer is no pickle of objects."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from llm_cache_mem.errors import StoreError
from llm_cache_mem.migration.diskcache import DiskCache, value_of
from llm_cache_mem.migration.sources import Skipped

__all__ = ["dspy", "is_redis", "langchain_redis", "litellm"]

_HASH: Final = "only a hash of its request is stored"
_OBJECTS: Final = f"{_HASH}, and its answer is not plain data"
_DIGEST: Final = re.compile(rb"(?:^|[:_])[0-9a-f]{32,64}$")


def litellm(source: str) -> Iterator[Skipped]:
    """The entries of LiteLLM's disk cache in the folder *source*, or in the Redis of that URL."""
    by_key = f"{_HASH}: read through it with its own key, as in the guide for LiteLLM"
    return _in_redis(source, by_key) if is_redis(source) else _on_disk(source, by_key)


def dspy(source: str) -> Iterator[Skipped]:
    """The entries of dspy's cache in the folder *source*."""
    return _on_disk(source, f"{_HASH}: leave dspy's cache on, above this one")


def langchain_redis(source: str) -> Iterator[Skipped]:
    """The entries of LangChain's RedisCache, in the Redis of that URL."""
    return _in_redis(source, f"{_HASH}: read through it with LLMCacheMem(fallback=RedisCache(...))")


def is_redis(source: str) -> bool:
    """Whether *source* is the URL of a Redis."""
    return source.startswith(("redis://", "rediss://", "unix://"))


def _on_disk(folder: str, reason: str) -> Iterator[Skipped]:
    for row in DiskCache(folder).rows():
        try:
            value_of(row)
        except Skipped as exc:
            yield exc if str(exc) == "expired" else Skipped(_OBJECTS)
        else:
            yield Skipped(reason)


def _in_redis(url: str, reason: str) -> Iterator[Skipped]:
    redis: Any = import_module("redis")
    try:
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(count=1000):
                yield Skipped(reason if _DIGEST.search(key) else "not a key of this cache")
    except redis.RedisError as exc:
        raise StoreError("redis", "scan", type(exc).__name__) from None
