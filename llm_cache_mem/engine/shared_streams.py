"""Streams that threads share."""

from collections.abc import Iterator
from contextlib import ExitStack
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_cache_mem.engine.broadcast import END, Broadcast, Subscriber
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
from llm_cache_mem.engine.streams import NotShareable, SyncStream
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:
    from llm_cache_mem.engine.leases import Lease

__all__ = ["SharedStream", "open_stream"]


def open_stream(call: StreamCall) -> Any:
    """The stream of *call*, a SharedStream; or what its function returned, if that is none."""
    opened = _open(call)
    return opened.answer if isinstance(opened, NoStream) else SharedStream(call, opened)


class SharedStream(SyncStream):
    """One caller's view of a stream, perhaps of another caller's call.

    The caller that made the call also reaches the other attributes of what its function returned,
    as an SDK's stream has them.
    """

    def __init__(self, call: StreamCall, opened: "_Opened") -> None:
        self._call = call
        self._opened = opened
        self._closed = False

    @property
    def coalesced(self) -> bool:
        """Whether the chunks come from another caller's call; final once there is a chunk."""
        return self._opened.coalesced

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            chunk = self._take()
        except BaseException:
            self._closed = True
            self._opened.reader.drop()
            raise
        if chunk is END:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Stop reading; the last caller that does ends the call, and nothing is stored."""
        if not self._closed:
            self._closed = True
            self._opened.reader.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nor before __init__ has run
            raise AttributeError(name)
        opened = self._opened
        if opened.coalesced or isinstance(opened.reader, StoredChunks):
            raise AttributeError(f"a shared stream has no attribute {name!r}")
        return attribute_of(opened.reader, name)

    def _take(self) -> Any:
        for primed in (True, False):
            opened = self._opened
            try:
                return opened.reader.take()
            except Exception as exc:
                if not opened.coalesced or not self._call.makes_own(opened.reader, exc):
                    raise
                opened.reader.drop()
                alone = not primed or isinstance(exc, NotShareable)
            again = _open(self._call, primed=True, alone=alone)
            if isinstance(again, NoStream):
                raise TypeError(f"a stream was asked for, not a {type(again.answer).__name__}")
            self._opened = again
        return self._opened.reader.take()


class _Opened(NamedTuple):
    """Where the chunks come from, and whether from another caller's call."""

    reader: Subscriber[Any] | StoredChunks
    coalesced: bool


def _open(call: StreamCall, *, primed: bool = False, alone: bool = False) -> _Opened | NoStream:
    """Make the call, or join that of another; *alone*: make it in any case.

    *primed*: only join a call that has given its first chunk, and raise what ended it before.
    """
    lease = call.new_lease()
    for _ in range(0 if alone else ROUNDS):
        found, coalesced = call.sharing.share(
            call.request,
            lambda flight: _lead(call, flight, lease, primed=primed),
            call.lane,
            circumstances=call.circumstances,
            timeout=call.timeout,
        )
        opened = _join(call, found, coalesced)
        if opened is not None:
            return opened
        if isinstance(found, Broadcast):
            found.retire()
            if not found.recording.unusable:
                continue
        break
    found = _lead(call, call.sharing.flights.solo(call.request.key), None, primed=False)
    opened = _join(call, found, False)
    assert opened is not None  # nothing has happened to a call of this caller's own
    return opened


def _join(
    call: StreamCall, found: "Broadcast[Any] | Entry | NoStream", coalesced: bool
) -> _Opened | NoStream | None:
    """The chunks of what a flight *found*; None if they are not to be had from there."""
    if isinstance(found, NoStream):
        return None if coalesced else found
    if isinstance(found, Entry):
        chunks = call.stored(found)
        return None if chunks is None else _Opened(StoredChunks(chunks), True)
    subscriber = found.attach(
        (lambda broadcast: call.count(broadcast.entry)) if coalesced else None, joins=coalesced
    )
    return None if subscriber is None else _Opened(subscriber, coalesced)


def _lead(
    call: StreamCall, flight: Flight, lease: "Lease | None", *, primed: bool
) -> "Broadcast[Any] | Entry | NoStream":
    """Make the call of *flight*, unless its answer has been stored meanwhile."""
    context = call.new_context()
    with ExitStack() as stack:
        if lease is not None:
            stack.callback(lease.release)
        entry = (
            call.recheck() if lease is None or is_nested(flight) else lease.acquire(call.recheck)
        )
        if entry is not None:
            return entry
        began = call.now()
        source = call.fn()
        if not is_stream(source, "__iter__"):
            return call.no_stream(source)
        recording = call.recording()

        def finish(broadcast: Broadcast[Any], at_end: bool) -> None:
            try:
                if at_end:
                    seconds = max(0.0, call.now() - began)
                    store = context.copy().run
                    broadcast.entry = store(call.store, recording, seconds, flight)
            finally:
                flight.end()
                release()

        broadcast = Broadcast(
            Head(source, flight.circumstances, recording),
            _Source(source, context),
            recording,
            finish,
            interrupted,
            flight.end,
        )
        flight.outlast()
        release = stack.pop_all().close  # by finish, when the stream has ended
    if primed:
        broadcast.prime()
    return broadcast


class _Source:
    """The stream of a call, read in the context of the call."""

    def __init__(self, source: Any, context: Context) -> None:
        self._source = source
        self._context = context
        self._ended = False

    def __iter__(self) -> Iterator[Any]:
        chunks = self._context.run(iter, self._source)
        while (chunk := self._context.run(next, chunks, END)) is not END:
            yield chunk
        self._ended = True

    def close(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None and not self._ended:
            self._context.run(close)
