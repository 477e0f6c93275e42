"""Access to the database file: many readers, each with a connection of its own, and one writer."""

from collections.abc import Callable
from time import monotonic
from typing import TypeVar, TypeVarTuple

from llm_cache_mem._util.fair_lock import FairLock
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.sqlite.file import Connection, DatabaseFile
from llm_cache_mem.stores.sqlite.layout import FileRefused, is_damage
from llm_cache_mem.stores.sqlite.pool import Pool

__all__ = ["Access"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_CONNECTIONS = 16
_LOCK_HELD = "the write lock is held elsewhere"


class Access:
    """Runs work on connections to *file*; each operation waits for others for about *timeout*
    seconds."""

    def __init__(self, file: DatabaseFile, *, timeout: float) -> None:
        self.file = file
        self.pool = Pool(file.connect, file.moved, limit=_CONNECTIONS, timeout=timeout)
        self._timeout = timeout
        self._writing = FairLock()  # writers queue here, without a connection
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._writing.reset()

    def use(self, work: Callable[[Connection, *Ts], R], *args: *Ts) -> R:
        """``work(connection, *args)``; a connection that fails is not used again, a damaged file
        neither."""
        db = self.pool.acquire()
        try:
            result = work(db, *args)
        except BaseException as exc:
            self.pool.discard(db)
            if is_damage(exc):
                self.file.set_aside(db.inode)
            raise
        self.pool.release(db)
        return result

    def write(self, work: Callable[[Connection, *Ts], R], *args: *Ts) -> R:
        """``work(connection, *args)`` as the only writer."""
        self.require_writable()
        deadline = monotonic() + self._timeout
        place = self._writing.acquire(self._timeout)
        if place is None:
            raise TimeoutError(_LOCK_HELD)
        try:
            return self.use(self._alone, deadline, work, *args)
        except FileNotFoundError:  # the file is gone, or its folder: start anew
            self.pool.renew()
            return self.use(self._alone, deadline, work, *args)
        finally:
            self._writing.release(place)

    def write_soon(
        self, work: Callable[[Connection, *Ts], object], seconds: float, *args: *Ts
    ) -> None:
        """``work(connection, *args)`` in a transaction, if the lock comes free within *seconds*.

        It is not counted as a write: it changes no entry.
        """
        self.use(self._soon, work, seconds, *args)

    def require_writable(self) -> None:
        if self.file.read_only:
            raise FileRefused(f"{self.file.path} was opened read-only", misconfigured=False)

    def close(self) -> None:
        self.pool.close()
        self.file.lock.close()
        self.file.changes.close()

    def let_go(self) -> None:
        """Close what is idle; other threads may still use this."""
        self.pool.renew()
        self.file.lock.close()

    def _alone(
        self, db: Connection, deadline: float, work: Callable[[Connection, *Ts], R], *args: *Ts
    ) -> R:
        held = self.file.lock.acquire(max(0.0, deadline - monotonic()))
        if held is None:
            raise TimeoutError(_LOCK_HELD)
        try:
            if self.file.moved(db):
                raise FileNotFoundError("the database file was removed or replaced")
            db.changed = None
            try:
                result = work(db, *args)
            finally:
                self.file.changes.count(held, db.changed)
            self.file.fold_log(db)
        finally:
            held.release()
        return result

    def _soon(
        self,
        db: Connection,
        work: Callable[[Connection, *Ts], object],
        seconds: float,
        *args: *Ts,
    ) -> None:
        held = self.file.lock.acquire(seconds)
        if held is None:
            return
        try:
            db.execute("BEGIN IMMEDIATE")
            work(db, *args)
            db.execute("COMMIT")
            self.file.fold_log(db)
        finally:
            held.release()
