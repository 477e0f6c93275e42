"""Identical streams share one call in progress: threads and tasks, in all that can happen to one."""

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from threads import WAIT_SECONDS, start, until

from llm_cache_mem import LLMCache, MemoryStore, options

MESSAGES = [{"role": "user", "content": "count"}]


class Provider:
    """Streams *chunks*, counting its calls; each chunk waits until it is let through."""

    def __init__(self, chunks: tuple[Any, ...] = ("a", "b", "c")) -> None:
        self.chunks = chunks
        self.calls = 0
        self.closed = 0
        self.fails_with: dict[str, Exception] = {}
        self.fails_at = 0
        self.gate = threading.Event()
        self.open()

    def open(self) -> None:
        self.gate.set()

    def shut(self) -> None:
        self.gate.clear()

    def create(self, messages: Any, stream: bool, api_key: str = "good", **params: Any) -> Any:
        self.calls += 1
        return self._chunks(api_key)

    def _chunks(self, api_key: str) -> Iterator[Any]:
        try:
            for number, chunk in enumerate(self.chunks):
                assert self.gate.wait(WAIT_SECONDS)
                if number == self.fails_at and api_key in self.fails_with:
                    raise self.fails_with[api_key]
                yield chunk
        finally:
            self.closed += 1

    async def acreate(self, messages: Any, stream: bool, api_key: str = "good") -> Any:
        self.calls += 1
        return self._achunks(api_key)

    async def _achunks(self, api_key: str) -> AsyncIterator[Any]:
        try:
            for number, chunk in enumerate(self.chunks):
                while not self.gate.is_set():
                    await asyncio.sleep(0)
                if number == self.fails_at and api_key in self.fails_with:
                    raise self.fails_with[api_key]
                yield chunk
        finally:
            self.closed += 1


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.open()


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


def opened(cache: LLMCache, provider: Provider, **params: Any) -> Any:
    return cache.get_or_call(MESSAGES, provider.create, stream=True, **params)


async def aopened(cache: LLMCache, provider: Provider, **params: Any) -> Any:
    return await cache.aget_or_call(MESSAGES, provider.acreate, stream=True, **params)


async def aread(cache: LLMCache, provider: Provider, **params: Any) -> list[Any]:
    return [chunk async for chunk in await aopened(cache, provider, **params)]


def test_identical_streams_of_threads_make_one_call(cache: LLMCache, provider: Provider) -> None:
    provider.shut()
    streams = [opened(cache, provider) for _ in range(20)]
    readers = [start(lambda stream=stream: list(stream)) for stream in streams]
    provider.open()
    assert [reader.result(WAIT_SECONDS) for reader in readers] == [["a", "b", "c"]] * 20
    stats = cache.stats()
    assert (provider.calls, stats.stored, stats.coalesced) == (1, 1, 19)
    assert list(opened(cache, provider)) == ["a", "b", "c"]
    assert provider.calls == 1


async def test_identical_streams_of_tasks_make_one_call(
    cache: LLMCache, provider: Provider
) -> None:
    read = await asyncio.gather(*(aread(cache, provider) for _ in range(20)))
    assert read == [["a", "b", "c"]] * 20
    stats = cache.stats()
    assert (provider.calls, stats.stored, stats.coalesced) == (1, 1, 19)


def test_one_thread_reads_two_of_them_in_turn(cache: LLMCache, provider: Provider) -> None:
    first, second = opened(cache, provider), opened(cache, provider)
    assert [next(first), next(second), next(second), next(first)] == ["a", "a", "b", "b"]
    assert (list(first), list(second), provider.calls) == (["c"], ["c"], 1)


def test_each_reader_gets_chunks_of_its_own(cache: LLMCache) -> None:
    provider = Provider(({"n": [1]}, {"n": [2]}))
    first, second = opened(cache, provider), opened(cache, provider)
    for chunk in first:
        chunk["n"].append("changed")
    assert list(second) == [{"n": [1]}, {"n": [2]}]
    assert list(opened(cache, provider)) == [{"n": [1]}, {"n": [2]}]


def test_the_reader_that_is_alone_gets_the_chunks_themselves(cache: LLMCache) -> None:
    chunk = {"n": 1}
    [came] = opened(cache, Provider((chunk,)))
    assert came is chunk


