"""Entries in one SQLite file: they survive restarts, and many threads and processes share them."""

import functools
import os
import sqlite3
import weakref
from array import array
from collections.abc import Callable, Iterator
from time import time, time_ns
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from llm_cache_mem.entry import Entry, EntryMemo
from llm_cache_mem.errors import EntryUnreadable, LLMCacheError, StoreError
from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.sqlite_file import Connection, DatabaseFile, FileRefused, is_damage
from llm_cache_mem.stores.sqlite_pool import Pool

__all__ = ["SQLiteStore"]

P = ParamSpec("P")
R = TypeVar("R")

_CONNECTIONS = 16
_TOUCHES = 256  # uses of entries that wait to be written, or
_TOUCH_NS = 2_000_000_000  # how long they wait
_TOUCH_SECONDS = 0.02  # how long a reader waits to write them
_SLICE = 1000  # rows that one transaction removes at the most
_SWEEP_EVERY = 64  # puts
_SWEEP = 128  # expired rows that such a put removes at the most

_GET = "SELECT data FROM entries WHERE key = ?"
_PUT = (
    "INSERT INTO entries (key, stored_at, expires_at, used, size, data) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET stored_at = excluded.stored_at, expires_at = excluded.expires_at,"
    " used = excluded.used, size = excluded.size, data = excluded.data"
)
_TOUCH = "UPDATE entries SET used = ? WHERE key = ? AND used < ?"
_TOTALS = "SELECT entries, bytes FROM totals"
_OLDEST = "SELECT size FROM entries WHERE key <> ? ORDER BY used LIMIT ?"
_EVICT = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE key <> ? ORDER BY used LIMIT ?)"
_EXPIRED = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ? AND key <> ? ORDER BY expires_at LIMIT ?)"
_IN_RANGE = "FROM entries WHERE key >= ? AND key < ?"
_CLEAR = f"DELETE FROM entries WHERE id IN (SELECT id {_IN_RANGE} LIMIT {_SLICE})"
_CLEAR_ALL = f"DELETE FROM entries WHERE id IN (SELECT id FROM entries LIMIT {_SLICE})"  # in the order of the file


class _Row(NamedTuple):
    key: str
    stored_at: float
    expires_at: float | None
    used: int
    size: int
    data: bytes


