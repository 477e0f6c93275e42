"""Broadcast a response in progress: identical requests share one stream, each from its start.

No subscriber leads. The one that needs the next chunk fetches it and puts it into a buffer that all
of them read, so one that leaves does not stop the others, and a slow one does not delay them. One
thread or task may read two subscribers in turn. When the last one leaves, the call is closed.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context
from time import monotonic
from typing import Any, NamedTuple
from weakref import WeakSet, finalize

from llm_cache_mem._util.exceptions import copy_exception
from llm_cache_mem.http.answer import Recording

__all__ = ["AsyncBroadcast", "AsyncSubscriber", "Broadcast", "Head", "Subscriber"]


class Head(NamedTuple):
    """Status, *headers* as on the wire, and the HTTP library's *extensions* of a response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    extensions: dict[str, Any]

    def __repr__(self) -> str:
        return f"Head(status={self.status})"


_OPEN, _ENDED, _FAILED, _CLOSED = range(4)
# A connection that has been idle for so long may be dead upstream, so no caller joins it.
_STALE_SECONDS = 30.0
# An event loop holds its tasks only weakly.
_closing: set[asyncio.Task[Any]] = set()


class _Buffer:
    """The chunks so far and their subscribers.

    *lost* makes the error for subscribers whose fetch was interrupted; *retire* stops later callers
    from joining.
    """

    def __init__(
        self,
        head: Head,
        recording: Recording,
        lost: Callable[[], Exception],
        retire: Callable[[], None],
    ) -> None:
        self.head = head
        self.retire = retire
        self.entry: Any = None
        """The entry, once the response is stored."""
        self.recording = recording
        self._finished = False
        self._left = False  # by all subscribers, before its end
        self._moved = monotonic()
        self._lost = lost
        self._lock = threading.Lock()
        self._state = _OPEN
        self._chunks: list[bytes] = []
        self._first = 0  # the index of the first chunk that is still in the buffer
        self._subscribers: WeakSet[Any] = WeakSet()
        self._error: BaseException | None = None

    def _admit(self, subscriber: Any, *, joins: bool) -> bool:
        """Add *subscriber*, if the response can still be read from its first chunk to its end.

        One that *joins* another caller's call is not added to an idle one.
        """
        with self._lock:
            stale = (
                self._state == _OPEN
                and monotonic() - self._moved > _STALE_SECONDS
                and not self._is_fetching()
            )
            if (
                (joins and stale)
                or self._state in (_FAILED, _CLOSED)
                or self._first
                or self.recording.unusable
            ):
                return False
            self._subscribers.add(subscriber)
            return True

    def _is_fetching(self) -> bool:
        raise NotImplementedError

    def _buffered(self, at: int) -> bytes | None:
        """The chunk number *at*, if it is in the buffer."""
        with self._lock:
            index = at - self._first
            return self._chunks[index] if 0 <= index < len(self._chunks) else None

    def _take(self, chunk: bytes) -> None:
        if self._left:  # while a task fetched it
            return
        self.recording.add(chunk)
        if self.recording.unusable:
            self.retire()
        with self._lock:
            self._moved = monotonic()
            self._chunks.append(chunk)
            # Not to be stored, so no later caller needs it: drop what all subscribers have read.
            if self.recording.fault is not None:
                needed = min(
                    (subscriber.at for subscriber in self._subscribers), default=self._first
                )
                del self._chunks[: needed - self._first]
                self._first = needed

    def _fail(self, error: BaseException) -> None:
        self.recording.finish(at_end=False)
        with self._lock:
            self._state, self._error = _FAILED, error

    def _raise_failure(self) -> None:
        """Raise a copy of the error that ended the fetch; *lost* if it was interrupted."""
        if self._error is None or not isinstance(self._error, Exception):
            raise self._lost()
        raise copy_exception(self._error, self._error.__traceback__)

    def _leave(self, subscriber: Any) -> bool:
        """Remove *subscriber*; whether it was the last of an open call, which is to be closed now.

        A whole response has then ended, and can be joined until it is stored; any other has not.
        """
        with self._lock:
            self._subscribers.discard(subscriber)
            if self._subscribers or self._state != _OPEN:
                return False
            whole = self.head.status == 200 and self.recording.finish(at_end=False)
            self._state = _ENDED if whole else _CLOSED
            self._left = True
            return True

    def _end(self) -> None:
        self.recording.finish(at_end=True)
        with self._lock:
            self._state = _ENDED

    def _first_to_finish(self) -> bool:
        with self._lock:
            first, self._finished = not self._finished, True
            return first


