"""Hits on a SQLite file against diskcache and LangChain's SQLiteCache, and how a get grows with the number of entries."""

import json
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Variant, compare, show
from benchmarks.workload import VALUE, fresh, key_of, request
from llm_cache_mem import LLMCache

__all__ = ["growth", "hits"]


def hits() -> None:
    """A hit on M among 1,000 entries: key, read, and a value that is the caller's own, for everyone."""
    with tempfile.TemporaryDirectory() as folder:
        stored = [request("M", number) for number in range(1000)]
        results = {}
        getters = [*_ours(folder, stored), *_diskcache(folder, stored), *_langchain(folder, stored)]
        variants = [Variant(name, lambda get=get: [lambda q=q: get(q) for q in fresh(stored[7], 60)]) for name, get in getters]
        for base in variants[1:]:
            limit = 0.5 if base.name.startswith("diskcache") else 0.05
            results[base.name] = compare([base, variants[0]])
            show(f"hit on SQLite, M, against {base.name}", results[base.name], limit)


def growth() -> None:
    """A get of a known request among a thousand entries and among a million."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("memory", "sqlite"):
            variants = []
            for size in (1_000, 1_000_000):
                backend = "memory" if name == "memory" else Path(folder, f"{size}.db")
                cache = LLMCache(max_size=None, ttl_seconds=None, backend=backend)
                for number in range(size):
                    cache.put(str(number), number)
                variants.append(Variant("llm-cache-mem" if size > 1000 else "among 1,000", _random_gets(cache, size)))
            show(f"get among a million entries against a thousand, {name}", compare(variants, rounds=11), 3.0)


def _random_gets(cache: LLMCache, size: int) -> Callable[[], list[Callable[[], object]]]:
    rng = random.Random(7)
    return lambda: [lambda q=str(rng.randrange(size)): cache.get(q) for _ in range(500)]


Getter = tuple[str, Callable[[dict[str, Any]], Any]]


def _ours(folder: str, stored: list[dict[str, Any]]) -> Iterator[Getter]:
    cache = LLMCache(max_size=10_000, backend=Path(folder, "ours.db"))
    for asked in stored:
        cache.put(value=VALUE, **asked)
    yield "llm-cache-mem", lambda q: cache.get(**q)


def _diskcache(folder: str, stored: list[dict[str, Any]]) -> Iterator[Getter]:
    try:
        import diskcache
    except ImportError:
        print("  not installed: diskcache")
        return
    cache = diskcache.Cache(str(Path(folder, "diskcache")))
    for asked in stored:
        cache.set(key_of(asked), VALUE, expire=3600)
    yield "diskcache + the same key", lambda q: cache.get(key_of(q))


def _langchain(folder: str, stored: list[dict[str, Any]]) -> Iterator[Getter]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from langchain_community.cache import SQLiteCache
            from langchain_core.load import dumps
            from langchain_core.messages import AIMessage, HumanMessage
            from langchain_core.outputs import ChatGeneration
    except ImportError:
        print("  not installed: langchain-community")
        return
    cache = SQLiteCache(str(Path(folder, "langchain.db")))
    answer = [ChatGeneration(message=AIMessage(content=json.dumps(VALUE)))]

    def prompt(q: dict[str, Any]) -> tuple[str, str]:
        return dumps([HumanMessage(content=message["content"]) for message in q["messages"]]), str(
            sorted((k, v) for k, v in q.items() if k != "messages")
        )

    for asked in stored:
        cache.update(*prompt(asked), answer)

    def get(q: dict[str, Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cache.lookup(*prompt(q))

    yield "LangChain's SQLiteCache", get
