"""SQLite connections, each lent to one caller at a time; none crosses a fork."""

import contextlib
import os
import weakref
from _thread import RLock, allocate_lock  # plain locks: a signal handler cannot leave them held
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.stores.sqlite.file import Connection, FileRefused

__all__ = ["Pool"]

_FORK_SECONDS = 1.0  # how long a fork waits for calls in progress
_CHECK_SECONDS = 0.1  # how long a reader may go on in a file that was deleted or replaced

_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()
_inherited: list[Connection] = []  # a forked child may neither use nor close these connections


class _Slot:
    """The right to have one connection open; free again when the connection lets go of it."""


class _Waiter:
    """A caller in the queue."""

    def __init__(self) -> None:
        self._turn = allocate_lock()
        self._turn.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for ``wake``; whether it came."""
        return self._turn.acquire(timeout=seconds)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # woken already
            self._turn.release()


class Pool:
    """At most *limit* connections made by *connect*, lent to callers in order of arrival.

    A caller waits for as long as connections come back. If none does for *timeout* seconds, it gets
    NotAsked: that says more about this process than about the file.

    SQLite must not be carried into a forked child: the child would believe in locks that only the
    parent holds, and what it then writes is lost when the parent closes the file. So all
    connections are closed before a fork.

    Slots and places in the queue are held by weak references, so that those of a caller that an
    interrupt ended at any point free themselves.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        moved: Callable[[Connection], bool],
        *,
        limit: int,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._moved = moved
        self._limit = limit
        self._timeout = timeout
        self._idle: list[Connection] = []  # the last one given back has the warmest page cache
        self._closed = False
        self._reset()
        _pools.add(self)
        reset_after_fork(self)

    def _reset(self) -> None:
        self._lock = RLock()
        self._slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
        self._waiters: deque[weakref.ref[_Waiter]] = deque()
        self._served = 0  # how many callers came out of the queue
        self._paused = 0  # how many threads are forking
        self._pid = os.getpid()

    def _after_fork(self) -> None:
        _inherited.extend(self._idle)  # none, unless the wait before the fork was cut short
        self._idle = []
        self._reset()

    def borrow(self) -> Connection:
        """A connection for this caller alone, until ``give_back`` or ``discard``."""
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        while not self._paused and not self._waiters:
            try:
                db = self._idle.pop()
            except IndexError:
                break
            if self._is_current(db):
                return db
        return self._borrow_in_turn()

    def _is_current(self, db: Connection) -> bool:
        """Whether *db* has the right file open, as far as was seen lately; else it is closed."""
        now = monotonic()
        if now - db.checked < _CHECK_SECONDS:
            return True
        moved = True
        try:
            moved = self._moved(db)
        finally:
            if moved:
                self.discard(db)
        db.checked = now
        return not moved

    def give_back(self, db: Connection) -> None:
        self._idle.append(db)
        if self._waiters or self._paused or self._closed:
            self._settle()

    def discard(self, db: Connection) -> None:
        """Close *db*, which failed or whose file is gone; an open transaction is undone."""
        _close(db)
        self._settle()

    def renew(self) -> None:
        """Close what is idle, so that the next ones are new."""
        while self._idle:
            with contextlib.suppress(IndexError):
                _close(self._idle.pop())

    def close(self) -> None:
        """Close what is idle now and the rest as it comes back; nothing is lent any more."""
        self._closed = True
        self._settle()

    def pause(self) -> None:
        """Lend no connection until ``resume``, and close all; wait a second at most for those in
        use."""
        with self._lock:
            self._paused += 1
        deadline = monotonic() + _FORK_SECONDS
        self.renew()
        while self._slots and monotonic() < deadline:
            sleep(0.0005)

    def resume(self) -> None:
        with self._lock:
            self._paused = max(0, self._paused - 1)
        self._settle()

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
        return len(self._slots) < self._limit

    def _borrow_in_turn(self) -> Connection:
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
        return found if isinstance(found, Connection) else self._open(found)

    def _wait(self, waiter: _Waiter, place: "weakref.ref[_Waiter]") -> Connection | _Slot:
        """A connection, or the right to open one, when it is this caller's turn."""
        served, expired = self._served, False
        while True:
            with self._lock:
                found = self._take() if self._is_first(place) else None
            if found is not None:
                return found
            if expired and served == self._served:
                reason = f"no connection came free in {self._timeout:g} s"
                raise NotAsked("SQLiteStore", "connect", reason)
            served = self._served
            expired = not waiter.wait(self._timeout)

    def _is_first(self, place: "weakref.ref[_Waiter]") -> bool:
        while self._waiters and self._waiters[0]() is None:
            self._waiters.popleft()
        return not self._waiters or self._waiters[0] is place

    def _take(self) -> Connection | _Slot | None:
        """An idle connection or a free slot, if there is one; inside the lock."""
        if self._closed:
            raise FileRefused("the store is closed", misconfigured=False)
        if self._paused:
            return None
        while self._idle:
            with contextlib.suppress(IndexError):  # callers that need not wait take without a lock
                db = self._idle.pop()
                if self._is_current(db):
                    self._served += 1
                    return db
        if not self._has_free_slot():
            return None
        slot = _Slot()
        self._slots.add(slot)
        self._served += 1
        return slot

    def _open(self, slot: _Slot) -> Connection:
        try:
            db = self._connect()
        except BaseException:
            self._slots.discard(slot)
            self._settle()
            raise
        db.slot = slot
        return db


def _close(db: Connection) -> None:
    with contextlib.suppress(Exception):  # it is being thrown away because it fails
        db.close()
    db.slot = None  # only now: no fork may come while SQLite closes it


def _pause_all() -> None:
    for pool in list(_pools):
        pool.pause()


def _resume_all() -> None:
    for pool in list(_pools):
        pool.resume()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(before=_pause_all, after_in_parent=_resume_all)
