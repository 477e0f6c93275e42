"""A pool of SQLite connections, none of which crosses a fork."""

import os
import weakref
from collections.abc import Callable
from time import monotonic, sleep

from llm_cache_mem.stores import pool
from llm_cache_mem.stores.sqlite.file import Connection
from llm_cache_mem.stores.sqlite.layout import FileRefused

__all__ = ["Pool"]

_FORK_SECONDS = 1.0  # how long a fork waits for calls in progress
_CHECK_SECONDS = 0.1  # how long a reader may go on in a file that was deleted or replaced

_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()
_inherited: list[Connection] = []  # a forked child may neither use nor close these connections


class Pool(pool.Pool[Connection]):
    """As any pool, of connections to a file that may have *moved*.

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
        super().__init__(
            connect,
            is_usable=self._is_current,
            close=Connection.close,
            limit=limit,
            timeout=timeout,
            store="SQLiteStore",
        )
        self._moved = moved
        _pools.add(self)

    def _is_current(self, db: Connection) -> bool:
        """Whether *db* has the right file open, as far as was seen lately."""
        now = monotonic()
        if now - db.checked >= _CHECK_SECONDS:
            if self._moved(db):
                return False
            db.checked = now
        return True

    def _closed_error(self) -> Exception:
        return FileRefused("the store is closed", misconfigured=False)

    def _after_fork(self) -> None:
        _inherited.extend(self._idle)  # none, unless the wait before the fork was cut short
        super()._after_fork()

    def pause(self) -> None:
        """Hand out no connection until ``resume``, and close all; wait a second at most for those
        in use."""
        with self._lock:
            self._paused += 1
        deadline = monotonic() + _FORK_SECONDS
        self.renew()
        while self.size and monotonic() < deadline:
            sleep(0.0005)

    def resume(self) -> None:
        with self._lock:
            self._paused = max(0, self._paused - 1)
        self._settle()


def _pause_all() -> None:
    for each in list(_pools):
        each.pause()


def _resume_all() -> None:
    for each in list(_pools):
        each.resume()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(before=_pause_all, after_in_parent=_resume_all)
