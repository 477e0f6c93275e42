"""One answer on its way, for all who asked for it: whoever needs the next bytes fetches them, and
everyone reads them from one buffer.

There is no leader once an answer flows, so nobody's going away stops the others; and nobody waits
for another's consumer, so one thread or task may read two of them in turn. When the last reader has
left, the call is closed.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, finalize

from llm_cache_mem._util.exceptions import copy_exception
from llm_cache_mem.http.answer import Recording

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncRelay", "AsyncTap", "Head", "Relay", "Tap"]


class Head(NamedTuple):
    """The beginning of an answer. *headers* are as on the wire; *extensions* are what the HTTP
    library says beside them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    extensions: dict[str, Any]

    def __repr__(self) -> str:
        return f"Head(status={self.status})"


_OPEN, _ENDED, _FAILED, _CLOSED = range(4)
# what nobody has read from for so long may be lost upstream: it is not for others to join
_STALE_SECONDS = 30.0
_closing: "set[asyncio.Task[Any]]" = set()  # an event loop holds its tasks only weakly


class _Shared:
    """The buffer and its readers. *lost* makes the error for readers whose fetcher was killed;
    *retire* lets nobody find it any more."""

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
        """What was stored, once it is."""
        self._recording = recording
        self._finished = False
        self._moved = monotonic()
        self._lost = lost
        self._lock = threading.Lock()
        self._state = _OPEN
        self._chunks: list[bytes] = []
        self._first = 0  # the index of the first chunk that is still held
        self._taps: WeakSet[Any] = WeakSet()
        self._error: BaseException | None = None

    def _admit(self, tap: Any, *, joins: bool) -> bool:
        """Let *tap* read from the beginning, if that is still there and, for who *joins*, there is
        hope for the rest."""
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
                or self._recording.hopeless
            ):
                return False
            self._taps.add(tap)
            return True

    def _is_fetching(self) -> bool:
        raise NotImplementedError

    def _held(self, at: int) -> bytes | None:
        """Chunk *at* if it is here."""
        with self._lock:
            index = at - self._first
            return self._chunks[index] if 0 <= index < len(self._chunks) else None

    def _take(self, chunk: bytes) -> None:
        self._recording.add(chunk)
        if self._recording.hopeless:
            self.retire()
        with self._lock:
            self._moved = monotonic()
            self._chunks.append(chunk)
            if (
                self._recording.fault is not None
            ):  # only passing through: keep what somebody still needs
                needed = min((tap.at for tap in self._taps), default=self._first)
                del self._chunks[: needed - self._first]
                self._first = needed

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._state, self._error = _FAILED, error

    def _raise_failure(self) -> None:
        """For a reader whose next chunk will not come: what the fetcher got, or that it was
        killed."""
        if self._error is None or not isinstance(self._error, Exception):
            raise self._lost()
        raise copy_exception(self._error, self._error.__traceback__)

    def _leave(self, tap: Any) -> bool:
        """Whether *tap* was the last reader of a call that is still open; then it is closed from
        here on."""
        with self._lock:
            self._taps.discard(tap)
            if self._taps or self._state != _OPEN:
                return False
            self._state = _CLOSED
            return True

    def _end(self) -> None:
        with self._lock:
            self._state = _ENDED

    def _first_to_finish(self) -> bool:
        with self._lock:
            first, self._finished = not self._finished, True
            return first


class Relay(_Shared):
    """For threads. *source* is what the HTTP library gave; *finish* is told once whether the body
    was read to its end."""

    def __init__(
        self,
        head: Head,
        source: Any,
        recording: Recording,
        finish: Callable[["Relay", bool], None],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
    ) -> None:
        super().__init__(head, recording, lost, retire)
        self._source = source
        self._bytes: Iterator[bytes] | None = None
        self._finish = finish
        self._fetching = threading.Lock()

    def attach(self, on_leave: Callable[["Relay"], None] | None, *, joins: bool) -> "Tap | None":
        """A reader from the beginning, or None when it is too late for one; *on_leave* is told when
        it has left."""
        tap = Tap(self, on_leave)
        return tap if self._admit(tap, joins=joins) else None

    def _is_fetching(self) -> bool:
        return self._fetching.locked()

    def chunk(self, at: int) -> bytes | None:
        """The chunk number *at*, fetched if nobody has; None at the end. Raises what reading from
        the network raises."""
        while True:
            held = self._held(at)
            if held is not None:
                return held
            with self._fetching:
                if self._held(at) is not None:
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

    def leave(self, tap: "Tap") -> None:
        """Read no more; the last to say so closes the call."""
        if self._leave(tap):
            try:
                self._source.close()
            finally:
                self._done(at_end=False)


