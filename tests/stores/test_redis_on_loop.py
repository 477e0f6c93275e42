"""Reads of tasks from Redis: on their event loop, over one connection for all of them, and in a
thread where that cannot be."""

import asyncio
import contextlib
import random
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import trio
import uvloop
from blockbuster import blockbuster_ctx
from conftest import Clock
from stores.conformance import entry_of, value_of
from stores.history import check_history
from stores.on_loop import StoreOnLoop
from stores.processes import in_child
from stores.proxy import HOLD, Proxy, late
from stores.servers import Server, running_redis, running_tls_redis, until

from llm_cache_mem import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.redis.replies import Replies
from llm_cache_mem.stores.tiered import TieredStore

VALUES = {f"k{number}": number for number in range(20)}


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    with contextlib.closing(RedisStore(redis_url, timeout=20)) as store:
        store.put_many({key: entry_of(value) for key, value in VALUES.items()})
        yield store


@pytest.fixture
def admin(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def read(store: Any, key: str) -> Any:
    return value_of(await store.aget(key))


async def read_all(store: Any) -> None:
    found = await asyncio.gather(*(read(store, key) for key in VALUES))
    assert found == list(VALUES.values())


def connection_of(store: RedisStore) -> Any:
    """The connection of this loop."""
    loops = store._client._loops  # type: ignore[attr-defined]  # a URL's
    return loops._open[asyncio.get_running_loop()]


def connections(admin: Any) -> set[str]:
    return {client["id"] for client in admin.client_list()}


# -- Tasks and their loop


def test_hits_and_misses_need_no_thread(redis_url: str, threads: list[object]) -> None:
    cache = LLMCache(backend=redis_url)
    cache.put("q", "answer")

    async def ask() -> list[Any]:
        return [await cache.aget("q"), await cache.aget("q"), await cache.aget("other")]

    assert asyncio.run(ask()) == ["answer", "answer", None]
    assert threads == []
    assert (cache.stats().hits, cache.stats().misses) == (2, 1)
    cache.close()


def test_stale_and_large_entries_are_left_to_a_thread(
    redis_url: str, threads: list[object], clock: Clock
) -> None:
    cache = LLMCache(backend=RedisStore(redis_url, timeout=20, clock=clock), clock=clock)
    cache.put("stale", "answer")
    clock.advance(4000)
    cache.put("large", "x" * 300_000)

    async def ask() -> None:
        assert await cache.aget("stale") is None
        assert len(threads) == 1
        assert len(await cache.aget("large")) == 300_000
        assert len(threads) == 2

    asyncio.run(ask())
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.expirations, stats.size) == (1, 1, 1, 1)
    cache.close()


def test_memory_in_front_reads_behind_itself_on_the_loop(
    redis_url: str, threads: list[object]
) -> None:
    back = RedisStore(redis_url, timeout=20)
    cache = LLMCache(backend=TieredStore(MemoryStore(), back))
    with LLMCache(backend=redis_url) as other:
        other.put("q", "answer")

    async def ask() -> list[Any]:
        return [await cache.aget("q"), await cache.aget("q")]

    assert asyncio.run(ask()) == ["answer", "answer"]
    back.clear()
    assert cache.get("q") == "answer"
    assert threads == []
    cache.close()


def test_client_of_its_caller_and_trio_use_threads(redis_url: str, threads: list[object]) -> None:
    with redis.Redis.from_url(redis_url) as client, LLMCache(backend=RedisStore(client)) as cache:
        cache.put("q", "answer")
        assert asyncio.run(cache.aget("q")) == "answer"
    assert len(threads) == 1
    with LLMCache(backend=redis_url) as cache:
        assert trio.run(cache.aget, "q") == "answer"
    assert len(threads) == 2


def test_blockbuster_finds_no_blocking_call(store: RedisStore) -> None:
    with blockbuster_ctx():
        asyncio.run(read_all(store))


def test_all_tasks_of_a_loop_share_a_connection(store: RedisStore, admin: Any) -> None:
    before = connections(admin)

    async def many() -> None:
        for _ in range(5):
            await read_all(store)
        assert len(connections(admin) - before) == 1

    asyncio.run(many())


