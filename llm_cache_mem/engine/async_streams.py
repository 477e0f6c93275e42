"""Streams that the tasks of an event loop share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.engine.async_broadcast import AsyncBroadcast, AsyncSubscriber
from llm_cache_mem.engine.broadcast import END
from llm_cache_mem.engine.flight import Flight, is_nested
from llm_cache_mem.engine.stream_calls import (
    ROUNDS,
    Head,
    NoStream,
    StoredChunks,
    StreamCall,
    attribute_of,
    interrupted,
    is_stream,
)
from llm_cache_mem.engine.streams import AsyncStream, AsyncTee, ChunkRecording, NotShareable
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:
    from llm_cache_mem.engine.leases import Lease

__all__ = ["AsyncSharedStream", "aopen_stream"]


async def aopen_stream(call: StreamCall) -> Any:
    """``open_stream`` for tasks. Under another event loop than asyncio's, each makes its own
    call."""
    if running_loop() is None:
        return await _open_unshared(call)
    opened = await _open(call)
    return opened.answer if isinstance(opened, NoStream) else AsyncSharedStream(call, opened)


class AsyncSharedStream(AsyncStream):
    """SharedStream for ``async for``."""

    def __init__(self, call: StreamCall, opened: "_Opened") -> None:
        self._call = call
        self._opened = opened
        self._closed = False

    @property
    def coalesced(self) -> bool:
        """Whether the chunks come from another caller's call; final once there is a chunk."""
        return self._opened.coalesced

    async def __anext__(self) -> Any:
        if self._closed:
            raise StopAsyncIteration
        try:
            chunk = await self._take()
        except asyncio.CancelledError:
            with suppress(Exception):  # the caller hears of its cancellation
                await self.aclose()
            raise
        except BaseException:
            self._closed = True
            self._opened.reader.drop()
            raise
        if chunk is END:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Stop reading; the last caller that does ends the call, and nothing is stored."""
        if not self._closed:
            self._closed = True
            await self._opened.reader.aclose()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nor before __init__ has run
            raise AttributeError(name)
        opened = self._opened
        if opened.coalesced or isinstance(opened.reader, StoredChunks):
            raise AttributeError(f"a shared stream has no attribute {name!r}")
        return attribute_of(opened.reader, name)

    async def _take(self) -> Any:
        for primed in (True, False):
            opened = self._opened
            try:
                return await _next_of(opened.reader)
            except Exception as exc:
                if not opened.coalesced or not self._call.makes_own(opened.reader, exc):
                    raise
                opened.reader.drop()
                alone = not primed or isinstance(exc, NotShareable)
            again = await _open(self._call, primed=True, alone=alone)
            if isinstance(again, NoStream):
                raise TypeError(f"a stream was asked for, not a {type(again.answer).__name__}")
            self._opened = again
        return await _next_of(self._opened.reader)


class _Opened(NamedTuple):
    """Where the chunks come from, and whether from another caller's call."""

    reader: AsyncSubscriber[Any] | StoredChunks
    coalesced: bool


async def _next_of(reader: AsyncSubscriber[Any] | StoredChunks) -> Any:
    return reader.take() if isinstance(reader, StoredChunks) else await reader.take()


async def _open(
    call: StreamCall, *, primed: bool = False, alone: bool = False
) -> _Opened | NoStream:
    """As in shared_streams."""
    lease = call.new_lease()
    for _ in range(0 if alone else ROUNDS):
        found, coalesced = await call.sharing.ashare(
            call.request,
            lambda flight: _lead(call, flight, lease, primed=primed),
            (running_loop(), call.lane),
            circumstances=call.circumstances,
            timeout=call.timeout,
        )
        opened = _join(call, found, coalesced)
        if opened is not None:
            return opened
        if isinstance(found, AsyncBroadcast):
            found.retire()
            if not found.recording.unusable:
                continue
        break
    found = await _lead(call, call.sharing.flights.solo(call.request.key), None, primed=False)
    opened = _join(call, found, False)
    assert opened is not None  # nothing has happened to a call of this caller's own
    return opened


def _join(
    call: StreamCall, found: "AsyncBroadcast[Any] | Entry | NoStream", coalesced: bool
) -> _Opened | NoStream | None:
    if isinstance(found, NoStream):
        return None if coalesced else found
    if isinstance(found, Entry):
        chunks = call.stored(found)
        return None if chunks is None else _Opened(StoredChunks(chunks), True)
    subscriber = found.attach(
        (lambda broadcast: call.count(broadcast.entry)) if coalesced else None, joins=coalesced
    )
    return None if subscriber is None else _Opened(subscriber, coalesced)


async def _lead(
    call: StreamCall, flight: Flight, lease: "Lease | None", *, primed: bool
) -> "AsyncBroadcast[Any] | Entry | NoStream":
    context = call.new_context()

    def recheck() -> Entry | None:
        return context.copy().run(call.recheck)

    with ExitStack() as stack:
        if lease is not None:
            stack.callback(lease.release)
        entry = await (
            call.sharing.off_loop(recheck)
            if lease is None or is_nested(flight)
            else lease.aacquire(recheck)
        )
        if entry is not None:
            return entry
        began = call.now()
        source = await call.fn()
        if not is_stream(source, "__aiter__"):
            return call.no_stream(source)
        recording = call.recording()

        async def finish(broadcast: AsyncBroadcast[Any], at_end: bool) -> None:
            try:
                if at_end:
                    broadcast.entry = await _store(call, context, recording, began, flight)
            finally:
                flight.end()
                release()

        broadcast = AsyncBroadcast(
            Head(source, flight.circumstances, recording),
            _Source(source),
            recording,
            finish,
            interrupted,
            flight.end,
            context,
        )
        flight.outlast()
        release = stack.pop_all().close  # by finish, when the stream has ended
    if primed:
        await broadcast.prime()
    return broadcast


async def _open_unshared(call: StreamCall) -> Any:
    context = call.new_context()
    flight = call.sharing.flights.solo(call.request.key)
    began = call.now()
    source = await call.fn()
    if not is_stream(source, "__aiter__"):
        return call.no_stream(source).answer

    async def finish(recording: ChunkRecording) -> None:
        await _store(call, context, recording, began, flight)

    return AsyncTee(source, finish, call.recording())


async def _store(
    call: StreamCall, context: Context, recording: ChunkRecording, began: float, flight: Flight
) -> Entry | None:
    seconds = max(0.0, call.now() - began)
    await call.sharing.writer.billing.load_prices()
    return await call.sharing.off_loop(
        lambda: context.copy().run(call.store, recording, seconds, flight)
    )


class _Source:
    """The stream of a call, closed by the name that it has for that."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for chunk in self._source:
            yield chunk
        self._ended = True

    async def aclose(self) -> None:
        if self._ended:
            return
        for name in ("aclose", "close"):  # async generators have the one, SDK streams the other
            close = getattr(self._source, name, None)
            if close is not None:
                await close()
                return
