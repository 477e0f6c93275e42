"""Streams on their way: who asks for the same meanwhile reads the same call, and nobody's going
away takes another down."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import httpx
import httpx2
import openai
import pytest
from http_server import Provider, Reply
from threads import WAIT_SECONDS, start

from llm_cache_mem import LLMCache, MemoryStore
from llm_cache_mem.http import AsyncCacheTransport, CacheTransport, cache_client

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "count"}]}


def event(text: str, why: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": why}
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


PIECE = len(event("0"))
STREAM = b"".join(event(str(n)) for n in range(5)) + event("5", "stop") + b"data: [DONE]\n\n"


class Gates:
    """Holds the server back before each piece until it is let through."""

    def __init__(self) -> None:
        self._open = threading.Semaphore(0)

    def __call__(self, number: int) -> None:
        assert self._open.acquire(timeout=60)

    def let(self, pieces: int = 1_000) -> None:
        self._open.release(pieces)


@pytest.fixture
def gates() -> Iterator[Gates]:
    gates = Gates()
    yield gates
    gates.let()


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


@pytest.fixture
def client(server: Provider, cache: LLMCache) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache), timeout=20) as client:
        yield client


@pytest.fixture
async def aclient(server: Provider, cache: LLMCache) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=server.url, transport=AsyncCacheTransport(cache), timeout=20
    ) as client:
        yield client


def opened(client: httpx.Client, body: Any = BODY) -> httpx.Response:
    return client.send(client.build_request("POST", CHAT, json=body), stream=True)


async def aopened(client: Any, body: Any = BODY) -> Any:
    return await client.send(client.build_request("POST", CHAT, json=body), stream=True)


async def everything(response: Any) -> bytes:
    try:
        return b"".join([chunk async for chunk in response.aiter_raw()])
    finally:
        await response.aclose()


# -- Joining


def test_the_first_piece_is_not_held_back(
    client: httpx.Client, server: Provider, gates: Gates
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE, gate=gates))
    gates.let(1)
    response = opened(client)
    assert next(response.iter_raw()) == event("0")  # while the server waits to send the second
    response.close()


def test_one_thread_may_read_two_of_them_in_turn(
    client: httpx.Client, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    with closing(opened(client)) as first, closing(opened(client)) as second:
        pairs = list(zip(first.iter_raw(), second.iter_raw(), strict=True))
    assert all(one == other for one, other in pairs)
    assert b"".join(one for one, _ in pairs) == STREAM
    assert (server.calls, first.headers["x-llm-cache-mem"], second.headers["x-llm-cache-mem"]) == (
        1,
        "miss",
        "coalesced",
    )
    assert (cache.stats().coalesced, cache.stats().stored) == (1, 1)


USAGE = b'data: {"choices": [], "usage": {"total_tokens": 9}}\n\n'
USED = STREAM.replace(b"data: [DONE]", USAGE + b"data: [DONE]")


def test_a_follower_bills_nothing_under_zero_usage(
    server: Provider, cache: LLMCache, gates: Gates
) -> None:
    for body, reply in (
        (BODY, Reply(USED, "text/event-stream", piece=PIECE, gate=gates)),
        ({**BODY, "stream": False}, Reply(b'{"usage": {"total_tokens": 9}}', gate=gates, piece=9)),
    ):
        server.gives(reply)
        transport = CacheTransport(cache, usage="zero")
        with httpx.Client(base_url=server.url, transport=transport, timeout=20) as zero:
            gates.let(1)
            first, second = opened(zero, body), opened(zero, body)
            pieces, begun = second.iter_raw(), b""
            if body is BODY:
                begun = next(pieces)
                assert begun == event("0")  # it is not held back
            gates.let()
            whole = b"".join(first.iter_raw())
            assert b'"total_tokens": 9' in whole
            assert begun + b"".join(pieces) == whole.replace(b": 9", b": 0")
            first.close()
            second.close()
        assert second.headers["x-llm-cache-mem"] == "coalesced"


async def test_a_follower_task_bills_nothing_under_zero_usage(
    server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(USED, "text/event-stream", piece=PIECE))
    transport = AsyncCacheTransport(cache, usage="zero")
    async with httpx2.AsyncClient(base_url=server.url, transport=transport, timeout=20) as zero:
        first, second = await aopened(zero), await aopened(zero)
        whole = await everything(first)
        assert await everything(second) == whole.replace(b": 9", b": 0") != whole == USED


async def test_one_task_may_read_two_of_them_in_turn(
    aclient: Any, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    first, second = await aopened(aclient), await aopened(aclient)
    chunks, others = first.aiter_raw(), second.aiter_raw()
    for n in range(5):
        assert await anext(others) == await anext(chunks) == event(str(n))
    assert b"".join([chunk async for chunk in chunks]) == b"".join(
        [chunk async for chunk in others]
    )
    await first.aclose()
    await second.aclose()
    assert (server.calls, cache.stats().coalesced, cache.stats().stored) == (1, 1, 1)


def test_a_late_subscriber_gets_the_whole_stream(
    client: httpx.Client, server: Provider, gates: Gates
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE, gate=gates))
    gates.let(3)
    first = opened(client)
    chunks = first.iter_raw()
    assert [next(chunks) for _ in range(3)] == [event(str(n)) for n in range(3)]
    second = opened(client).iter_raw()
    assert [next(second) for _ in range(3)] == [event(str(n)) for n in range(3)]
    gates.let()
    assert b"".join(second) == b"".join(chunks) == STREAM[3 * PIECE :]
    assert server.calls == 1


def test_a_sync_and_an_async_client_do_not_wait_for_each_other(
    server: Provider, cache: LLMCache, client: httpx.Client
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    response = opened(client)
    next(response.iter_raw())

    async def other() -> bytes:
        async with httpx.AsyncClient(
            base_url=server.url, transport=AsyncCacheTransport(cache)
        ) as aclient:
            return await everything(await aopened(aclient))

    assert asyncio.run(other()) == STREAM
    response.close()
    assert server.calls == 2


# -- Going away


def test_the_others_go_on_when_the_first_leaves(
    client: httpx.Client, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    first, second = opened(client), opened(client)
    next(first.iter_raw())
    first.close()
    assert b"".join(second.iter_raw()) == STREAM
    assert (server.calls, cache.stats().stored) == (1, 1)
    assert opened(client).headers["x-llm-cache-mem"] == "hit"


async def test_cancelling_one_reader_does_not_cancel_others(
    aclient: Any, server: Provider, cache: LLMCache, gates: Gates
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE, gate=gates))
    gates.let(2)
    readers = [asyncio.create_task(everything(await aopened(aclient))) for _ in range(5)]
    while server.calls < 1 or cache.stats().misses < 5:
        await asyncio.sleep(0)
    for _ in range(50):  # into their reads
        await asyncio.sleep(0)
    for reader in readers[:4]:
        reader.cancel()
    await asyncio.wait(readers[:4])
    gates.let()
    assert await readers[4] == STREAM
    assert all(reader.cancelled() for reader in readers[:4])
    assert (server.calls, cache.stats().stored) == (1, 1)


async def test_cancelling_the_first_caller_leaves_the_call_running(
    aclient: Any, server: Provider, cache: LLMCache
) -> None:
    came, go = threading.Event(), threading.Event()

    def slow(asked: Any) -> Reply:
        came.set()
        assert go.wait(60)
        return Reply(STREAM, "text/event-stream", piece=PIECE)

    server.answer = slow
    tasks = [asyncio.create_task(aopened(aclient)) for _ in range(3)]
    await asyncio.to_thread(came.wait, 20)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    go.set()
    assert [await everything(await task) for task in tasks[1:]] == [STREAM, STREAM]
    assert (server.calls, cache.stats().stored) == (1, 1)


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_call_without_readers_is_closed_and_not_stored(
    aclient: Any, server: Provider, cache: LLMCache, gates: Gates, how: str
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE, gate=gates))
    gates.let(2)
    responses = [await aopened(aclient) for _ in range(3)]
    if how == "close":
        for response in responses:
            assert await anext(response.aiter_raw()) == event("0")
            await response.aclose()
    else:
        readers = [asyncio.create_task(everything(response)) for response in responses]
        for _ in range(50):
            await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
    gates.let()
    assert await asyncio.to_thread(server.wait_for_connections, 0)
    assert cache.stats().size == 0
    assert aclient._transport.wrapped._pool.connections == []
    assert await everything(await aopened(aclient)) == STREAM
    assert server.calls == 2


def test_a_call_without_threads_is_closed_and_not_stored(
    client: httpx.Client, server: Provider, cache: LLMCache, gates: Gates
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE, gate=gates))
    gates.let(2)
    with closing(opened(client)) as first, closing(opened(client)) as second:
        assert next(first.iter_raw()) == next(second.iter_raw()) == event("0")
    gates.let()
    assert server.wait_for_connections(0)
    assert cache.stats().size == 0


async def test_an_unread_answer_releases_its_connection(server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    async with httpx.AsyncClient(
        base_url=server.url, transport=AsyncCacheTransport(cache)
    ) as aclient:
        response = await aopened(aclient)
        assert len(aclient._transport.wrapped._pool.connections) == 1  # type: ignore[attr-defined]
        del response
        gc.collect()
        for _ in range(20):
            await asyncio.sleep(0)
        assert aclient._transport.wrapped._pool.connections == []  # type: ignore[attr-defined]
    assert cache.stats().size == 0


def test_a_killed_fetcher_leaves_the_others_an_error_and_not_a_hang(cache: LLMCache) -> None:
    class Killed(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield event("0")
            raise KeyboardInterrupt

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Killed())

    with httpx.Client(
        base_url="http://test", transport=CacheTransport(cache, httpx.MockTransport(answer))
    ) as client:
        first, second = opened(client).iter_raw(), opened(client).iter_raw()
        assert next(first) == next(second) == event("0")
        with pytest.raises(KeyboardInterrupt):
            next(first)
        with pytest.raises(httpx.ReadError, match="try again"):
            next(second)
        assert next(opened(client).iter_raw()) == event("0")  # a call of its own
    assert cache.stats().stored == 0


# -- Failing


async def test_a_lost_connection_reaches_all_and_nothing_is_stored(
    aclient: Any, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE, cut=3 * PIECE))
    responses = [await aopened(aclient) for _ in range(3)]
    found = await asyncio.gather(*map(everything, responses), return_exceptions=True)
    assert [type(error) for error in found] == [httpx2.RemoteProtocolError] * 3
    assert len({id(error) for error in found}) == 3
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    assert await everything(await aopened(aclient)) == STREAM
    assert (server.calls, cache.stats().stored) == (2, 1)


def test_a_stream_that_reported_an_error_is_not_shared(
    client: httpx.Client, server: Provider, cache: LLMCache
) -> None:
    server.gives(
        Reply(
            event("0") + b'data: {"error": {"message": "overloaded"}}\n\n' + STREAM,
            "text/event-stream",
            piece=400,
        )
    )
    first = opened(client)
    chunks = first.iter_raw()
    next(chunks)
    second = opened(client)
    assert (second.headers["x-llm-cache-mem"], server.calls) == ("miss", 2)
    for response in (first, second):
        response.close()
    assert cache.stats().stored == 0


def test_an_idle_stream_is_not_shared(
    client: httpx.Client, server: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_cache_mem.engine.broadcast._STALE_SECONDS", -1.0)
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    with closing(opened(client)) as first:
        next(first.iter_raw())
        with closing(opened(client)) as second:
            assert second.headers["x-llm-cache-mem"] == "miss"
    assert server.calls == 2


def test_deleted_streams_are_not_shared(
    client: httpx.Client, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    with closing(opened(client)) as first:
        chunks = first.iter_raw()
        next(chunks)
        cache.clear()
        with closing(opened(client)) as second:
            assert b"".join(second.iter_raw()) == STREAM
        assert b"".join(chunks)
    assert (server.calls, cache.stats().stored) == (2, 1)


def test_an_oversized_stream_still_reaches_its_subscribers(
    client: httpx.Client, server: Provider, cache: LLMCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_cache_mem.http.answer.MAX_ANSWER_BYTES", 3 * PIECE)
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    first, second = opened(client), opened(client)
    chunks = first.iter_raw()
    start = b"".join(next(chunks) for _ in range(5))
    with closing(opened(client)) as late:
        assert late.headers["x-llm-cache-mem"] == "miss"
    assert b"".join(second.iter_raw()) == start + b"".join(chunks) == STREAM
    assert (cache.stats().stored, cache.stats().skipped) == (0, {"too large": 1})


# -- As SDKs read them


def test_a_stream_that_the_sdk_closes_at_its_end_is_stored(
    server: Provider, cache: LLMCache, gates: Gates
) -> None:
    """openai closes as soon as it has seen [DONE], though the end of the body is still to come."""
    pieces = -(-len(STREAM) // PIECE)
    padded = STREAM + b"\n" * (pieces * PIECE - len(STREAM))
    server.gives(
        Reply(
            padded + b": a comment after the end\n\n" * 9,
            "text/event-stream",
            piece=PIECE,
            gate=gates,
        )
    )
    gates.let(pieces)
    with cache_client(
        openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", max_retries=0), cache
    ) as client:

        def text() -> str:
            stream = client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "count"}], stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

        assert text() == "012345"
        assert text() == "012345"
    assert (server.calls, cache.stats().stored, cache.stats().hits) == (1, 1, 1)


async def test_an_async_sdk_reads_and_drains_it(server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=7))
    async with cache_client(
        openai.AsyncOpenAI(api_key="k", base_url=f"{server.url}/v1", max_retries=0), cache
    ) as client:

        async def text() -> str:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "count"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(text() for _ in range(10))) == ["012345"] * 10
        assert await text() == "012345"
        # it was kept for reuse
        assert len(client._client._transport.wrapped._pool.connections) == 1  # type: ignore[attr-defined]
    assert (server.calls, cache.stats().stored, cache.stats().hits) == (1, 1, 1)


class Held(MemoryStore):
    """A store whose writes wait until they are let through."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.go_on = threading.Event(), threading.Event()

    def put(self, key: str, entry: Any) -> Any:
        self.writing.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return super().put(key, entry)


