"""A pool of connections: each is leased to one caller at a time, first come, first served."""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, Generic, ParamSpec, TypeVar

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.failures import PoolExhausted

__all__ = ["Pool"]

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


class Pool(Generic[C]):
    """At most *limit* connections, made by *connect* when none is idle. Thread-safe.

    A caller waits up to *timeout* seconds for a connection, then PoolExhausted. An idle connection
    is used again only if *is_usable* says so; *close* ends one. A forked child makes its own.
    """

    def __init__(
        self,
        connect: Callable[[], C],
        *,
        is_usable: Callable[[C], bool],
        close: Callable[[C], object],
        limit: int,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._is_usable = is_usable
        self._close = close
        self._limit = limit
        self._timeout = timeout
        self._closed = False
        self._after_fork()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._idle: list[C] = []  # the parent's are its own; append and pop are atomic
        self._open = 0
        self._waiters: deque[_Waiter[C]] = deque()
        self._lock = threading.RLock()  # a signal handler may ask in the middle of it
        self._pid = os.getpid()

    @property
    def size(self) -> int:
        """How many connections are open, leased ones included."""
        return self._open

    def run(self, work: Callable[Concatenate[C, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``work(connection, ...)``; whatever it raises, that connection is not used
        again."""
        connection = self._lease()
        try:
            result = work(connection, *args, **kwargs)
        except BaseException:
            self._discard(connection)
            raise
        self._release(connection)
        return result

    def renew(self) -> None:
        """Close the idle connections, so that the next ones are new."""
        with self._lock:
            while self._idle:
                self._end(self._idle.pop())

    def close(self) -> None:
        """Close the idle connections now and the leased ones as they come back."""
        self._closed = True
        self.renew()

    # -- Leases

    def _lease(self) -> C:
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        connection = self._take()
        try:
            if self._closed:
                raise ConnectionError("the store is closed")
            if connection is not None:
                if self._is_usable(connection):
                    return connection
                self._close_quietly(connection)
            return self._connect()
        except BaseException:
            self._discard(connection)
            raise

    def _take(self) -> C | None:
        """An idle connection, the one that was used last, or None for leave to make one."""
        if not self._waiters:
            try:
                return self._idle.pop()
            except IndexError:
                pass
        waiter: _Waiter[C] = _Waiter()
        with self._lock:
            if not self._waiters:
                with suppress(IndexError):
                    return self._idle.pop()
                if self._open < self._limit or self._closed:
                    self._open += 1
                    return None
            self._waiters.append(waiter)
            self._serve()
        try:
            if waiter.wait(self._timeout):
                return waiter.connection
        except BaseException:
            if not self._withdraw(waiter):
                self._discard(waiter.connection)
            raise
        if self._withdraw(waiter):
            raise PoolExhausted(f"all {self._limit} connections are in use")
        return waiter.connection

    def _withdraw(self, waiter: "_Waiter[C]") -> bool:
        """Stop waiting; whether nothing was handed over in the last moment."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return True
        return False

    def _release(self, connection: C) -> None:
        self._idle.append(connection)
        if self._waiters:
            with self._lock:
                self._serve()
        if self._closed:
            self.renew()

    def _discard(self, connection: C | None) -> None:
        with self._lock:
            self._end(connection)
            if self._waiters:
                self._open += 1
                self._waiters.popleft().hand_over(None)

    # -- Inside, under the lock

    def _serve(self) -> None:
        """Hand idle connections to those who have waited longest."""
        while self._waiters:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self._waiters.popleft().hand_over(connection)

    def _end(self, connection: C | None) -> None:
        self._open -= 1
        if connection is not None:
            self._close_quietly(connection)

    def _close_quietly(self, connection: C) -> None:
        with suppress(Exception):  # it is being thrown away, whatever state it is in
            self._close(connection)


class _Waiter(Generic[C]):
    """A caller that waits for a connection, or for leave to make one."""

    def __init__(self) -> None:
        self.connection: C | None = None
        self._handed_over = threading.Lock()
        self._handed_over.acquire()

    def wait(self, seconds: float) -> bool:
        return self._handed_over.acquire(timeout=seconds)

    def hand_over(self, connection: C | None) -> None:
        self.connection = connection
        self._handed_over.release()
