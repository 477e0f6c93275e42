"""A pool of connections: first come, first served, none used again after a failure, none lost."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from stores.processes import in_child
from stores.servers import until

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.stores.pool import Pool
from llm_cache_mem.stores.redis import RedisStore


class Connection:
    def __init__(self) -> None:
        self.usable = True
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Made(list[Connection]):
    """Makes connections, and lists them."""

    def __call__(self) -> Connection:
        self.append(Connection())
        return self[-1]


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def make(made: Made) -> Callable[..., Pool[Connection]]:
    def make(limit: int = 1, timeout: float = 60) -> Pool[Connection]:
        return Pool(
            made,
            is_usable=lambda connection: connection.usable,
            close=Connection.close,
            limit=limit,
            timeout=timeout,
            store="TestStore",
        )

    return make


def same(connection: Connection) -> Connection:
    return connection


def fail(connection: Connection) -> None:
    raise KeyboardInterrupt


def test_a_connection_is_used_again(make: Any, made: Made) -> None:
    pool = make()
    assert [pool.run(same) for _ in range(3)] == made * 3
    assert len(made) == 1


def test_a_connection_that_is_not_usable_is_replaced(make: Any, made: Made) -> None:
    pool = make()
    pool.run(same).usable = False
    pool.run(same)
    assert [each.closed for each in made] == [True, False]
    assert pool.size == 1


def test_a_connection_whose_work_was_interrupted_is_not_used_again(make: Any, made: Made) -> None:
    pool = make()
    with pytest.raises(KeyboardInterrupt):
        pool.run(fail)
    pool.run(same)
    assert [each.closed for each in made] == [True, False]
    assert pool.size == 1


@pytest.mark.parametrize("where", ["_connect", "_is_usable"])
def test_a_failure_to_lease_leaves_room_for_others(
    make: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(timeout=0.01)

    def broken(*args: Any) -> Any:
        raise OSError("broken")

    for _ in range(3):
        if where == "_is_usable":
            pool.run(same)
        with monkeypatch.context() as patch:
            patch.setattr(pool, where, broken)
            with pytest.raises(OSError, match="broken"):
                pool.run(same)
        assert pool.size == 0
    pool.run(same)


def test_a_pool_timeout_is_no_server_failure(make: Any) -> None:
    pool = make(timeout=0.01)

    def meanwhile(connection: Connection) -> None:
        with pytest.raises(NotAsked, match="no connection came free"):
            pool.run(same)

    pool.run(meanwhile)
    pool.run(same)
    assert not pool._waiters


@pytest.mark.parametrize("discarded", [True, False])
def test_waiters_are_served_in_order(make: Any, discarded: bool) -> None:
    pool = make()
    order: list[int] = []
    release = threading.Event()

    def hold(connection: Connection) -> None:
        assert release.wait(60)
        if discarded:
            raise OSError

    def note(connection: Connection, number: int) -> None:
        order.append(number)
        if discarded:
            raise OSError

    def run(work: Callable[..., None], *args: int) -> None:
        with contextlib.suppress(OSError):
            pool.run(work, *args)

    threads = [threading.Thread(target=run, args=(hold,))]
    threads[0].start()
    until(lambda: pool.size == 1 and not pool._idle, "it is leased")
    for number in range(20):
        threads.append(threading.Thread(target=run, args=(note, number)))
        threads[-1].start()
        until(lambda number=number: len(pool._waiters) == number + 1, "it waits")
    release.set()
    for thread in threads:
        thread.join(60)
    assert order == list(range(20))


def test_no_more_connections_than_the_limit_whatever_happens(make: Any, made: Made) -> None:
    pool = make(limit=3)
    in_use: set[Connection] = set()
    twice: list[Connection] = []

    def work(connection: Connection) -> None:
        if connection in in_use:
            twice.append(connection)
        in_use.add(connection)
        assert pool.size <= 3
        in_use.discard(connection)
        if len(made) < 500 and id(connection) % 3 == 0:
            raise OSError

    def many() -> None:
        for _ in range(300):
            with contextlib.suppress(OSError):
                pool.run(work)

    threads = [threading.Thread(target=many) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert twice == []
    assert pool.size == len(pool._idle) <= 3
    pool.close()
    assert all(each.closed for each in made)


def test_closing_a_pool_fails_its_waiters(make: Any, made: Made) -> None:
    pool = make()
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            pool.run(same)
        except ConnectionError as exc:
            failures.append(exc)

    def meanwhile(connection: Connection) -> None:
        thread.start()
        until(lambda: pool._waiters, "it waits")
        pool.close()

    thread = threading.Thread(target=wait)
    pool.run(meanwhile)
    thread.join(60)
    assert len(failures) == 1
    assert made[0].closed
    with pytest.raises(ConnectionError, match="closed"):
        pool.run(same)


def test_a_forked_child_makes_its_own_connections(make: Any, made: Made) -> None:
    pool = make(timeout=5)
    pool.run(same)
    assert in_child(lambda: pool.run(same) is not made[0] and not made[0].closed)
    assert pool.run(same) is made[0]


@pytest.mark.parametrize("calls", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_256_threads_of_hits_lose_none(redis_url: str, calls: int) -> None:
    store = RedisStore(redis_url, timeout=60, max_connections=8)
    cache = LLMCache(backend=store, coalesce=False)
    for number in range(50):
        cache.put(str(number), number)
    lost: list[int] = []

    def ask(first: int) -> None:
        for number in range(first, first + calls // 256):
            if cache.get(str(number % 50)) != number % 50:
                lost.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(256)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert (lost, stats.errors, stats.misses) == ([], 0, 0)
    assert stats.hits == calls // 256 * 256
    cache.close()


def test_waiting_for_a_connection_is_no_failure_of_the_store(redis_url: str) -> None:
    store = RedisStore(redis_url, max_connections=1)
    pool: Pool[Any] = store._client._pool  # type: ignore[attr-defined]  # a URL's
    with LLMCache(backend=store, coalesce=False) as cache:
        cache.put("q", "a")
        pool._timeout = 0.02

        def meanwhile(connection: Any) -> None:
            for _ in range(5):
                assert cache.get("q") is None

        pool.run(meanwhile)
        assert cache.get("q") == "a"  # the circuit breaker is closed
        assert cache.stats().errors == 5
