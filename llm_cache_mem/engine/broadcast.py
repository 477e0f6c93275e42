"""Broadcast a stream in progress: identical requests share one stream, each from its start.

No subscriber leads. The one that needs the next item has it fetched into a buffer that all of them
read, so one that leaves does not stop the others, and a slow one does not delay them. One thread or
task may read two subscribers in turn. When the last one leaves, the call is closed.

The items are bytes of an HTTP response, or chunks as an SDK or a framework gives them: a Recording
knows which.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import WeakSet

from llm_cache_mem._util.exceptions import copy_exception

__all__ = ["END", "Broadcast", "Buffer", "Recording", "Subscriber"]

T = TypeVar("T")

END: Final[Any] = object()
"""Stands for an item where there are no more."""

OPEN, ENDED, FAILED, CLOSED = range(4)
# A connection that has been idle for so long may be dead upstream, so no caller joins it.
_STALE_SECONDS = 30.0


class Recording(Protocol[T]):
    """What the items of one stream are, and what they add up to. Not thread-safe."""

    @property
    def fault(self) -> object:
        """Why the stream can no longer be stored; None if it can."""
        ...

    @property
    def unusable(self) -> bool:
        """Whether no other caller should join the stream."""
        ...

    @property
    def full(self) -> bool:
        """Whether the end is known to follow at once."""
        ...

    def add(self, item: T, /) -> Any:
        """Record *item*, and return a form of it that no change of *item* reaches."""
        ...

    def copy(self, form: Any, /) -> T:
        """An item of its own for one more subscriber, from what ``add`` returned."""
        ...

    def finish(self, *, at_end: bool) -> bool:
        """Whether the stream is whole; called once, when no more items will be added.

        Without *at_end*, the last subscriber left before the end of the source.
        """
        ...


class _Item:
    """An item of a buffer: the original goes to the first that takes it, a copy to all others."""

    __slots__ = ("form", "original", "taken")

    def __init__(self, original: Any, form: Any) -> None:
        self.original, self.form, self.taken = original, form, False


class Buffer(Generic[T]):
    """The items so far and their subscribers.

    *head* is what came before the first item. *lost* makes the error for subscribers whose fetch
    was interrupted; *retire* stops later callers from joining.
    """

    def __init__(
        self,
        head: Any,
        recording: Recording[T],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
    ) -> None:
        self.head = head
        self.retire = retire
        self.entry: Any = None
        """The entry, once the stream is stored."""
        self.timeout: float | None = None
        """The timeout of the caller over whose connection the items come."""
        self.recording = recording
        self._finished = False
        self._left = False  # by all subscribers, before its end
        self._moved = monotonic()
        self._lost = lost
        # re-entrant: the garbage collector may drop a subscriber while it is held
        self._lock = threading.RLock()
        self._state = OPEN
        self._items: list[_Item] = []
        self._first = 0  # the index of the first item that is still in the buffer
        self._subscribers: WeakSet[Any] = WeakSet()
        self._error: BaseException | None = None
        self._raised = False
        self._only: Any = None

    @property
    def failed(self) -> bool:
        """Whether reading the source has failed."""
        return self._state == FAILED

    def _admit(self, subscriber: Any, *, joins: bool) -> bool:
        """Add *subscriber*, if the stream can still be read from its first item to its end.

        One that *joins* another caller's call is not added to an idle one.
        """
        with self._lock:
            stale = (
                self._state == OPEN
                and monotonic() - self._moved > _STALE_SECONDS
                and not self._is_fetching()
            )
            if (
                (joins and (stale or self.recording.unusable))
                or self._state in (FAILED, CLOSED)
                or self._first
            ):
                return False
            self._subscribers.add(subscriber)
            return True

    def _is_fetching(self) -> bool:
        raise NotImplementedError

    def leave_to(self, subscriber: Any) -> None:
        """Leave the rest of the stream to *subscriber*, which reads the source by other ways too:
        the others get the error of an interrupted fetch."""
        self._only = subscriber
        self.retire()

    def _has(self, at: int) -> bool:
        with self._lock:
            return 0 <= at - self._first < len(self._items)

    def _buffered(self, subscriber: Any) -> T:
        """The next item of *subscriber* if it is in the buffer, else END."""
        at = subscriber.at
        with self._lock:
            if self._only not in (None, subscriber):
                raise self._lost()
            index = at - self._first
            if not 0 <= index < len(self._items):
                return END  # type: ignore[no-any-return]  # it stands for an item
            item = self._items[index]
            if not item.taken:
                original, item.original, item.taken = item.original, None, True
                return original  # type: ignore[no-any-return]  # a T
        return self.recording.copy(item.form)

    def _take(self, item: T) -> None:
        if self._left:  # while a task fetched it
            return
        form = self.recording.add(item)
        if self.recording.unusable:
            self.retire()
        with self._lock:
            self._moved = monotonic()
            self._items.append(_Item(item, form))
            # Not to be stored, so no later caller needs it: drop what all subscribers have read.
            if self.recording.fault is not None:
                needed = min(
                    (subscriber.at for subscriber in self._subscribers), default=self._first
                )
                del self._items[: needed - self._first]
                self._first = needed

    def _fail(self, error: BaseException) -> None:
        self.recording.finish(at_end=False)
        with self._lock:
            self._state, self._error = FAILED, error

    def _failure(self) -> BaseException:
        """The error that ended the fetch for the first subscriber that meets it, a copy for any
        other; *lost* if the fetch was interrupted."""
        error = self._error
        if not isinstance(error, Exception):
            return self._lost()
        with self._lock:
            raised, self._raised = self._raised, True
        return copy_exception(error, error.__traceback__) if raised else error

    def _leave(self, subscriber: Any) -> bool:
        """Remove *subscriber*; whether it was the last of an open call, which is to be closed now.

        A whole stream has then ended, and can be joined until it is stored; any other has not.
        """
        with self._lock:
            self._subscribers.discard(subscriber)
            if self._subscribers or self._state != OPEN:
                return False
            self._state = ENDED if self.recording.finish(at_end=False) else CLOSED
            self._left = True
            return True

    def _end(self) -> None:
        self.recording.finish(at_end=True)
        with self._lock:
            self._state = ENDED

    def _first_to_finish(self) -> bool:
        with self._lock:
            first, self._finished = not self._finished, True
            return first


class Broadcast(Buffer[T]):
    """A stream that threads share.

    *source* is an iterable with ``close``; *finish* is called once with whether it was read to its
    end.
    """

    def __init__(
        self,
        head: Any,
        source: Any,
        recording: Recording[T],
        finish: Callable[["Broadcast[T]", bool], None],
        lost: Callable[[], Exception],
        retire: Callable[[], None],
    ) -> None:
        super().__init__(head, recording, lost, retire)
        self._source = source
        self._iterator: Iterator[T] | None = None
        self._finish = finish
        self._fetching = threading.Lock()

    def attach(
        self, on_leave: Callable[["Broadcast[T]"], None] | None, *, joins: bool
    ) -> "Subscriber[T] | None":
        """A new subscriber, or None if the stream can no longer be joined.

        *on_leave* is called when the subscriber has left.
        """
        subscriber = Subscriber(self, on_leave)
        return subscriber if self._admit(subscriber, joins=joins) else None

    def _is_fetching(self) -> bool:
        return self._fetching.locked()

    def item(self, subscriber: "Subscriber[T]") -> T:
        """The next item of *subscriber*, fetched if it is not in the buffer; END after the last.

        Raises what reading the source raises.
        """
        while True:
            item = self._buffered(subscriber)
            if item is not END:
                return item
            with self._fetching:
                if self._has(subscriber.at):
                    continue
                if self._state == FAILED:
                    raise self._failure()
                if self._state != OPEN:
                    return END
                self._fetch()

    def _fetch(self) -> None:
        try:
            if self._iterator is None:
                self._iterator = iter(self._source)
            item = next(self._iterator, END)
        except BaseException as exc:
            self._raised = True
            self._fail(exc)
            with suppress(Exception):  # the failure itself is what the subscribers hear of
                self._source.close()
            self._done(at_end=False)
            raise
        if item is not END:
            self._take(item)
            return
        self._end()
        self._source.close()
        self._done(at_end=True)

    def _done(self, *, at_end: bool) -> None:
        if self._first_to_finish():
            self._finish(self, at_end)

    def prime(self) -> None:
        """Fetch the first item, and raise what that raises."""
        with self._fetching:
            self._fetch()

    def leave(self, subscriber: "Subscriber[T]") -> None:
        """Remove *subscriber*; the last one closes the call."""
        if self._leave(subscriber):
            try:
                self._source.close()
            finally:
                self._done(at_end=False)


class Subscriber(Generic[T]):
    """One caller's view of a broadcast, for threads."""

    def __init__(
        self, broadcast: Broadcast[T], on_leave: Callable[[Broadcast[T]], None] | None
    ) -> None:
        self.broadcast = broadcast
        self._on_leave = on_leave
        self.at = 0

    def take(self) -> T:
        """The next item; END after the last."""
        item = self.broadcast.item(self)
        if item is not END:
            self.at += 1
        return item

    def __iter__(self) -> Iterator[T]:
        while (item := self.take()) is not END:
            yield item

    def close(self) -> None:
        """Stop reading; the last subscriber closes the call."""
        self.broadcast.leave(self)
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None:
            on_leave(self.broadcast)

    def drop(self) -> None:
        """``close``, but *on_leave* is not called."""
        self._on_leave = None
        self.close()
