"""Connections, each lent to one caller at a time; none crosses a fork."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.sqlite.file import Connection, FileRefused

__all__ = ["Pool"]

_FORK_SECONDS = 1.0  # how long a fork waits for calls under way
_CHECK_SECONDS = 0.1  # how long a reader may go on in a file that was deleted or replaced

_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()
_inherited: list[Connection] = []  # a child may neither use nor close these


class Pool:
    """At most *limit* connections made by *connect*; a caller waits up to *timeout* seconds for
    one, then TimeoutError.

    SQLite must not be carried into a forked child: the child would believe in locks that only the
    parent holds, and what it then writes is lost when the parent closes the file. So all
    connections are closed before a fork.
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
        self._changed = threading.Condition()
        self._open = 0
        self._waiting = 0
        self._paused = 0  # how many threads are forking
        self._pid = os.getpid()

    def _after_fork(self) -> None:
        _inherited.extend(self._idle)  # none, unless the wait before the fork was cut short
        self._idle = []
        self._reset()

    def borrow(self) -> Connection:
        """A connection for this caller alone, until it comes back by ``give_back`` or
        ``discard``."""
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        while not self._paused:
            try:
                db = self._idle.pop()
            except IndexError:
                break
            if self._is_current(db):
                return db
        return self._wait_or_open()

    def _is_current(self, db: Connection) -> bool:
        """Whether *db* has the right file open, as far as was seen lately; otherwise it is
        closed."""
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
        if self._waiting or self._closed:
            with self._changed:
                if self._closed:
                    self._drop_idle()
                self._changed.notify_all()

    def discard(self, db: Connection) -> None:
        """Close *db*, which failed or whose file is gone; an open transaction is undone."""
        with self._changed:
            self._drop(db)
            self._changed.notify_all()

    def renew(self) -> None:
        """Close what is idle, so that the next ones are new."""
        with self._changed:
            self._drop_idle()

    def close(self) -> None:
        """Close what is idle now and the rest as it comes back; nothing is lent any more."""
        self._closed = True
        with self._changed:
            self._drop_idle()
            self._changed.notify_all()

    def pause(self) -> None:
        """Close all connections, and lend none until ``resume``; waits a second at the most for
        those in use."""
        deadline = monotonic() + _FORK_SECONDS
        with self._changed:
            self._paused += 1
            self._waiting += 1
            self._drop_idle()
            while self._open and self._changed.wait(deadline - monotonic()):
                self._drop_idle()
            self._waiting -= 1

    def resume(self) -> None:
        with self._changed:
            self._paused -= 1
            self._changed.notify_all()

    def _wait_or_open(self) -> Connection:
        deadline = monotonic() + self._timeout
        with self._changed:
            self._waiting += 1
            try:
                while self._paused or self._open >= self._limit:
                    if self._closed:
                        break
                    if self._idle and not self._paused:
                        with contextlib.suppress(
                            IndexError
                        ):  # those who need not wait take without the lock
                            return self._idle.pop()
                    if not self._changed.wait(deadline - monotonic()):
                        raise TimeoutError("all connections are in use")
                if self._closed:
                    raise FileRefused("the store is closed", misconfigured=False)
                self._open += 1
            finally:
                self._waiting -= 1
        try:
            return self._connect()
        except BaseException:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()
            raise

    def _drop_idle(self) -> None:
        while self._idle:
            self._drop(self._idle.pop())

    def _drop(self, db: Connection) -> None:
        self._open -= 1
        with contextlib.suppress(Exception):  # it is being thrown away because it fails
            db.close()


def _pause_all() -> None:
    for pool in list(_pools):
        pool.pause()


def _resume_all() -> None:
    for pool in list(_pools):
        pool.resume()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(before=_pause_all, after_in_parent=_resume_all)
