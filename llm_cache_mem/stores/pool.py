"""A pool of connections: each serves one caller at a time, in order of arrival."""

import contextlib
import os
import weakref
from _thread import RLock, allocate_lock  # plain locks: a signal handler cannot leave them held
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.failures import NotAsked

__all__ = ["Pool"]

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


class Pool(Generic[C]):
    """At most *limit* connections, made by *connect* when none is idle. Thread-safe.

    A caller waits for as long as connections come back. If none does for *timeout* seconds, it gets
    NotAsked, in the name of *store*: that says more about this process than about the store. An
    idle connection is used again only if *is_usable* says so; *close* ends one. A forked child
    makes its own.

    Slots and places in the queue are held by weak references, so that those of a caller that an
    interrupt ended at any point free themselves.
    """

    def __init__(
        self,
        connect: Callable[[], C],
        *,
        is_usable: Callable[[C], bool],
        close: Callable[[C], object],
        limit: int,
        timeout: float,
        store: str,
    ) -> None:
        self._connect = connect
        self._is_usable = is_usable
        self._close = close
        self._limit = limit
        self._timeout = timeout
        self._store = store
        self._closed = False
        self._reset()
        reset_after_fork(self)

    def _reset(self) -> None:
        self._idle: list[C] = []  # the last one used comes first; append and pop are atomic
        self._lock = RLock()
        self._slots: list[weakref.ref[_Slot]] = []
        self._waiters: deque[weakref.ref[_Waiter]] = deque()
        self._served = 0  # how many callers came out of the queue
        self._paused = 0  # how many threads want all connections to be closed
        self._pid = os.getpid()

    def _after_fork(self) -> None:
        self._reset()

    @property
    def size(self) -> int:
        """How many connections are open, those in use included."""
        return sum(slot() is not None for slot in self._slots)

    def run(self, work: Callable[Concatenate[C, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``work(connection, ...)``; whatever it raises, that connection is not used
        again."""
        connection = self.acquire()
        try:
            result = work(connection, *args, **kwargs)
        except BaseException:
            self.discard(connection)
            raise
        self.release(connection)
        return result

    def acquire(self) -> C:
        """A connection for this caller alone, until ``release`` or ``discard``."""
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        while not self._paused and not self._waiters:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if self._is_kept(connection):
                return connection
        return self._acquire_in_turn()

    def acquire_idle(self) -> C | None:
        """As ``acquire``, but None if that would wait or make a connection."""
        if self._pid != os.getpid() or self._paused or self._waiters:
            return None
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        return connection if self._is_kept(connection) else None

    def _is_kept(self, connection: C) -> bool:
        """Whether *connection* is usable; else it is closed."""
        usable = False
        try:
            usable = self._is_usable(connection)
        finally:
            if not usable:
                self.discard(connection)
        return usable

    def release(self, connection: C) -> None:
        self._idle.append(connection)
        if self._waiters or self._paused or self._closed:
            self._settle()

    def discard(self, connection: C) -> None:
        """Close *connection*, which failed."""
        self._end(connection)
        self._settle()

    def renew(self) -> None:
        """Close the idle connections, so that the next ones are new."""
        while self._idle:
            with contextlib.suppress(IndexError):
                self._end(self._idle.pop())

    def close(self) -> None:
        """Close the idle connections now and the others as they come back."""
        self._closed = True
        self._settle()

    def _closed_error(self) -> Exception:
        return ConnectionError("the store is closed")

    # -- The queue

    def _settle(self) -> None:
        """After a change: close what may not stay open, and wake the next waiter."""
        if self._paused or self._closed:
            self.renew()
        if self._waiters:
            with self._lock:
                self._wake_next()

    def _wake_next(self) -> None:
        """Wake the first waiter that still waits, if it can be served; inside the lock."""
        while self._waiters:
            waiter = self._waiters[0]()
            if waiter is not None:
                if not self._paused and (self._idle or self._closed or self._has_free_slot()):
                    waiter.wake()
                return
            self._waiters.popleft()

    def _has_free_slot(self) -> bool:
        if len(self._slots) >= self._limit:  # no callbacks: an interrupt would be lost in one
            self._slots = [slot for slot in self._slots if slot() is not None]
        return len(self._slots) < self._limit

    def _acquire_in_turn(self) -> C:
        waiter = _Waiter()
        place = weakref.ref(waiter)
        try:
            with self._lock:
                self._waiters.append(place)
            found = self._wait(waiter, place)
        finally:
            with self._lock:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(place)
                self._wake_next()
        return self._open(found) if isinstance(found, _Slot) else found

    def _wait(self, waiter: "_Waiter", place: "weakref.ref[_Waiter]") -> "C | _Slot":
        """A connection, or the right to open one, when this caller is the first in the queue."""
        served, expired = self._served, False
        while True:
            with self._lock:
                found = self._take() if self._is_first(place) else None
            if found is not None:
                return found
            if expired and served == self._served:
                reason = f"no connection came free in {self._timeout:g} s"
                raise NotAsked(self._store, "connect", reason)
            served = self._served
            expired = not waiter.wait(self._timeout)

    def _is_first(self, place: "weakref.ref[_Waiter]") -> bool:
        while self._waiters and self._waiters[0]() is None:
            self._waiters.popleft()
        return not self._waiters or self._waiters[0] is place

    def _take(self) -> "C | _Slot | None":
        """An idle connection or a free slot, if there is one; inside the lock."""
        if self._closed:
            raise self._closed_error()
        if self._paused:
            return None
        while self._idle:
            with contextlib.suppress(IndexError):  # callers that need not wait take without a lock
                connection = self._idle.pop()
                if self._is_kept(connection):
                    self._served += 1
                    return connection
        if not self._has_free_slot():
            return None
        slot = _Slot()
        self._slots.append(weakref.ref(slot))
        self._served += 1
        return slot

    def _open(self, slot: "_Slot") -> C:
        try:
            connection = self._connect()
        except BaseException:
            with self._lock:
                self._slots = [place for place in self._slots if place() is not slot]
            self._settle()
            raise
        cast(Any, connection).slot = slot
        return connection

    def _end(self, connection: C) -> None:
        with contextlib.suppress(Exception):  # it is thrown away because it fails
            self._close(connection)
        cast(Any, connection).slot = None  # only now: a fork waits until it is closed


class _Slot:
    """The right to have one connection open; free again when the connection lets go of it."""


class _Waiter:
    """A caller in the queue."""

    def __init__(self) -> None:
        self._woken = allocate_lock()
        self._woken.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for ``wake``; whether it came."""
        return self._woken.acquire(timeout=seconds)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # woken already
            self._woken.release()