class Broadcast(_Buffer):
    """A response that threads share.

    *source* is the HTTP library's stream; *finish* is called once with whether the body was read to
    its end.
    """

    def __init__(
        self,
        head: Head,
        source: Any,
        recording: Recording,
        finish: Callable[["Broadcast", bool], None],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
    ) -> None:
        super().__init__(head, recording, lost, retire)
        self._source = source
        self._bytes: Iterator[bytes] | None = None
        self._finish = finish
        self._fetching = threading.Lock()

    def attach(
        self, on_leave: Callable[["Broadcast"], None] | None, *, joins: bool
    ) -> "Subscriber | None":
        """A new subscriber, or None if the response can no longer be joined.

        *on_leave* is called when the subscriber has left.
        """
        subscriber = Subscriber(self, on_leave)
        return subscriber if self._admit(subscriber, joins=joins) else None

    def _is_fetching(self) -> bool:
        return self._fetching.locked()

    def chunk(self, at: int) -> bytes | None:
        """The chunk number *at*, fetched if it is not in the buffer; None at the end.

        Raises what reading from the network raises.
        """
        while True:
            chunk = self._buffered(at)
            if chunk is not None:
                return chunk
            with self._fetching:
                if self._buffered(at) is not None:
                    continue
                if self._state == _FAILED:
                    self._raise_failure()
                if self._state != _OPEN:
                    return None
                self._fetch()

    def _fetch(self) -> None:
        try:
            if self._bytes is None:
                self._bytes = iter(self._source)
            chunk = next(self._bytes, None)
        except BaseException as exc:
            self._fail(exc)
            self._done(at_end=False)
            raise
        if chunk is not None:
            self._take(chunk)
            return
        self._end()
        self._source.close()
        self._done(at_end=True)

    def _done(self, *, at_end: bool) -> None:
        if self._first_to_finish():
            self._finish(self, at_end)

    def leave(self, subscriber: "Subscriber") -> None:
        """Remove *subscriber*; the last one closes the call."""
        if self._leave(subscriber):
            try:
                self._source.close()
            finally:
                self._done(at_end=False)


class Subscriber:
    """One caller's view of a broadcast, for threads."""

    def __init__(self, broadcast: Broadcast, on_leave: Callable[[Broadcast], None] | None) -> None:
        self._broadcast = broadcast
        self._on_leave = on_leave
        self.at = 0

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._broadcast.chunk(self.at)) is not None:
            self.at += 1
            yield chunk

    def close(self) -> None:
        """Stop reading; the last subscriber closes the call."""
        self._broadcast.leave(self)
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None:
            on_leave(self._broadcast)


class AsyncBroadcast(_Buffer):
    """A response that the tasks of one event loop share.

    Each fetch is a task of its own, so that cancelling a subscriber does not break the connection.
    """

    def __init__(
        self,
        head: Head,
        source: Any,
        recording: Recording,
        finish: Callable[["AsyncBroadcast", bool], Awaitable[None]],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
        context: Context,
    ) -> None:
        super().__init__(head, recording, lost, retire)
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._bytes: AsyncIterator[bytes] | None = None
        self._finish = finish
        self._context = context
        self._fetching: asyncio.Task[None] | None = None
        # If every caller was cancelled before it could subscribe, nothing would close the source.
        self._unread = finalize(self, _close_later, self._loop, source)
        self._unread.atexit = False

    def attach(
        self, on_leave: Callable[["AsyncBroadcast"], None] | None, *, joins: bool
    ) -> "AsyncSubscriber | None":
        """A new subscriber, or None if the response can no longer be joined.

        *on_leave* is called when the subscriber has left.
        """
        subscriber = AsyncSubscriber(self, on_leave)
        return subscriber if self._admit(subscriber, joins=joins) else None

    def _is_fetching(self) -> bool:
        return self._fetching is not None

    async def chunk(self, at: int) -> bytes | None:
        """As ``Broadcast.chunk``."""
        while True:
            chunk = self._buffered(at)
            if chunk is not None:
                return chunk
            if self._state == _FAILED:
                self._raise_failure()
            if self._fetching is None:
                if self._state != _OPEN:
                    return None
                self._fetching = self._loop.create_task(self._fetch(), context=self._context.copy())
            await asyncio.wait((self._fetching,))  # does not cancel the fetch when it is cancelled

    async def _fetch(self) -> None:
        try:
            if self._bytes is None:
                self._bytes = aiter(self._source)
            while (chunk := await anext(self._bytes, None)) is not None:
                self._take(chunk)
                if not self.recording.full:  # else the end is here already: save a task for it
                    return
            self._end()
            self._unread.detach()
            await self._source.aclose()
            await self._done(at_end=True)
        except BaseException as exc:
            if not self._left:  # else the one that left closes the call
                self._fail(exc)
                self._unread.detach()
                await self._done(at_end=False)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._fetching = None

    async def _done(self, *, at_end: bool) -> None:
        if self._first_to_finish():
            await self._finish(self, at_end)

    async def leave(self, subscriber: "AsyncSubscriber") -> None:
        """Remove *subscriber*; the last one closes the call, even if its task is cancelled."""
        if self._leave(subscriber):
            self._unread.detach()
            await asyncio.shield(_detached(self._loop.create_task(self._close())))

    async def _close(self) -> None:
        fetching = self._fetching
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait((fetching,))
        try:
            await self._source.aclose()
        finally:
            await self._done(at_end=False)


class AsyncSubscriber:
    """One caller's view of a broadcast, for tasks.

    Iterating it again goes on where it stopped, as some SDKs do to drain a connection.
    """

    def __init__(
        self, broadcast: AsyncBroadcast, on_leave: Callable[[AsyncBroadcast], None] | None
    ) -> None:
        self._broadcast = broadcast
        self._on_leave = on_leave
        self.at = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._broadcast.chunk(self.at)) is not None:
            self.at += 1
            yield chunk

    async def aclose(self) -> None:
        """Stop reading; the last subscriber closes the call, even if its task is cancelled."""
        on_leave, self._on_leave = self._on_leave, None
        try:
            await self._broadcast.leave(self)
        finally:
            if on_leave is not None:
                on_leave(self._broadcast)


def _detached(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    return task


def _close_later(loop: asyncio.AbstractEventLoop, source: Any) -> None:
    def close() -> None:
        _detached(loop.create_task(source.aclose()))

    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(close)
        except RuntimeError:  # closed meanwhile, and with it its connections
            return