def test_a_reader_that_leaves_does_not_end_the_others(cache: LLMCache, provider: Provider) -> None:
    first, second = opened(cache, provider), opened(cache, provider)
    assert next(first) == "a"
    first.close()
    assert (list(first), list(second)) == ([], ["a", "b", "c"])
    assert cache.stats().stored == 1


@pytest.mark.parametrize("how", ["close", "drop"])
def test_the_last_reader_that_leaves_ends_the_call(
    cache: LLMCache, provider: Provider, how: str
) -> None:
    streams = [opened(cache, provider), opened(cache, provider)]
    assert [next(stream) for stream in streams] == ["a", "a"]
    while streams:
        stream = streams.pop()
        if how == "close":
            stream.close()
        del stream
    gc.collect()
    assert (provider.closed, cache.stats().size) == (1, 0)
    assert list(opened(cache, provider)) == ["a", "b", "c"]
    assert provider.calls == 2


@pytest.mark.parametrize("how", ["close", "drop", "cancel"])
async def test_the_last_task_that_leaves_ends_the_call(
    cache: LLMCache, provider: Provider, how: str
) -> None:
    async def read(stream: Any) -> list[Any]:
        return [chunk async for chunk in stream]

    streams = [await aopened(cache, provider) for _ in range(2)]
    assert [await anext(stream) for stream in streams] == ["a", "a"]
    provider.shut()
    if how == "close":
        for stream in streams:
            await stream.aclose()
    elif how == "cancel":
        readers = [asyncio.create_task(read(stream)) for stream in streams]
        for _ in range(5):
            await asyncio.sleep(0)
        _ = [reader.cancel() for reader in readers]
        await asyncio.wait(readers)
        del readers
    streams.clear()
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (provider.closed, cache.stats().size) == (1, 0)


async def test_a_cancelled_reader_waits_until_the_call_is_closed(cache: LLMCache) -> None:
    steps: list[str] = []

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.sleep(600)
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            steps.append("closed")

    async def create(messages: Any, stream: bool) -> Any:
        return chunks()

    stream = await cache.aget_or_call(MESSAGES, create, stream=True)
    assert await anext(stream) == "a"
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert steps == ["closed"]