def test_each_loop_has_its_own_connection_until_it_is_closed(store: RedisStore, admin: Any) -> None:
    before = connections(admin)
    for run in (asyncio.run, asyncio.run, uvloop.run):
        run(read_all(store))
    assert len(connections(admin) - before) == 1
    others = [threading.Thread(target=asyncio.run, args=(read_all(store),)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    store.close()
    until(lambda: connections(admin) <= before, "all are closed")


def test_tls_is_read_on_the_loop_too() -> None:
    with running_tls_redis() as (server, certificate):
        url = f"rediss://localhost:{server.tls_port}/0?ssl_ca_certs={certificate}"
        store = RedisStore(url, timeout=20)
        store.put_many({key: entry_of(value) for key, value in VALUES.items()})
        store.put("large", entry_of("x" * 200_000))

        async def many() -> None:
            for _ in range(3):
                await read_all(store)
            assert {len(await read(store, "large")) for _ in range(3)} == {200_000}

        asyncio.run(many())
        uvloop.run(many())
        received = 1 + 1 + 2 + 1  # a look whether it is there, the pool, two loops, and this one
        assert f"total_connections_received:{received}\r" in server.ask("INFO stats")
        store.close()


def test_more_is_asked_than_a_socket_takes_at_once(redis_url: str) -> None:
    store = RedisStore(redis_url, timeout=20)
    store.put("k", entry_of(1))

    async def many() -> None:
        names = [str(number) * 1_000_000 for number in range(10)]
        found = await asyncio.gather(*map(store.aget, names * 3), read(store, "k"))
        assert found == [None] * 30 + [1]

    asyncio.run(many())
    store.close()


@pytest.mark.parametrize("calls", [3_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_tasks_see_a_consistent_history(redis_url: str, calls: int) -> None:
    with contextlib.closing(StoreOnLoop(RedisStore(redis_url, timeout=20))) as store:
        check_history(store, threads=16, calls=calls, rate=200)


def test_forked_child_makes_a_connection_of_its_own(store: RedisStore, admin: Any) -> None:
    async def parent() -> None:
        await read_all(store)
        before = connections(admin)
        await asyncio.to_thread(in_child, lambda: asyncio.run(read_all(store)))
        await read_all(store)
        assert connections(admin) == before

    asyncio.run(parent())


# -- What goes wrong


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_cancelled_tasks_cost_no_connection_and_no_answer(
    redis_server: Server, redis_url: str, rounds: int
) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)

    async def storm(store: RedisStore) -> int:
        cancelled = 0
        for _ in range(rounds):
            keys = rng.choices(list(VALUES), k=8)
            tasks = [asyncio.create_task(read(store, key)) for key in keys]
            await asyncio.sleep(rng.random() * 0.001)
            for task in rng.sample(tasks, 4):
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for key, value in zip(keys, found, strict=True):
                assert value == VALUES[key] or isinstance(value, asyncio.CancelledError)
            cancelled += sum(isinstance(value, asyncio.CancelledError) for value in found)
        return cancelled

    with Proxy(redis_server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", timeout=20)
        store.put_many({key: entry_of(value) for key, value in VALUES.items()})
        proxy.rule = late(0.0005)
        before = proxy.connections
        cancelled = asyncio.run(storm(store))
        print(f"{cancelled} of {rounds * 8} cancelled")
        assert cancelled > rounds
        assert proxy.connections == before + 1
        store.close()


def test_loop_that_is_busy_for_long_loses_nothing(redis_url: str) -> None:
    """It is the loop that is late then, and not the server."""
    store = RedisStore(redis_url, timeout=20)
    store.put("k", entry_of(1))

    async def busy() -> None:
        await read(store, "k")
        connection = connection_of(store)
        connection._timeout = 0.05
        for _ in range(4):
            task = asyncio.create_task(read(store, "k"))
            await asyncio.sleep(0)
            select.select([connection._fd], [], [], 60)  # the server has answered
            threading.Event().wait(0.15)
            assert await task == 1

    asyncio.run(busy())
    uvloop.run(busy())
    store.close()


def test_silent_server_costs_each_task_the_timeout_once(
    redis_server: Server, redis_url: str
) -> None:
    with Proxy(redis_server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", timeout=20)

        async def ask() -> list[Any]:
            await store.aget("k")
            connection_of(store)._timeout = 0.1
            proxy.rule = lambda data, sender: HOLD
            return await asyncio.gather(
                *(store.aget("k") for _ in range(100)), return_exceptions=True
            )

        began = time.monotonic()
        found = asyncio.run(ask())
        assert time.monotonic() - began < 6  # one after the other they would take ten seconds
        assert {type(each) for each in found} == {StoreError}
        assert {each.reason for each in found} == {"TimeoutError"}
        store.close()


def test_damaged_entry_costs_other_tasks_nothing(store: RedisStore, admin: Any) -> None:
    admin.set("llm-cache-mem:damaged", b"no envelope")

    async def ask() -> None:
        found = await asyncio.gather(*(store.aget(key) for key in ("damaged", *VALUES)))
        assert [found[0], *map(value_of, found[1:])] == [None, *VALUES.values()]
        await read_all(store)

    asyncio.run(ask())
    assert not admin.exists("llm-cache-mem:damaged")
    assert store.unreadable == 1


def test_server_that_starts_again_is_used_at_once(redis_url: str) -> None:
    with running_redis() as server:
        cache = LLMCache(backend=RedisStore(server.url, timeout=20))

        async def ask() -> None:
            await cache.aput("q", "answer")
            assert await cache.aget("q") == "answer"
            server.kill()
            await asyncio.to_thread(server.start)
            assert await cache.aget("q") is None
            assert cache.stats().errors == 0

        asyncio.run(ask())
        cache.close()


def test_store_that_is_closed_fails_the_reads_under_way(
    redis_server: Server, redis_url: str
) -> None:
    with Proxy(redis_server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", timeout=20)

        async def ask() -> None:
            await store.aget("k")
            proxy.rule = lambda data, sender: HOLD
            task = asyncio.create_task(store.aget("k"))
            await asyncio.sleep(0)
            await asyncio.to_thread(store.close)
            for late_or_early in (task, store.aget("k")):
                with pytest.raises(StoreError, match="get failed: ConnectionError"):
                    await late_or_early

        asyncio.run(ask())


def test_no_thread_to_connect_with_is_a_miss(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    cache = LLMCache(backend=redis_url)
    cache.put("q", "answer")

    async def ask() -> list[Any]:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            without = await cache.aget("q")
        return [without, await cache.aget("q")]

    assert asyncio.run(ask()) == [None, "answer"]
    assert cache.stats().errors == 1
    assert not cache.engine.backend.circuit_open
    cache.close()


def test_interrupt_while_reading_leaves_no_reply_to_others(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed(self: Replies, data: bytes) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(store.aget, VALUES), return_exceptions=True)

    with asyncio.Runner() as runner:
        runner.run(read_all(store))
        monkeypatch.setattr(Replies, "feed", feed)
        with pytest.raises(KeyboardInterrupt):
            runner.run(ask())
        assert [value_of(each) for each in runner.run(ask())] == list(VALUES.values())


@pytest.mark.parametrize("more", [b"+OK\r\n", b"$", b"$3\r\nlie\r\n"])
def test_connection_on_which_more_arrives_is_not_used_again(more: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    store = RedisStore(f"redis://127.0.0.1:{listener.getsockname()[1]}", timeout=20)

    async def ask() -> None:
        task = asyncio.create_task(store.aget("k"))
        first, _ = await asyncio.to_thread(listener.accept)
        await asyncio.to_thread(first.recv, 65536)
        first.sendall(b"$-1\r\n")
        assert await task is None
        first.sendall(more)
        task = asyncio.create_task(store.aget("k"))
        second, _ = await asyncio.to_thread(listener.accept)
        await asyncio.to_thread(second.recv, 65536)
        second.sendall(b"$-1\r\n" + more)  # right away: neither can be trusted then
        with contextlib.suppress(StoreError):
            assert await task is None
        first.close()
        second.close()

    asyncio.run(ask())
    store.close()
    listener.close()
