"""Hits and misses in memory, by size of request, against the published algorithm."""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Variant, Work, compare, show
from benchmarks.workload import SIZES, VALUE, Published, fresh, request
from llm_cache_mem import LLMCache
from llm_cache_mem.keys import digest

__all__ = ["BATCH", "first_sight", "hits", "misses"]

BATCH = {"S": 300, "M": 100, "L": 12}
"""How many requests of each size one round is made of."""
_numbers = itertools.count()


def hits() -> None:
    """A hit on a request that was asked before and is built anew for each call; every hit of ours
    is an independent copy."""
    for size, limit in zip(SIZES, (0.9, 0.20, 0.06), strict=True):
        asked = request(size)
        caches: dict[str, Any] = {
            "published": Published(),
            "published + deepcopy": Published(copies=True),
            "llm-cache-mem": LLMCache(500),
        }
        for cache in caches.values():
            cache.put(value=VALUE, **asked)
        variants = [
            Variant(name, _gets(cache, lambda: fresh(asked, BATCH[size])))
            for name, cache in caches.items()
        ]
        show(f"hit, request built anew, {size}", compare(variants), limit)


def first_sight() -> None:
    """A hit on a request that this process has not seen before: nothing remembered of its key."""
    for size, limit in zip(SIZES, (1.2, 1.0, 1.0), strict=True):
        stored = [request(size, next(_numbers)) for _ in range(BATCH[size])]
        caches: dict[str, Any] = {"published": Published(), "llm-cache-mem": LLMCache(500)}
        for cache in caches.values():
            for asked in stored:
                cache.put(value=VALUE, **asked)

        def anew(stored: list[Any] = stored) -> list[dict[str, Any]]:
            digest.forget()
            return [json.loads(json.dumps(asked)) for asked in stored]

        show(
            f"hit, first sight of the request, {size}",
            compare([Variant(name, _gets(cache, anew)) for name, cache in caches.items()]),
            limit,
        )


def misses() -> None:
    """A miss and the put that follows it, every request a new one."""
    for size, limit in zip(SIZES, (1.2, 1.0, 1.0), strict=True):
        caches: dict[str, Any] = {"published": Published(), "llm-cache-mem": LLMCache(500)}

        def new(size: str = size) -> list[dict[str, Any]]:
            return [request(size, next(_numbers)) for _ in range(BATCH[size])]

        def prepare(
            cache: Any, new: Callable[[], list[dict[str, Any]]] = new
        ) -> Callable[[], Sequence[Work]]:
            return lambda: [
                lambda asked=asked: (cache.get(**asked), cache.put(value=VALUE, **asked))
                for asked in new()
            ]

        show(
            f"miss and put, {size}",
            compare([Variant(name, prepare(cache)) for name, cache in caches.items()]),
            limit,
        )


def _gets(cache: Any, requests: Callable[[], list[dict[str, Any]]]) -> Callable[[], Sequence[Work]]:
    return lambda: [lambda asked=asked: cache.get(**asked) for asked in requests()]