async def test_cancelling_the_leader_passes_the_call_to_a_follower(
    cache: LLMCache, provider: Provider
) -> None:
    provider.shut()
    readers = [asyncio.create_task(aread(cache, provider)) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    for reader in readers[:4]:
        reader.cancel()
    await asyncio.wait(readers[:4])
    provider.open()
    assert await readers[4] == ["a", "b", "c"]
    assert (provider.calls, cache.stats().stored) == (1, 1)


def test_callers_alike_share_the_failure_of_the_first_chunk(
    cache: LLMCache, provider: Provider
) -> None:
    provider.fails_with["bad"] = PermissionError("401")
    streams = [opened(cache, provider, api_key="bad") for _ in range(5)]
    errors = []
    for stream in streams:
        with pytest.raises(PermissionError, match="401") as caught:
            list(stream)
        errors.append(caught.value)
    assert provider.calls == 1
    assert len({id(error) for error in errors}) == 5


def test_a_follower_with_another_api_key_makes_its_own_call(
    cache: LLMCache, provider: Provider
) -> None:
    provider.fails_with["bad"] = PermissionError("401")
    bad, *good = [opened(cache, provider, api_key=key) for key in ("bad", "good", "good", "good")]
    with pytest.raises(PermissionError):
        list(bad)
    assert [list(stream) for stream in good] == [["a", "b", "c"]] * 3
    assert (provider.calls, cache.stats().stored) == (2, 1)


async def test_a_task_with_another_api_key_makes_its_own_call(
    cache: LLMCache, provider: Provider
) -> None:
    provider.fails_with["bad"] = PermissionError("401")
    bad, *good = await asyncio.gather(
        *(aread(cache, provider, api_key=key) for key in ("bad", "good", "good", "good")),
        return_exceptions=True,
    )
    assert isinstance(bad, PermissionError)
    assert good == [["a", "b", "c"]] * 3
    assert (provider.calls, cache.stats().stored) == (2, 1)


def test_a_broken_stream_breaks_for_every_reader(cache: LLMCache, provider: Provider) -> None:
    provider.fails_at, provider.fails_with["good"] = 2, ConnectionResetError("lost")
    streams = [opened(cache, provider) for _ in range(3)]
    for stream in streams:
        assert [next(stream), next(stream)] == ["a", "b"]
        with pytest.raises(ConnectionResetError):
            next(stream)
    assert (provider.calls, cache.stats().size) == (1, 0)


def test_a_killed_reader_leaves_the_others_their_own_call(cache: LLMCache) -> None:
    provider = Provider()
    provider.fails_with["good"] = KeyboardInterrupt()  # type: ignore[assignment]
    first, second = opened(cache, provider), opened(cache, provider)
    with pytest.raises(KeyboardInterrupt):
        next(first)
    provider.fails_with.clear()
    assert (list(second), provider.calls) == (["a", "b", "c"], 2)


def test_chunks_without_a_storable_form_are_not_shared(cache: LLMCache) -> None:
    provider = Provider((object(), object()))
    first, second = opened(cache, provider), opened(cache, provider)
    assert (list(first), list(second)) == ([*provider.chunks], [*provider.chunks])
    assert (provider.calls, cache.stats().size) == (2, 0)
    assert cache.stats().skipped == {"value": 2}


def test_a_chunk_that_cannot_be_stored_still_reaches_every_reader(cache: LLMCache) -> None:
    class Odd:
        pass

    provider = Provider(("a", Odd(), "c"))
    first, second = opened(cache, provider), opened(cache, provider)
    came = [list(first), list(second)]
    assert [[type(chunk) for chunk in chunks] for chunks in came] == [[str, Odd, str]] * 2
    assert came[0][1] is not came[1][1]
    assert (provider.calls, cache.stats().size) == (1, 0)


def test_trailing_reads_of_the_leader_reach_no_follower(
    cache: LLMCache,
) -> None:
    made: list[Any] = []

    class SDKStream:
        def __init__(self) -> None:
            self.chunks = iter(("a", "b", "c"))
            made.append(self)

        def __iter__(self) -> Iterator[str]:
            return self.chunks

        def read_rest(self) -> list[str]:
            return list(self.chunks)

    def create(messages: Any, stream: bool) -> Any:
        return SDKStream()

    first = cache.get_or_call(MESSAGES, create, stream=True)
    second = cache.get_or_call(MESSAGES, create, stream=True)
    with pytest.raises(AttributeError):
        _ = second.read_rest
    assert (next(first), first.read_rest()) == ("a", ["b", "c"])
    assert list(second) == ["a", "b", "c"]
    assert len(made) == 2


def test_callers_of_different_timeouts_do_not_wait_for_each_other(
    cache: LLMCache, provider: Provider
) -> None:
    streams = [opened(cache, provider, timeout=seconds) for seconds in (0.5, 10, 10, 0.5)]
    assert [list(stream) for stream in streams] == [["a", "b", "c"]] * 4
    assert provider.calls == 2


def test_a_stream_may_call_its_own_key(cache: LLMCache, provider: Provider) -> None:
    def outer(messages: Any, stream: bool) -> Iterator[str]:
        yield from opened(cache, provider)

    assert list(cache.get_or_call(MESSAGES, outer, stream=True)) == ["a", "b", "c"]


async def test_an_async_stream_may_call_its_own_key(cache: LLMCache, provider: Provider) -> None:
    async def outer(messages: Any, stream: bool) -> AsyncIterator[str]:
        async for chunk in await aopened(cache, provider):
            yield chunk

    stream = await cache.aget_or_call(MESSAGES, outer, stream=True)
    assert [chunk async for chunk in stream] == ["a", "b", "c"]


def test_the_chunks_are_made_in_the_context_of_the_call(cache: LLMCache) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    def create(messages: Any, stream: bool) -> Iterator[str]:
        for _ in range(3):
            yield tenant.get()

    def ask(name: str) -> Any:
        tenant.set(name)
        return cache.get_or_call(MESSAGES, create, stream=True)

    first = contextvars.copy_context().run(ask, "one")
    second = contextvars.copy_context().run(ask, "two")
    assert list(second) == list(first) == ["one", "one", "one"]


async def test_an_async_stream_begins_and_ends_in_one_task(cache: LLMCache) -> None:
    tasks: set[Any] = set()

    async def create(messages: Any, stream: bool) -> AsyncIterator[str]:
        try:
            for chunk in ("a", "b", "c"):
                tasks.add(asyncio.current_task())
                yield chunk
        finally:
            tasks.add(asyncio.current_task())

    async def read() -> list[str]:
        return [chunk async for chunk in await cache.aget_or_call(MESSAGES, create, stream=True)]

    assert await asyncio.gather(read(), read()) == [["a", "b", "c"]] * 2
    assert len(tasks) == 1


class Held(MemoryStore):
    """Stores nothing before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.go_on = threading.Event(), threading.Event()

    def put(self, key: str, entry: Any) -> Any:
        self.writing.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return super().put(key, entry)


def test_a_complete_stream_is_shared_until_it_is_stored(provider: Provider) -> None:
    store = Held()
    cache = LLMCache(backend=store, prices={})
    first = start(lambda: list(opened(cache, provider)))
    assert store.writing.wait(WAIT_SECONDS)
    second = opened(cache, provider)
    assert [next(second), next(second), next(second)] == ["a", "b", "c"]
    store.go_on.set()
    assert first.result(WAIT_SECONDS) == ["a", "b", "c"]
    assert (list(second), provider.calls) == ([], 1)


def test_a_deleted_answer_is_neither_shared_nor_stored(cache: LLMCache, provider: Provider) -> None:
    first = opened(cache, provider)
    assert next(first) == "a"
    cache.delete(MESSAGES, stream=True)
    second = opened(cache, provider)
    assert (list(first), provider.calls) == (["b", "c"], 2)
    assert cache.stats().size == 0
    assert list(second) == ["a", "b", "c"]
    assert cache.stats().size == 1


def test_no_caller_joins_with_coalescing_off(provider: Provider) -> None:
    cache = LLMCache(prices={}, coalesce=False)
    streams = [opened(cache, provider) for _ in range(3)]
    assert [list(stream) for stream in streams] == [["a", "b", "c"]] * 3
    assert provider.calls == 3


def test_a_stream_in_mode_refresh_is_made_anew(cache: LLMCache, provider: Provider) -> None:
    assert list(opened(cache, provider)) == ["a", "b", "c"]
    with options(mode="refresh"):
        assert list(opened(cache, provider)) == ["a", "b", "c"]
    assert provider.calls == 2


def test_caches_of_one_fleet_share_a_stream(tmp_path: Any, provider: Provider) -> None:
    caches = [
        LLMCache(backend=str(tmp_path / "cache.db"), coalesce="fleet", prices={}) for _ in range(2)
    ]
    provider.shut()
    first = start(lambda: list(opened(caches[0], provider)))
    until(lambda: provider.calls == 1)
    second = start(lambda: list(opened(caches[1], provider)))
    until(lambda: caches[1].stats().misses == 1)
    provider.open()
    assert first.result(WAIT_SECONDS) == second.result(WAIT_SECONDS) == ["a", "b", "c"]
    assert (provider.calls, caches[1].stats().coalesced) == (1, 1)
    for cache in caches:
        cache.close()


def test_a_hundred_tenants_with_bad_keys_get_their_own_failures(cache: LLMCache) -> None:
    provider = Provider()
    provider.fails_with = {str(n): PermissionError(f"key {n}") for n in range(100)}
    streams = {key: opened(cache, provider, api_key=key) for key in provider.fails_with}

    def fail(key: str) -> str:
        with pytest.raises(PermissionError) as caught:
            list(streams[key])
        return str(caught.value)

    threads = [start(lambda key=key: fail(key)) for key in streams]
    assert [thread.result(WAIT_SECONDS) for thread in threads] == [f"key {n}" for n in range(100)]


@pytest.mark.parametrize("size", [17 * 1024 * 1024])
def test_a_stream_over_the_bound_passes_and_is_not_stored(cache: LLMCache, size: int) -> None:
    provider = Provider(("a", "x" * size, "c"))
    first, second = opened(cache, provider), opened(cache, provider)
    assert list(first) == list(second) == [*provider.chunks]
    assert (provider.calls, cache.stats().size) == (1, 0)
