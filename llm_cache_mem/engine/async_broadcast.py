"""Broadcast a stream in progress to the tasks of one event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Generic, TypeVar
from weakref import finalize

from llm_cache_mem.engine.broadcast import END, FAILED, OPEN, Buffer, Recording
from llm_cache_mem.engine.waiters import post, shielded

__all__ = ["AsyncBroadcast", "AsyncSubscriber"]

T = TypeVar("T")

# An event loop holds its tasks only weakly.
_closing: set[asyncio.Task[Any]] = set()


class AsyncBroadcast(Buffer[T]):
    """A stream that the tasks of one event loop share.

    One task, in *context*, reads the whole source, an item at a time when one is needed: cancelling
    a subscriber does not break the connection, and whatever the source begins it ends in that task.
    """

    def __init__(
        self,
        head: Any,
        source: Any,
        recording: Recording[T],
        finish: Callable[["AsyncBroadcast[T]", bool], Awaitable[None]],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
        context: Context,
    ) -> None:
        super().__init__(head, recording, lost, retire)
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._finish = finish
        self._context = context
        self._reader: asyncio.Task[None] | None = None
        self._over = False  # the reader has done its last
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        # If every caller was cancelled before it could subscribe, nothing would close the source.
        self._unread = finalize(self, _close_later, self._loop, source)
        self._unread.atexit = False

    def attach(
        self, on_leave: Callable[["AsyncBroadcast[T]"], None] | None, *, joins: bool
    ) -> "AsyncSubscriber[T] | None":
        """A new subscriber, or None if the stream can no longer be joined.

        *on_leave* is called when the subscriber has left.
        """
        subscriber = AsyncSubscriber(self, on_leave)
        return subscriber if self._admit(subscriber, joins=joins) else None

    def _is_fetching(self) -> bool:
        return self._wanted.is_set()

    async def item(self, subscriber: "AsyncSubscriber[T]") -> T:
        """As ``Broadcast.item``."""
        while True:
            item = self._buffered(subscriber)
            if item is not END:
                return item
            if self._state == FAILED:
                raise self._failure()
            if self._over or self._left or (self._reader is None and self._state != OPEN):
                return END
            await self._fetched()

    async def prime(self) -> None:
        """Fetch the first item, and raise what that raises."""
        try:
            await self._fetched()
        except BaseException:
            self.drop(None)
            raise
        if self._state == FAILED:
            raise self._failure()

    async def _fetched(self) -> None:
        """Wait until one more item has come, or there are no more."""
        moved = self._loop.create_future()
        self._waiting.append(moved)
        self._wanted.set()
        if self._reader is None:
            self._unread.detach()
            self._reader = self._loop.create_task(self._read(), context=self._context)
        await moved

    async def _read(self) -> None:
        try:
            items = aiter(self._source)
            while (item := await anext(items, END)) is not END:
                self._take(item)
                if self.recording.full:  # the end is here already, so the last waits for it
                    continue
                self._wanted.clear()
                self._wake()
                await self._wanted.wait()
            self._end()
            await self._source.aclose()
            await self._done(at_end=True)
        except BaseException as exc:
            if not self._left:  # else the one that left has said how it ended
                self._fail(exc)
            with suppress(Exception):  # the failure itself is what the subscribers hear of
                await self._source.aclose()
            await self._done(at_end=False)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._over = True
            self._wanted.clear()
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for moved in waiting:
            if not moved.done():
                moved.set_result(None)

    async def _done(self, *, at_end: bool) -> None:
        if self._first_to_finish():
            await self._finish(self, at_end)

    async def leave(self, subscriber: "AsyncSubscriber[T]") -> None:
        """Remove *subscriber*; the last one closes the call, even if its task is cancelled."""
        if self._leave(subscriber):
            self._unread.detach()
            with shielded():
                await asyncio.shield(_detached(self._loop.create_task(self._close())))

    def drop(self, subscriber: "AsyncSubscriber[T] | None") -> None:
        """``leave`` without waiting. Any thread."""
        if self._leave(subscriber):
            self._unread.detach()
            post(self._loop, lambda: _detached(self._loop.create_task(self._close())))

    async def _close(self) -> None:
        if self._reader is not None:  # it closes the source
            self._reader.cancel()
            await asyncio.wait((self._reader,))
            return
        try:
            await self._source.aclose()
        finally:
            await self._done(at_end=False)


class AsyncSubscriber(Generic[T]):
    """One caller's view of a broadcast, for tasks.

    Iterating it again goes on where it stopped, as some SDKs do to drain a connection.
    """

    def __init__(
        self, broadcast: AsyncBroadcast[T], on_leave: Callable[[AsyncBroadcast[T]], None] | None
    ) -> None:
        self.broadcast = broadcast
        self._on_leave = on_leave
        self._closed = False
        self.at = 0

    async def take(self) -> T:
        """The next item; END after the last."""
        item = await self.broadcast.item(self)
        if item is not END:
            self.at += 1
        return item

    async def __aiter__(self) -> AsyncIterator[T]:
        while (item := await self.take()) is not END:
            yield item

    async def aclose(self) -> None:
        """Stop reading; the last subscriber closes the call, even if its task is cancelled."""
        self._closed = True
        on_leave, self._on_leave = self._on_leave, None
        try:
            await self.broadcast.leave(self)
        finally:
            if on_leave is not None:
                on_leave(self.broadcast)

    def drop(self) -> None:
        """Stop reading without waiting for the call to be closed."""
        self._closed, self._on_leave = True, None
        self.broadcast.drop(self)

    def __del__(self) -> None:
        if not self._closed:
            self.drop()


def _detached(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    return task


def _close_later(loop: asyncio.AbstractEventLoop, source: Any) -> None:
    def close() -> None:
        _detached(loop.create_task(source.aclose()))

    if not loop.is_closed():
        post(loop, close)
