"""Async calls where the store cannot be asked from a thread: at a limit of the process, with the
pool of the event loop shut down, under an event loop that is not asyncio's."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem._util.in_thread import NoThread, run_in_thread
from llm_cache_mem.errors import StoreError


async def model(messages: Any, **_: Any) -> str:
    return f"answer to {messages}"


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    with LLMCache(backend=f"sqlite:///{tmp_path}/cache.db") as cache:
        yield cache


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, threads of pools fail to start, as at a limit of the process."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith(("asyncio_", "ThreadPoolExecutor")):
            raise RuntimeError("can't start new thread")
        start(self)

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


async def test_at_a_limit_of_threads_calls_go_on_uncached(
    cache: LLMCache, no_threads: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    no_threads()
    for _ in range(2):
        assert await cache.aget_or_call("q", model) == "answer to q"
    stats = cache.stats()
    assert (stats.misses, stats.stored) == (2, 0)
    assert stats.errors >= 4
    assert caplog.text.count("no thread could be started") == 1


async def test_answer_survives_a_pool_shutdown(
    cache: LLMCache,
) -> None:
    async def closing(messages: Any) -> str:
        await asyncio.get_running_loop().shutdown_default_executor()
        return await model(messages)

    assert await cache.aget_or_call("q", closing) == "answer to q"
    assert cache.stats().errors > 0


async def test_call_that_the_pool_drops_was_not_made() -> None:
    pool, busy, made = ThreadPoolExecutor(1), threading.Event(), []
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(busy.wait)
    waiting = asyncio.create_task(run_in_thread(lambda: made.append(1)))
    await asyncio.sleep(0)
    pool.shutdown(wait=False, cancel_futures=True)
    busy.set()
    with pytest.raises(NoThread):
        await waiting
    assert made == []


async def test_cancelled_caller_stays_cancelled() -> None:
    pool, busy = ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(busy.wait)
    waiting = asyncio.create_task(run_in_thread(int))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    busy.set()


async def test_the_calls_own_error_is_raised() -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError):
        await run_in_thread(fail)


async def test_call_that_the_pool_could_not_start_is_not_made_later(
    no_threads: Callable[[], None],
) -> None:
    pool, busy, made = ThreadPoolExecutor(2), threading.Event(), []
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(busy.wait)
    no_threads()
    with pytest.raises(NoThread):
        await run_in_thread(lambda: made.append(1))
    busy.set()
    pool.shutdown()
    assert made == []


async def test_streams_go_on_uncached(cache: LLMCache, no_threads: Callable[[], None]) -> None:
    @cache.cached
    async def words(text: str) -> Any:
        for word in text.split():
            yield word

    no_threads()
    for _ in range(2):
        assert [word async for word in words("a b")] == ["a", "b"]
    assert cache.stats().stored == 0


async def test_fleet_calls_without_a_lease(tmp_path: Path, no_threads: Callable[[], None]) -> None:
    with LLMCache(backend=f"sqlite:///{tmp_path}/cache.db", coalesce="fleet") as cache:
        no_threads()
        assert await cache.aget_or_call("q", model) == "answer to q"


async def test_delete_that_cannot_be_made_is_an_error(
    cache: LLMCache, no_threads: Callable[[], None]
) -> None:
    cache.put("q", "a")
    no_threads()
    with pytest.raises(StoreError, match="no thread"):
        await cache.adelete("q")
    assert (await cache.astats()).stored == 1
    assert cache.get("q") == "a"


async def test_replay_without_a_thread_raises(
    cache: LLMCache, no_threads: Callable[[], None]
) -> None:
    from llm_cache_mem import options

    no_threads()
    with options(mode="replay"), pytest.raises(StoreError, match="no thread"):
        await cache.aget_or_call("q", model)


async def test_cache_opens_without_a_thread(tmp_path: Path, no_threads: Callable[[], None]) -> None:
    no_threads()
    (await LLMCache.open(backend=f"sqlite:///{tmp_path}/cache.db")).close()


async def use(cache: LLMCache) -> None:
    """Twice the same call, function and stream."""
    asked = []

    @cache.cached
    async def decorated(text: str) -> str:
        asked.append(text)
        return text.upper()

    @cache.cached
    async def words(text: str) -> Any:
        asked.append(text)
        for word in text.split():
            yield word

    for _ in range(2):
        assert await cache.aget_or_call("q", model) == "answer to q"
        assert await decorated("a") == "A"
        assert [word async for word in words("a b")] == ["a", "b"]
    assert asked == ["a", "a b"]
    assert cache.stats().hits == 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("coalesce", [True, "fleet"])
def test_calls_are_cached_under_anyio(
    backend: str, store: str, coalesce: Any, tmp_path: Path
) -> None:
    if backend == "trio":
        pytest.importorskip("trio")
    url = "memory" if store == "memory" else f"sqlite:///{tmp_path}/cache.db"
    with LLMCache(backend=url, coalesce=coalesce) as cache:
        anyio.run(use, cache, backend=backend)


def test_under_any_other_loop_calls_go_on_uncached(cache: LLMCache) -> None:
    def drive(coroutine: Coroutine[Any, Any, str]) -> str:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError("it waits for something that only asyncio has")

    assert drive(cache.aget_or_call("q", model)) == "answer to q"
    assert cache.stats().errors > 0
