"""Waiting for a connection: in order of arrival, for as long as connections come back, and never a
failure of the store."""

import gc
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import entry_of, value_of
from threads import start, until

from llm_cache_mem import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.stores.pool import _Waiter
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.stores.sqlite.file import Connection
from llm_cache_mem.stores.sqlite.pool import Pool

KEYS = 1_000  # more than are kept decoded
CROWDS = [
    (32, 50_000),
    (64, 50_000),
    (256, 50_000),
    pytest.param(256, 1_000_000, marks=pytest.mark.slow),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def pool_of(limit: int, *, timeout: float = 60) -> Pool:
    return Pool(
        lambda: Connection(":memory:", check_same_thread=False),
        lambda db: False,
        limit=limit,
        timeout=timeout,
    )


def waiting(pool: Pool) -> int:
    return len(pool._waiters)


@pytest.mark.parametrize(("threads", "hits"), CROWDS)
def test_hits_of_many_threads_are_never_lost(path: Path, threads: int, hits: int) -> None:
    with LLMCache(backend=SQLiteStore(path), ttl_seconds=None) as cache:
        for number in range(KEYS):
            cache.put(str(number), [number, "x" * 1000])
        lost: list[int] = []

        def ask(thread: int) -> None:
            picks = random.Random(thread)
            for _ in range(thread, hits, threads):
                number = picks.randrange(KEYS)
                if cache.get(str(number)) is None:
                    lost.append(number)

        asking = [threading.Thread(target=ask, args=(thread,)) for thread in range(threads)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        stats = cache.stats()
    assert lost == []
    assert (stats.hits, stats.misses, stats.errors) == (hits, 0, 0)


def test_connections_are_handed_over_in_order_of_arrival() -> None:
    pool = pool_of(1)
    db, order = pool.acquire(), []

    def use(name: str) -> None:
        mine = pool.acquire()
        order.append(name)
        pool.release(mine)

    first = start(lambda: use("first"))
    until(lambda: waiting(pool) == 1)
    second = start(lambda: use("second"))
    until(lambda: waiting(pool) == 2)
    pool.release(db)
    use("the one that gave it back")
    first.result(60)
    second.result(60)
    assert order == ["first", "second", "the one that gave it back"]
    assert waiting(pool) == 0


def test_a_wait_lasts_as_long_as_connections_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(1)
    expired: list[_Waiter] = []

    def wait(waiter: _Waiter, seconds: float) -> bool:
        """Whether *waiter* was woken before another one was served, which is all of its time."""
        served = pool._served
        while not waiter._woken.acquire(timeout=0.001):
            if pool._served > served:
                expired.append(waiter)
                return False
        return True

    monkeypatch.setattr(_Waiter, "wait", wait)
    db = pool.acquire()
    futures = []
    for number in range(8):
        futures.append(
            start(lambda: (mine := pool.acquire(), time.sleep(0.01), pool.release(mine)))
        )
        until(lambda number=number: waiting(pool) == number + 1)
    pool.release(db)
    for future in futures:
        future.result(60)
    assert expired


def test_a_wait_in_vain_is_no_failure_of_the_store(path: Path) -> None:
    store = SQLiteStore(path, lock_timeout=0.01)
    with LLMCache(backend=store) as cache:
        cache.put("q", "answer")
        lent = [store._access.pool.acquire() for _ in range(16)]
        for _ in range(5):
            assert cache.get("q") is None
        for db in lent:
            store._access.pool.release(db)
        assert cache.get("q") == "answer"
    with pytest.raises(NotAsked, match="no connection came free"):
        pool_of(0, timeout=0.01).acquire()


def test_waiting_writers_leave_connections_to_readers(path: Path) -> None:
    store = SQLiteStore(path, lock_timeout=60)
    store.put("k", entry_of(1))
    with store._file.lock.hold():
        puts = [
            start(lambda number=number: store.put(f"k{number}", entry_of(number)))
            for number in range(32)
        ]
        until(lambda: len(store._access._writing._queue) == 32)
        for _ in range(100):
            assert value_of(store.get("k")) == 1
        assert store._access.pool.size <= 2
    for put in puts:
        put.result(60)
    assert store.size() == 33
    store.close()


def test_a_writer_waits_no_longer_than_its_timeout_in_all(path: Path) -> None:
    store = SQLiteStore(path, lock_timeout=0.05)
    store.put("k", entry_of(1))
    place = store._access._writing.acquire(0)
    assert place is not None
    with pytest.raises(StoreError, match="the write lock is held elsewhere"):
        store.put("k", entry_of(2))
    store._access._writing.release(place)
    store.close()


def test_a_connection_that_was_lost_frees_its_place() -> None:
    pool = pool_of(1)
    db: Any = pool.acquire()
    db.close()
    del db
    gc.collect()
    pool.release(pool.acquire())


def test_a_failed_connection_frees_its_place() -> None:
    pool = pool_of(1)
    db = pool.acquire()
    waiter = start(pool.acquire)
    until(lambda: waiting(pool) == 1)
    pool.discard(db)
    assert waiter.result(60) is not db


def test_closing_ends_every_wait() -> None:
    pool = pool_of(1)
    pool.acquire()
    waiters = [start(pool.acquire) for _ in range(3)]
    until(lambda: waiting(pool) == 3)
    pool.close()
    for waiter in waiters:
        assert "the store is closed" in str(waiter.exception(60))
