"""Hits and misses in memory, by size of request, against the published algorithm and against other libraries' caches."""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.harness import Variant, Work, compare, show
from benchmarks.workload import SIZES, VALUE, Published, fresh, key_of, request
from llm_cache_mem import LLMCache, keys

__all__ = ["first_sight", "hits", "misses", "peers"]

BATCH = {"S": 300, "M": 100, "L": 12}
_numbers = itertools.count()


def hits() -> None:
    """A hit on a request that was asked before and is built anew for each call; every hit of ours is an independent copy."""
    for size, limit in zip(SIZES, (0.9, 0.20, 0.06), strict=True):
        asked = request(size)
        caches: dict[str, Any] = {"published": Published(), "published + deepcopy": Published(copies=True), "llm-cache-mem": LLMCache(500)}
        for cache in caches.values():
            cache.put(value=VALUE, **asked)
        variants = [Variant(name, _gets(cache, lambda: fresh(asked, BATCH[size]))) for name, cache in caches.items()]
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
            keys.forget()
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

        def prepare(cache: Any, new: Callable[[], list[dict[str, Any]]] = new) -> Callable[[], Sequence[Work]]:
            return lambda: [lambda asked=asked: (cache.get(**asked), cache.put(value=VALUE, **asked)) for asked in new()]

        show(f"miss and put, {size}", compare([Variant(name, prepare(cache)) for name, cache in caches.items()]), limit)


def peers() -> None:
    """A hit through other libraries' in-memory caches, each given the same requests, built anew, and the value it expects."""
    for size in SIZES:
        asked = request(size)
        ours = LLMCache(500)
        ours.put(value=VALUE, **asked)
        variants = [Variant("llm-cache-mem", _gets(ours, lambda: fresh(asked, BATCH[size])))]
        for name, get in _peers(asked):
            variants.append(Variant(name, lambda get=get: [lambda q=q: get(q) for q in fresh(asked, BATCH[size])]))
        results = compare(variants)
        show(f"hit against peers, request built anew, {size} (more than 1 is slower than ours)", results)


def _gets(cache: Any, requests: Callable[[], list[dict[str, Any]]]) -> Callable[[], Sequence[Work]]:
    return lambda: [lambda asked=asked: cache.get(**asked) for asked in requests()]


def _peers(asked: dict[str, Any]) -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    """Each peer that is installed, with a hit already in it. A peer that does not answer would be measured as very fast: checked."""
    for make in (_dspy, _litellm, _gptcache, _cachetools):
        try:
            name, get = make(asked)
        except ImportError as exc:
            print(f"  not installed: {make.__name__.strip('_')} ({exc.name})")
            continue
        if not get(json.loads(json.dumps(asked))):
            raise RuntimeError(f"{name} does not answer: its time would mean nothing")
        yield name, get


def _dspy(asked: dict[str, Any]) -> tuple[str, Callable[[dict[str, Any]], Any]]:
    from dspy.clients.cache import Cache

    cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir="", disk_size_limit_bytes=0, memory_max_entries=500)
    cache.put(asked, copy.deepcopy(VALUE))
    return "dspy, memory", cache.get


def _litellm(asked: dict[str, Any]) -> tuple[str, Callable[[dict[str, Any]], Any]]:
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices when imported
    from litellm.caching.caching import Cache

    cache = Cache(type="local", max_messages=None)
    cache.add_cache(json.dumps(VALUE), **asked)
    return "litellm, local (value as text)", lambda q: cache.get_cache(**q)


def _gptcache(asked: dict[str, Any]) -> tuple[str, Callable[[dict[str, Any]], Any]]:
    import tempfile
    from pathlib import Path

    from gptcache.manager import get_data_manager

    manager = get_data_manager(data_path=str(Path(tempfile.mkdtemp(), "map")), max_size=500)
    manager.save(json.dumps(asked, sort_keys=True), json.dumps(VALUE), json.dumps(asked, sort_keys=True))

    def get(q: dict[str, Any]) -> Any:
        found = manager.search(json.dumps(q, sort_keys=True))
        return json.loads(found[0][1]) if found else None

    return "gptcache, exact map", get


def _cachetools(asked: dict[str, Any]) -> tuple[str, Callable[[dict[str, Any]], Any]]:
    import threading

    from cachetools import TTLCache

    cache: Any = TTLCache(500, 3600)
    lock = threading.Lock()
    cache[key_of(asked)] = VALUE

    def get(q: dict[str, Any]) -> Any:
        with lock:
            return copy.deepcopy(cache.get(key_of(q)))

    return "cachetools + the same key + deepcopy", get