class Tap:
    """One thread's reader of a relay."""

    def __init__(self, relay: Relay, on_leave: Callable[[Relay], None] | None) -> None:
        self._relay = relay
        self._on_leave = on_leave
        self.at = 0

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._relay.chunk(self.at)) is not None:
            self.at += 1
            yield chunk

    def close(self) -> None:
        """Leave; the last to do so closes the call."""
        self._relay.leave(self)
        told, self._on_leave = self._on_leave, None
        if told is not None:
            told(self._relay)


class AsyncRelay(_Shared):
    """For the tasks of one event loop. Each fetch is a task of its own, so that cancelling a reader
    does not tear the connection."""

    def __init__(
        self,
        head: Head,
        source: Any,
        recording: Recording,
        finish: Callable[["AsyncRelay", bool], Awaitable[None]],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
        context: Context,
    ) -> None:
        import asyncio

        super().__init__(head, recording, lost, retire)
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._bytes: AsyncIterator[bytes] | None = None
        self._finish = finish
        self._context = context
        self._fetching: asyncio.Task[None] | None = None
        # An answer that nobody came to read, since all who asked were cancelled meanwhile, gives
        # its connection back.
        self._unread = finalize(self, _close_later, self._loop, source)
        self._unread.atexit = False

    def attach(
        self, on_leave: Callable[["AsyncRelay"], None] | None, *, joins: bool
    ) -> "AsyncTap | None":
        """A reader from the beginning, or None when it is too late for one; *on_leave* is told when
        it has left."""
        tap = AsyncTap(self, on_leave)
        return tap if self._admit(tap, joins=joins) else None

    def _is_fetching(self) -> bool:
        return self._fetching is not None

    async def chunk(self, at: int) -> bytes | None:
        """As ``Relay.chunk``."""
        import asyncio

        while True:
            held = self._held(at)
            if held is not None:
                return held
            if self._state == _FAILED:
                self._raise_failure()
            if self._fetching is None:
                if self._state != _OPEN:
                    return None
                self._fetching = self._loop.create_task(self._fetch(), context=self._context.copy())
            await asyncio.wait((self._fetching,))  # which a cancelled waiter leaves alone

    async def _fetch(self) -> None:
        try:
            if self._bytes is None:
                self._bytes = aiter(self._source)
            while (chunk := await anext(self._bytes, None)) is not None:
                self._take(chunk)
                if (
                    not self._recording.full
                ):  # else the end is there already, and needs no task of its own
                    return
            self._end()
            self._unread.detach()
            await self._source.aclose()
            await self._done(at_end=True)
        except BaseException as exc:
            if self._state != _CLOSED:
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

    async def leave(self, tap: "AsyncTap") -> None:
        """Read no more; the last to say so closes the call, though it is cancelled itself."""
        if self._leave(tap):
            import asyncio

            self._unread.detach()
            await asyncio.shield(_detached(self._loop.create_task(self._close())))

    async def _close(self) -> None:
        import asyncio

        fetching = self._fetching
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait((fetching,))
        try:
            await self._source.aclose()
        finally:
            await self._done(at_end=False)


class AsyncTap:
    """One task's reader of a relay. Iterating it again goes on where it stopped, as some SDKs do to
    drain a connection."""

    def __init__(self, relay: AsyncRelay, on_leave: Callable[[AsyncRelay], None] | None) -> None:
        self._relay = relay
        self._on_leave = on_leave
        self.at = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._relay.chunk(self.at)) is not None:
            self.at += 1
            yield chunk

    async def aclose(self) -> None:
        """Leave; the last to do so closes the call, though it is cancelled itself."""
        told, self._on_leave = self._on_leave, None
        try:
            await self._relay.leave(self)
        finally:
            if told is not None:
                told(self._relay)


def _detached(task: "asyncio.Task[Any]") -> "asyncio.Task[Any]":
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    return task


def _close_later(loop: "asyncio.AbstractEventLoop", source: Any) -> None:
    def close() -> None:
        _detached(loop.create_task(source.aclose()))

    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(close)
        except RuntimeError:  # closed meanwhile: so are its connections
            return