def provider_of(stream: type[Any], calls: list[Any]) -> Any:
    """A transport whose every response is a new *stream*."""

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream())

    return httpx.MockTransport(answer)


class Whole(httpx.SyncByteStream, httpx.AsyncByteStream):
    """All of a stream at once; its consumer does not read on to the end of the body."""

    def __iter__(self) -> Iterator[bytes]:
        yield STREAM
        raise AssertionError("read after the last event")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield STREAM
        raise AssertionError("read after the last event")


def test_a_complete_stream_is_shared_until_it_is_stored() -> None:
    calls: list[Any] = []
    store = Held()
    cache = LLMCache(backend=store, prices={})
    transport = CacheTransport(cache, provider_of(Whole, calls))
    with httpx.Client(base_url="http://test", transport=transport) as client:
        first = opened(client)
        assert next(first.iter_raw()) == STREAM
        closing_first = start(first.close)
        assert store.writing.wait(WAIT_SECONDS)
        with closing(opened(client)) as second:
            assert second.headers["x-llm-cache-mem"] == "coalesced"
            assert b"".join(second.iter_raw()) == STREAM
        store.go_on.set()
        closing_first.result(WAIT_SECONDS)
        assert opened(client).headers["x-llm-cache-mem"] == "hit"
    assert (len(calls), cache.stats().coalesced, cache.stats().stored) == (1, 1, 1)