def _store_errors_only(
    operation: str,
) -> "Callable[[Callable[Concatenate[SQLiteStore, P], R]], Callable[Concatenate[SQLiteStore, P], R]]":
    """Turn whatever goes wrong into StoreError: besides its own errors sqlite3 raises OverflowError, UnicodeError and more."""

    def decorate(method: "Callable[Concatenate[SQLiteStore, P], R]") -> "Callable[Concatenate[SQLiteStore, P], R]":
        @functools.wraps(method)
        def translated(self: "SQLiteStore", /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except LLMCacheError:
                raise
            except Exception as exc:
                raise StoreError(type(self).__name__, operation, _reason(exc)) from exc

        return translated

    return decorate


def _reason(exc: Exception) -> str:
    """What went wrong, without keys and values: only errors that are known to name none speak for themselves."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    if isinstance(exc, sqlite3.Error | FileRefused):
        return str(exc)
    return type(exc).__name__


class SQLiteStore:
    """A Store in the SQLite file at *path*, made with its directories if absent, for this user alone.

    Bounds are *max_size* entries and *max_bytes* bytes of keys and stored entries; None is unbounded. What ``put``
    acknowledges survives the death of the process; with *durable* also a power cut, at several times the cost of a write. An
    operation waits about *lock_timeout* seconds for others and then fails. A wrong path raises StoreError here; a file that is
    locked, damaged (it is renamed and a new one begun) or written by a newer version makes operations fail, not the program.
    """

    blocking = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_size: int | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time,
        durable: bool = False,
        lock_timeout: float = 0.5,
    ) -> None:
        for name, bound in (("max_size", max_size), ("max_bytes", max_bytes)):
            if bound is not None and bound < 1:
                raise ValueError(f"{name} must be at least 1, or None for no bound: got {bound}")
        if lock_timeout < 0:
            raise ValueError(f"lock_timeout must not be negative: got {lock_timeout}")
        name = os.fspath(path)
        if not name or "\0" in name or name == ":memory:":
            raise ValueError(f"SQLiteStore needs the path of a file, got {name!r}; to keep entries in memory use MemoryStore")
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._clock = clock
        self._file = DatabaseFile(name, durable=durable, timeout=lock_timeout)
        self._pool = Pool(self._file.connect, self._file.moved, limit=_CONNECTIONS, timeout=lock_timeout)
        self._memo = EntryMemo()
        self._touched: dict[str, int] = {}
        self._touches_due = 0
        self._last_tick = 0
        self._puts = 0
        self.unreadable = 0  # stored entries that could not be read
        self._close = weakref.finalize(self, _close, self._pool, self._file)
        self._begin()

    def __repr__(self) -> str:
        return f"SQLiteStore({self._file.path!r}, max_size={self._max_size}, max_bytes={self._max_bytes})"

    @_store_errors_only("get")
    def get(self, key: str) -> Entry | None:
        row = self._use(_fetch, _GET, (key,))
        if row is None:
            return None
        entry = self._read(key, row[0])
        if entry is not None:
            self._touch(key)
        return entry

    @_store_errors_only("put")
    def put(self, key: str, entry: Entry) -> Removed:
        data = entry.pack(key)
        size = len(key) + len(data)
        if self._max_bytes is not None and size > self._max_bytes:  # do not empty the store for what cannot stay
            self._use(self._write, self._remove, key, None)
            return Removed(evicted=1)
        return self._use(self._write, self._insert, _Row(key, entry.stored_at, entry.expires_at, self._tick(), size, data))

    @_store_errors_only("delete")
    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        return self._use(self._write, self._remove, key, stored_at)

    @_store_errors_only("clear")
    def clear(self, prefix: str = "") -> int:
        return self._in_slices(_CLEAR, _range(prefix)) if prefix else self._in_slices(_CLEAR_ALL, ())

    @_store_errors_only("purge")
    def purge(self) -> int:
        return self._in_slices(_EXPIRED, (self._clock(), "", _SLICE))

    @_store_errors_only("size")
    def size(self, prefix: str = "") -> int:
        """As Store.size; of everything at once, of a part by walking that part of an index."""
        row = self._use(_fetch, f"SELECT count(*) {_IN_RANGE}", _range(prefix)) if prefix else self._use(_fetch, _TOTALS, ())
        return int(row[0])

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """As Store.entries: those that are there at the start and still when their turn comes. Nothing is held in between."""
        for number in self._numbers(prefix):
            found = self._numbered(number, prefix)
            if found is not None:
                yield found

    @_store_errors_only("close")
    def close(self) -> None:
        self._flush_touches()
        self._close()

    # -- Connections

    def _begin(self) -> None:
        """Look at the file once, so that a wrong path is an error of the program that named it."""
        try:
            row = self._use(_fetch, "SELECT max(used) FROM entries", ())
            self._last_tick = row[0] or 0  # goes on from there, even if the clock was set back
        except Exception as exc:  # locked, damaged, a full disk: operations will say so, and it may pass
            if isinstance(exc, FileRefused) and exc.misconfigured:
                raise StoreError(type(self).__name__, "open", str(exc)) from exc

    def _use(self, work: "Callable[Concatenate[Connection, P], R]", *args: P.args, **kwargs: P.kwargs) -> R:
        """``work(connection, *args)``; a connection that fails is not used again, a damaged file neither."""
        while True:
            db = self._pool.borrow()
            try:
                result = work(db, *args, **kwargs)
            except FileNotFoundError:  # or its folder; others like it go in the next rounds, until one is new
                self._pool.discard(db)
            except BaseException as exc:
                self._pool.discard(db)
                if is_damage(exc):
                    self._file.set_aside(db.inode)
                raise
            else:
                self._pool.give_back(db)
                return result

    def _at_best(self, work: "Callable[Concatenate[Connection, P], R]", *args: P.args, **kwargs: P.kwargs) -> None:
        """As ``_use``, for what may as well not happen: on a read-only, locked or full disk reading goes on."""
        try:
            self._use(work, *args, **kwargs)
        except Exception:  # noqa: BLE001
            return

    def _write(self, db: Connection, work: "Callable[Concatenate[Connection, P], R]", *args: P.args, **kwargs: P.kwargs) -> R:
        """``work(connection, *args)`` as the only writer."""
        with self._file.lock:
            if self._file.moved(db):
                raise FileNotFoundError
            result = work(db, *args, **kwargs)
            self._file.fold_log(db)
        return result

    # -- Reading

    def _read(self, key: str, data: object) -> Entry | None:
        """The entry in *data*; None, after removing it, if it is not a whole one."""
        try:
            if type(data) is not bytes:
                raise EntryUnreadable("not bytes")
            return self._memo.get(key, data)
        except EntryUnreadable as exc:
            self.unreadable += 1
            if not exc.newer:
                self._at_best(self._write, _execute, "DELETE FROM entries WHERE key = ? AND data IS ?", (key, data))
            return None

    @_store_errors_only("entries")
    def _numbers(self, prefix: str) -> "array[int]":
        """Row ids, least recently used first: eight bytes each, and a list that later writes do not change."""
        self._flush_touches()
        if prefix:
            return self._use(_numbers, f"SELECT id {_IN_RANGE} ORDER BY used", _range(prefix))
        return self._use(_numbers, "SELECT id FROM entries ORDER BY used", ())

    @_store_errors_only("entries")
    def _numbered(self, number: int, prefix: str) -> tuple[str, Entry] | None:
        row = self._use(_fetch, "SELECT key, data FROM entries WHERE id = ?", (number,))
        if row is None:
            return None
        key = row[0].decode("ascii", "backslashreplace")
        if not key.startswith(prefix):
            return None  # removed, and its id given to another
        entry = self._read(key, row[1])
        return None if entry is None else (key, entry)

    # -- Uses, for the order of eviction

    def _tick(self) -> int:
        """A number that grows with every use: the time, so that processes agree on it, and never the same one twice."""
        now = max(time_ns(), self._last_tick + 1)
        self._last_tick = now
        return now

    def _touch(self, key: str) -> None:
        """Note a use; written by the hundred, because a write costs many times a read. A lost one does no harm."""
        now = self._tick()
        touched = self._touched
        touched[key] = now
        if len(touched) >= _TOUCHES or now >= self._touches_due:
            self._touches_due = now + _TOUCH_NS
            self._flush_touches()

    def _flush_touches(self) -> None:
        if self._touched:
            self._at_best(self._write_touches_soon)

    def _write_touches_soon(self, db: Connection) -> None:
        lock = self._file.lock
        if not lock.acquire(_TOUCH_SECONDS):
            self._touched = {}
            return
        try:
            db.execute("BEGIN IMMEDIATE")
            self._write_touches(db)
            db.execute("COMMIT")
            self._file.fold_log(db)
        finally:
            lock.release()

    def _write_touches(self, db: Connection) -> None:
        touched, self._touched = self._touched, {}
        db.executemany(_TOUCH, [(used, key, used) for key, used in list(touched.items())])

    # -- Writing; all of these run inside the lock

    def _insert(self, db: Connection, row: _Row) -> Removed:
        self._puts += 1
        if self._puts % _SWEEP_EVERY and self._has_room(db, row.size):
            db.execute(_PUT, row)
            return NOTHING_REMOVED
        db.execute("BEGIN IMMEDIATE")
        expired = _execute(db, _EXPIRED, (self._clock(), row.key, _SWEEP))
        db.execute(_PUT, row)
        evicted = self._evict(db, row.key)
        db.execute("COMMIT")
        return Removed(evicted, expired)

    def _has_room(self, db: Connection, size: int) -> bool:
        if self._max_size is None and self._max_bytes is None:
            return True
        return self._excess(db, 1, size) == (0, 0)

    def _excess(self, db: Connection, entries: int = 0, size: int = 0) -> tuple[int, int]:
        """By how many entries and bytes the bounds are exceeded, with so much added."""
        held, used = db.execute(_TOTALS).fetchone()
        over_entries = 0 if self._max_size is None else max(0, held + entries - self._max_size)
        over_bytes = 0 if self._max_bytes is None else max(0, used + size - self._max_bytes)
        return over_entries, over_bytes

    def _evict(self, db: Connection, newest: str) -> int:
        """Remove the least recently used until the bounds hold again, or a slice is gone; never *newest*."""
        over_entries, over_bytes = self._excess(db)
        if not over_entries and not over_bytes:
            return 0
        self._write_touches(db)
        count = freed = 0
        for (size,) in db.execute(_OLDEST, (newest, _SLICE)):
            if count >= over_entries and freed >= over_bytes:
                break
            count += 1
            freed += size
        return _execute(db, _EVICT, (newest, count))

    def _remove(self, db: Connection, key: str, stored_at: float | None) -> bool:
        if stored_at is None:
            return _execute(db, "DELETE FROM entries WHERE key = ?", (key,)) > 0
        return _execute(db, "DELETE FROM entries WHERE key = ? AND stored_at = ?", (key, stored_at)) > 0

    def _in_slices(self, statement: str, parameters: tuple[Any, ...]) -> int:
        """Run a DELETE that removes a slice at a time until there is nothing left; others write in between."""
        total = 0
        while removed := self._use(self._write, _execute, statement, parameters):
            total += removed
        return total


def _close(pool: Pool, file: DatabaseFile) -> None:
    pool.close()
    file.lock.close()


def _range(prefix: str) -> tuple[str, str]:
    """The half-open range of keys that begin with *prefix*, which is not empty."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _fetch(db: Connection, statement: str, parameters: tuple[Any, ...]) -> Any:
    return db.execute(statement, parameters).fetchone()


def _execute(db: Connection, statement: str, parameters: tuple[Any, ...]) -> int:
    return db.execute(statement, parameters).rowcount


def _numbers(db: Connection, statement: str, parameters: tuple[Any, ...]) -> "array[int]":
    return array("q", (number for (number,) in db.execute(statement, parameters)))
