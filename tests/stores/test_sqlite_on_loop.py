"""Hits of async callers on SQLite: read on the event loop where that takes microseconds, else in a
thread."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from stores.conformance import entry_of, value_of

from llm_cache_mem import LLMCache
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.sqlite import SQLiteStore, reader
from llm_cache_mem.stores.tiered import TieredStore

OpenStore = Callable[..., SQLiteStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    opened: list[SQLiteStore] = []

    def make(**options: Any) -> SQLiteStore:
        opened.append(SQLiteStore(tmp_path / "cache.db", **options))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def aget(cache: LLMCache, times: int = 1) -> list[Any]:
    async def ask() -> list[Any]:
        return [await cache.aget("q", model="m") for _ in range(times)]

    return asyncio.run(ask())


def test_hit_is_read_on_the_loop(open_store: OpenStore, threads: list[object]) -> None:
    cache = LLMCache(backend=open_store())
    cache.put("q", "answer", model="m")
    assert aget(cache, 3) == ["answer"] * 3
    assert threads == []
    assert cache.stats().hits == 3


def test_behind_memory_too(open_store: OpenStore, threads: list[object]) -> None:
    cache = LLMCache(backend=TieredStore(MemoryStore(), open_store()))
    cache.put("q", "answer", model="m")
    assert aget(cache) == ["answer"]
    assert threads == []


def test_miss_is_counted_once_and_found_in_a_thread(
    open_store: OpenStore, threads: list[object]
) -> None:
    cache = LLMCache(backend=open_store())
    assert aget(cache) == [None]
    assert len(threads) == 1
    assert cache.stats().misses == 1


def test_stale_entry_is_removed_in_a_thread(
    open_store: OpenStore, threads: list[object], clock: Any
) -> None:
    cache = LLMCache(backend=open_store(), ttl_seconds=10, clock=clock)
    cache.put("q", "answer", model="m")
    clock.advance(11)
    assert aget(cache) == [None]
    assert len(threads) == 1
    stats = cache.stats()
    assert (stats.misses, stats.expirations, stats.size) == (1, 1, 0)


def test_switch_sends_every_read_to_a_thread(open_store: OpenStore, threads: list[object]) -> None:
    cache = LLMCache(backend=open_store(read_on_loop=False))
    cache.put("q", "answer", model="m")
    assert aget(cache, 2) == ["answer"] * 2
    assert len(threads) == 2


def test_blockbuster_sends_every_read_to_a_thread(
    open_store: OpenStore, threads: list[object]
) -> None:
    cache = LLMCache(backend=open_store())
    cache.put("q", "answer", model="m")
    with blockbuster_ctx():
        assert aget(cache, 3) == ["answer"] * 3
    assert len(threads) == 3
    stats = cache.stats()
    assert (stats.hits, stats.errors) == (3, 0)


def test_fault_found_on_the_loop_is_left_to_a_thread(
    open_store: OpenStore, threads: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    cache = LLMCache(backend=store)
    cache.put("q", "answer", model="m")

    def fail(db: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(store._reader, "_mark", lambda key: None)  # else one read is enough
    monkeypatch.setattr(store._access.pool, "_moved", fail)
    store._access.pool._idle[0].checked = 0.0
    assert aget(cache, 1) == ["answer"]
    assert len(threads) == 1


def test_slow_reads_are_made_elsewhere_for_a_while(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, taken = 1000.0, 0.0

    def timer() -> float:
        nonlocal now
        now += taken
        return now

    monkeypatch.setattr(reader, "monotonic", timer)
    store = open_store()
    monkeypatch.setattr(store._reader, "_mark", lambda key: None)  # else one read is enough
    store.put("k", entry_of(1))
    taken = 0.004
    assert [store.glance("k") is not None for _ in range(3)] == [True, True, False]
    taken = 0.0
    now += 0.07
    assert store.glance("k") is None
    now += 0.01
    assert value_of(store.glance("k")) == 1


def test_large_entry_and_busy_pool_are_left_to_a_thread(open_store: OpenStore) -> None:
    store = open_store()
    store.put("small", entry_of(1))
    store.put("large", entry_of("x" * 300_000))
    assert store.glance("large") is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._access.pool, "acquire_idle", lambda: None)
        assert store.glance("small") is None
    assert value_of(store.glance("small")) == 1


def test_uses_on_the_loop_are_written_by_a_later_read(open_store: OpenStore) -> None:
    """A glance writes nothing; when uses are due, it says nothing, and one ``get`` writes them."""
    store = open_store()
    store.put("k", entry_of(1))
    store._uses._due_at = 0
    assert store.glance("k") is None
    assert store._touches._flush_next
    assert value_of(store.glance("k")) == 1
    store.get("k")
    assert not store._touches._flush_next