async def test_tasks_share_a_complete_stream_until_it_is_stored() -> None:
    calls: list[Any] = []
    store = Held()
    cache = LLMCache(backend=store, prices={})
    transport = AsyncCacheTransport(cache, provider_of(Whole, calls))
    async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
        first = await aopened(client)
        assert await anext(first.aiter_raw()) == STREAM
        closing_first = asyncio.create_task(first.aclose())
        assert await asyncio.to_thread(store.writing.wait, WAIT_SECONDS)
        second = await aopened(client)
        assert second.headers["x-llm-cache-mem"] == "coalesced"
        assert await everything(second) == STREAM
        store.go_on.set()
        await closing_first
        assert (await aopened(client)).headers["x-llm-cache-mem"] == "hit"
    assert (len(calls), cache.stats().coalesced, cache.stats().stored) == (1, 1, 1)


def test_ten_threads_that_leave_a_whole_stream_make_one_call() -> None:
    calls: list[Any] = []
    cache = LLMCache(prices={})
    transport = CacheTransport(cache, provider_of(Whole, calls))
    together = threading.Barrier(10)

    def ask() -> bytes:
        together.wait(WAIT_SECONDS)
        with closing(opened(client)) as response:
            return next(response.iter_raw())

    with httpx.Client(base_url="http://test", transport=transport) as client:
        for _ in range(15):
            answers = [start(ask) for _ in range(10)]
            assert {answer.result(WAIT_SECONDS) for answer in answers} == {STREAM}
            assert len(calls) == 1
            calls.clear()
            cache.clear()


@pytest.mark.parametrize("timeouts", [(20.0, 0.5), (0.5, 20.0)], ids=str)
def test_clients_with_other_timeouts_stream_separately(
    server: Provider, cache: LLMCache, timeouts: tuple[float, float]
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    transport = CacheTransport(cache)
    clients = [
        httpx.Client(base_url=server.url, transport=transport, timeout=seconds)
        for seconds in timeouts
    ]
    first, second, third = (opened(client) for client in (*clients, clients[0]))
    assert [b"".join(response.iter_raw()) for response in (first, second, third)] == [STREAM] * 3
    assert server.calls == 2
    for response in (first, second, third):
        response.close()
    transport.close()


async def test_async_clients_with_other_timeouts_stream_separately(
    server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=PIECE))
    transport = AsyncCacheTransport(cache)
    clients = [
        httpx.AsyncClient(base_url=server.url, transport=transport, timeout=seconds)
        for seconds in (20.0, 0.5)
    ]
    responses = [await aopened(client) for client in (*clients, clients[0])]
    assert [await everything(response) for response in responses] == [STREAM] * 3
    assert server.calls == 2
    for response in responses:
        await response.aclose()
    await transport.aclose()
