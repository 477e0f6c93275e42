"""A store in a SQLite file, which survives restarts and is shared by threads and processes."""

import contextlib
import functools
import itertools
import os
import sqlite3
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar, TypeVarTuple

from llm_cache_mem._util.clock import now
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.turns import Turns
from llm_cache_mem.errors import EntryUnreadable, StoreError
from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.failures import store_errors_only
from llm_cache_mem.stores.sqlite import leases, rows, survey
from llm_cache_mem.stores.sqlite.file import Connection, DatabaseFile
from llm_cache_mem.stores.sqlite.layout import FileRefused, is_damage
from llm_cache_mem.stores.sqlite.packing import SLICE, Row, packed, slices
from llm_cache_mem.stores.sqlite.pool import Pool
from llm_cache_mem.stores.sqlite.uses import Uses
from llm_cache_mem.values.entry import PLAIN, Entry, EntryMemo, Envelope

__all__ = ["SQLiteStore"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_CONNECTIONS = 16
_TOUCH_SECONDS = 0.02  # how long a reader waits to write uses
_GLANCE_SECONDS = 0.002  # that a read on an event loop may take
_GLANCE_BYTES = 256 << 10  # of an entry read there, since it is decoded there too
_GLANCE_PAUSE = 1.0  # seconds without such reads after one that failed,
_GLANCE_REST = 10  # times what it took after two slow ones
_SURE_SECONDS = 0.1  # how long writes by other tools than this library may go unnoticed
_SWEEP_EVERY = 64  # puts
_SWEEP = 256  # rows that a sweep looks at, and that of a put that has to make room
_SHORT_SWEEP = 32
_PAGE_BYTES = 16 << 10  # that a put writes beside its entry
_CREDIT = 16  # the share of the room left that one process fills before it looks again


def _reason(exc: Exception) -> str:
    """What went wrong, without keys and values: only errors that are known to name none speak for
    themselves."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    if isinstance(exc, sqlite3.Error | FileRefused):
        return str(exc)
    return type(exc).__name__


class SQLiteStore:
    """A Store in the SQLite file at *path*, which is made if absent, readable by this user alone.

    What ``put`` acknowledges survives the death of the process. A file that is locked, damaged (it
    is renamed and a new one begun) or written by a newer version makes operations fail, not the
    program.

    Args:
        path: The file, in a folder that exists. ``~`` is the home directory.
        max_size: The most entries; None is unbounded.
        max_bytes: The most bytes of keys and stored entries; None is unbounded.
        clock: Unix seconds.
        durable: Survive a power cut too, at several times the cost of a write.
        lock_timeout: Seconds that an operation waits for others, about; then it fails.
        envelope: Makes bytes of entries, and entries of bytes.
        make_folder: Make missing folders above the file, for this user alone.
        read_on_loop: Let async callers read on the event loop where that takes microseconds; else
            each read is in a thread, which costs several times as much.
        read_only: Change nothing: the file must be there, writes fail, and what is damaged or
            cannot be read stays. For tools beside the programs that use the file.

    Raises:
        StoreError: The path cannot be that of a database, or, with *read_only*, there is none that
            can be read now.
    """

    blocking = True
    counts_at_once = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_size: int | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], float] = now,
        durable: bool = False,
        lock_timeout: float = 0.5,
        envelope: Envelope = PLAIN,
        make_folder: bool = False,
        read_only: bool = False,
        read_on_loop: bool = True,
    ) -> None:
        for name, bound in (("max_size", max_size), ("max_bytes", max_bytes)):
            if bound is not None and bound < 1:
                raise ValueError(f"{name} must be at least 1, or None for no bound: got {bound}")
        if lock_timeout < 0:
            raise ValueError(f"lock_timeout must not be negative: got {lock_timeout}")
        name = os.path.expanduser(os.fspath(path))
        if not name or "\0" in name or name == ":memory:":
            raise ValueError(
                f"SQLiteStore needs the path of a file, got {name!r}; to keep entries in memory use"
                " MemoryStore"
            )
        self.name = f"sqlite:///{name}"
        self._bounds = rows.Bounds(max_size, max_bytes)
        self._clock = clock
        self._file = DatabaseFile(
            name,
            durable=durable,
            timeout=lock_timeout,
            make_folder=make_folder,
            read_only=read_only,
        )
        self._pool = Pool(
            self._file.connect, self._file.moved, limit=_CONNECTIONS, timeout=lock_timeout
        )
        self._lock_timeout = lock_timeout
        self._writing = Turns()  # writers queue here, without a connection
        self.envelope = envelope
        self._memo = EntryMemo(envelope=envelope)
        self._uses = Uses()
        self._flush_next = False
        self._glance_slow = False  # whether the last one was
        self._glance_from = 0.0 if read_on_loop else float("inf")
        self._puts = 0
        self._sweep = rows.Sweep()
        self._credit: tuple[float, float] = (0, 0)
        self._versions = itertools.count()
        self._version = next(self._versions)
        self._sure_until = 0.0  # until then no look is needed for writes that are not counted
        self.unreadable = 0  # stored entries that could not be read
        weakref.finalize(self, _let_go, self._pool, self._file)
        reset_after_fork(self)
        self._begin()

    def _after_fork(self) -> None:
        self._writing.reset()

    @property
    def path(self) -> str:
        """The file, with links resolved."""
        return self._file.path

    def __repr__(self) -> str:
        return (
            f"SQLiteStore({self._file.path!r}, max_size={self._bounds.entries},"
            f" max_bytes={self._bounds.bytes})"
        )

    @store_errors_only("get", _reason)
    def get(self, key: str) -> Entry | None:
        mark = self._mark()
        known = None if mark is None else self._memo.recall(key, mark)
        if known is not None:
            self.touch(key, known.used)
            return known.entry
        row, mark = self._use(self._get, key)
        if row is None:
            return None
        data, used = row
        entry = self._read(key, data, mark=mark, used=used)
        if entry is not None:
            self.touch(key, used)
        return entry

    def glance(self, key: str) -> Entry | None:
        """The entry under *key*, if it is read so soon that an event loop may wait for it; None
        says nothing.

        A read waits for no writer, and the pages that it needs are mostly in memory. After slow
        ones, or one that failed, ``get`` is used for a while; for good, once a tool that finds
        blocking calls on event loops has found this one.
        """
        began = monotonic()
        if began < self._glance_from or self._flush_soon() or not self._file.in_wal_mode:
            return None
        mark = self._mark()
        known = None if mark is None else self._memo.recall(key, mark)
        if known is not None:
            self._uses.note(key, known.used)
            return known.entry
        db = self._pool.acquire_idle()
        if db is None:
            return None
        try:
            row, mark = self._get(db, key)
        except BaseException as exc:
            self._pool.discard(db)
            if not isinstance(exc, Exception):
                raise
            found_out = type(exc).__name__ == "BlockingError"  # of blockbuster
            self._glance_from = float("inf") if found_out else monotonic() + _GLANCE_PAUSE
            return None
        self._pool.release(db)
        self._judge_glance(began)
        if row is None or type(row[0]) is not bytes or len(row[0]) > _GLANCE_BYTES:
            return None
        try:
            entry = self._memo.get(key, row[0], mark, row[1])
        except EntryUnreadable:
            return None  # get will remove it
        self._uses.note(key, row[1])
        return entry

    def _judge_glance(self, began: float) -> None:
        """Stop reading on event loops for a while, so that they wait little of the time, after two
        slow reads in a row: one alone may say more about a busy processor than about the disk."""
        ended = monotonic()
        was_slow, self._glance_slow = self._glance_slow, ended - began > _GLANCE_SECONDS
        if was_slow and self._glance_slow:
            self._glance_from = ended + _GLANCE_REST * (ended - began)

    @store_errors_only("put", _reason)
    def put(self, key: str, entry: Entry) -> Removed:
        row = packed(key, entry, self.envelope, self._uses.note_put(key))
        if (
            self._bounds.bytes is not None and row.size > self._bounds.bytes
        ):  # do not empty the store for what cannot stay
            self._write(rows.remove, key, None)
            return Removed(evicted=1)
        return self._write(self._insert, row)

    @store_errors_only("get_many", _reason)
    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        found = {}
        for name, data, used in self._use(rows.get_many, list(dict.fromkeys(keys))):
            key = name.decode("ascii", "backslashreplace")
            entry = self._read(key, data)
            if entry is not None:
                found[key] = entry
                self.touch(key, used)
        return found

    @store_errors_only("put_many", _reason)
    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """As Store.put_many, in transactions between which others write."""
        some = [
            packed(key, entry, self.envelope, self._uses.note_put(key))
            for key, entry in entries.items()
        ]
        most = self._bounds.bytes
        too_large = [row for row in some if most is not None and row.size > most]
        for row in too_large:
            self._write(rows.remove, row.key, None)
        evicted, expired = len(too_large), 0
        for batch in slices([row for row in some if most is None or row.size <= most]):
            removed = self._write(self._insert_all, batch)
            evicted, expired = evicted + removed.evicted, expired + removed.expired
        return Removed(evicted, expired)

    @store_errors_only("delete", _reason)
    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        return self._write(rows.remove, key, stored_at)

    @store_errors_only("clear", _reason)
    def clear(self, prefix: str = "") -> int:
        removed = self._write(rows.clear_all, prefix)
        if removed is None:
            numbers = self._use(rows.numbers, prefix)
            removed = self._in_slices(numbers, rows.remove_prefixed, prefix)
        self._shrink()
        return removed

    @store_errors_only("purge", _reason)
    def purge(self) -> int:
        return self.prune(survey.Chosen(self._clock()))

    @store_errors_only("size", _reason)
    def size(self, prefix: str = "") -> int:
        return self._use(rows.count, prefix)

    @store_errors_only("version", _reason)
    def version(self) -> object:
        """What changes whenever anything was written; what was read under the same is still
        valid."""
        mark = self._mark()
        return self._use(self._look) if mark is None else mark

    def entries(self, prefix: str = "", *, part: str = "") -> Iterator[tuple[str, Entry]]:
        """As Store.entries, of keys that hold *part*: the entries that are there at the start and
        still when their turn comes. No connection is held in between."""
        for number in self._numbers(prefix, part):
            found = self._numbered(number, prefix)
            if found is not None:
                yield found

    # -- What commands ask

    @store_errors_only("purge", _reason)
    def prune(self, chosen: survey.Chosen) -> int:
        """Remove the entries that are *chosen* and count as expired; how many."""
        self._require_writable()
        numbers = self._use(survey.expired, chosen)
        removed = len(numbers)
        all_of_them = removed > SLICE and removed == self._use(rows.count, "")
        if not all_of_them or not self._write(survey.remove_all_expired, chosen):
            removed = self._in_slices(numbers, survey.remove_expired, chosen)
        self._shrink()
        return removed

    @store_errors_only("size", _reason)
    def count_expired(self, chosen: survey.Chosen) -> int:
        """How many entries ``prune`` would remove."""
        return len(self._use(survey.expired, chosen))

    @store_errors_only("size", _reason)
    def is_sealed(self) -> bool:
        """Whether there are entries whose model only those who can decrypt them know."""
        return self._use(survey.is_sealed)

    @store_errors_only("size", _reason)
    def parts(self) -> list[survey.Part]:
        """The sums of what is there, none of it read."""
        return self._use(survey.parts, self._clock())

    @store_errors_only("entries", _reason)
    def newest(
        self, chosen: survey.Chosen, limit: int, *, only_expired: bool = False
    ) -> tuple[int, list[tuple[str, Entry]]]:
        """How many entries are *chosen*, and so many that were stored last."""
        work = functools.partial(survey.newest, only_expired=only_expired)
        count, numbers = self._use(work, chosen, limit)
        found = [self._numbered(number, chosen.prefix) for number in numbers]
        return count, [each for each in found if each is not None]

    @store_errors_only("pragma", _reason)
    def pragma(self, name: str) -> str:
        """What SQLite says of the file, such as its ``journal_mode``."""
        (found,) = self._use(lambda db: db.execute(f"PRAGMA {name}").fetchone())
        return found.decode() if isinstance(found, bytes) else str(found)

    @store_errors_only("close", _reason)
    def close(self) -> None:
        self._flush_touches(all_of_them=True)
        self._pool.close()
        self._file.lock.close()

    # -- Leases

    @store_errors_only("lease", _reason)
    def lease(self, key: str, token: str, seconds: float) -> bool:
        now = self._clock()
        if self._use(leases.is_taken, key, token, seconds, now):
            return False
        return self._write(leases.take, key, token, seconds, now)

    @store_errors_only("release", _reason)
    def release(self, key: str, token: str) -> None:
        self._write(leases.release, key, token)

    # -- Connections

    def _begin(self) -> None:
        """Look at the file once, so that a wrong path is an error of the program that named it."""
        try:
            self._uses.go_on_from(self._use(rows.newest_use))
            self._use(self._adapt)
        except Exception as exc:
            # Locked, damaged, a full disk: operations will say so, and it may pass.
            if self._file.read_only or (isinstance(exc, FileRefused) and exc.misconfigured):
                raise StoreError(type(self).__name__, "open", _reason(exc)) from exc

    def _use(self, work: Callable[[Connection, *Ts], R], *args: *Ts) -> R:
        """``work(connection, *args)``; a connection that fails is not used again, a damaged file
        neither."""
        db = self._pool.acquire()
        try:
            result = work(db, *args)
        except BaseException as exc:
            self._pool.discard(db)
            if is_damage(exc):
                self._file.set_aside(db.inode)
            raise
        self._pool.release(db)
        return result

    def _write(self, work: Callable[[Connection, *Ts], R], *args: *Ts) -> R:
        """``work(connection, *args)`` as the only writer."""
        self._require_writable()
        deadline = monotonic() + self._lock_timeout
        turn = self._writing.take(self._lock_timeout)
        if turn is None:
            raise TimeoutError("the write lock is held elsewhere")
        try:
            return self._use(self._alone, deadline, work, *args)
        except FileNotFoundError:  # the file is gone, or its folder: start anew
            self._pool.renew()
            return self._use(self._alone, deadline, work, *args)
        finally:
            self._writing.end(turn)

    def _require_writable(self) -> None:
        if self._file.read_only:
            raise FileRefused(f"{self._file.path} was opened read-only", misconfigured=False)

    def _alone(
        self, db: Connection, deadline: float, work: Callable[[Connection, *Ts], R], *args: *Ts
    ) -> R:
        held = self._file.lock.acquire(max(0.0, deadline - monotonic()))
        if held is None:
            raise TimeoutError("the write lock is held elsewhere")
        try:
            if self._file.moved(db):
                raise FileNotFoundError("the database file was removed or replaced")
            try:
                result = work(db, *args)
            finally:
                held.count_write()
            self._file.fold_log(db)
        finally:
            held.release()
        return result

    # -- Reading

    def _mark(self) -> object:
        """What changes with every write to the file; None if a connection has to look."""
        writes = self._file.lock.writes() if monotonic() < self._sure_until else None
        return None if writes is None else (self._version, writes)

    def _get(self, db: Connection, key: str) -> tuple[Any, object]:
        """The row, and the mark from before it was read."""
        now = monotonic()
        if now >= self._sure_until:
            if not self._file.lock.look_at_file():
                self._version = next(self._versions)
            self._look(db)
            self._sure_until = now + _SURE_SECONDS
        mark = self._mark()
        return rows.get(db, key), mark

    def _look(self, db: Connection) -> int:
        """The version as this connection sees it. One that is new, or has not looked for long,
        makes it a new one to be safe."""
        seen = rows.data_version(db)
        if seen != db.seen:
            db.seen = seen
            self._version = next(self._versions)
        return self._version

    def _read(
        self,
        key: str,
        data: object,
        *,
        remember: bool = True,
        mark: object = None,
        used: object = None,
    ) -> Entry | None:
        """The entry in *data*; None, after removing it, if it is not a whole one."""
        try:
            if type(data) is not bytes:
                raise EntryUnreadable("not bytes")
            if remember:
                return self._memo.get(key, data, mark, used)
            return self.envelope.unpack(key, data)
        except EntryUnreadable as exc:
            self.unreadable += 1
            if not exc.newer and not self._file.read_only:
                with contextlib.suppress(Exception):  # it is a miss all the same
                    self._write(rows.remove_damaged, key, data)
            return None

    @store_errors_only("entries", _reason)
    def _numbers(self, prefix: str, part: str) -> "array[int]":
        """Row ids, least recently used first: a list that later writes do not change."""
        self._flush_touches(all_of_them=True)
        return self._use(rows.numbers, prefix, part)

    @store_errors_only("entries", _reason)
    def _numbered(self, number: int, prefix: str) -> tuple[str, Entry] | None:
        row = self._use(rows.numbered, number)
        if row is None:
            return None
        key = row[0].decode("ascii", "backslashreplace")
        if not key.startswith(prefix):
            return None  # removed, and its id given to another
        entry = self._read(key, row[1], remember=False)
        return None if entry is None else (key, entry)

    # -- Uses, for the order of eviction

    def touch(self, key: str, used: object = None) -> None:
        """Note a use of *key*, whose row says that it was last *used* then."""
        if self._file.read_only:
            return
        self._uses.note(key, used)
        if self._flush_next or self._flush_soon():
            self._flush_next = False
            self._flush_touches()

    def _flush_soon(self) -> bool:
        """Whether the next ``get`` is to write uses; only one caller is told."""
        if self._file.read_only or self._flush_next or not self._uses.are_due():
            return False
        self._flush_next = True
        return True

    def _flush_touches(self, *, all_of_them: bool = False) -> None:
        due = self._uses.take_due(all_of_them=all_of_them)
        with contextlib.suppress(Exception):  # on a read-only, locked or full disk reading goes on
            if due:
                self._use(self._write_touches_soon, due)
            self._use(self._adapt)

    def _adapt(self, db: Connection) -> None:
        self._uses.adapt_to(rows.oldest_use(db), is_crowded=rows.is_crowded(db, self._bounds))

    def _write_touches_soon(self, db: Connection, due: Mapping[str, int]) -> None:
        held = self._file.lock.acquire(_TOUCH_SECONDS)
        if held is None:
            return
        try:
            db.execute("BEGIN IMMEDIATE")
            rows.touch(db, due)
            db.execute("COMMIT")
            self._file.fold_log(db)
        finally:
            held.release()

    # -- Writing; inside the lock

    def _insert(self, db: Connection, row: Row) -> Removed:
        self._puts += 1
        if self._puts % _SWEEP_EVERY and self._has_room(db, row.size):
            rows.insert(db, row, self._uses.lag)
            db.written = _PAGE_BYTES + row.size
            return NOTHING_REMOVED
        return self._insert_all(db, [row])

    def _has_room(self, db: Connection, size: int) -> bool:
        """Whether an entry of that size fits even if its key is new."""
        if self._bounds == (None, None):
            return True
        entries, room = self._credit
        if entries < 1 or room < size:
            left, space = rows.room(db, self._bounds)
            if left < 1 or space < size:
                return False
            entries, room = max(1, left / _CREDIT), max(size, space / _CREDIT)
        self._credit = entries - 1, room - size
        return True

    def _insert_all(self, db: Connection, some: Sequence[Row]) -> Removed:
        self._credit = (0, 0)
        at_length = len(some) > 1 or not self._puts % _SWEEP_EVERY
        return rows.insert_many(
            db,
            some,
            self._bounds,
            sweep=self._sweep,
            window=_SWEEP if at_length else _SHORT_SWEEP,
            now=self._clock(),
            touched=self._uses.noted,
            lag=self._uses.lag,
        )

    def _in_slices(
        self,
        numbers: "array[int]",
        work: Callable[[Connection, "array[int]", *Ts], int],
        *args: *Ts,
    ) -> int:
        """Do what removes rows by their numbers for a slice at a time; others write in between."""
        starts = range(0, len(numbers), SLICE)
        return sum(self._write(work, numbers[at : at + SLICE], *args) for at in starts)

    def _shrink(self) -> None:
        """Give the space of a file that is nearly empty back to the file system."""
        with contextlib.suppress(Exception):  # what was to be removed is
            if self._write(rows.shrink):
                self._write(lambda db: self._file.fold_log(db, at_once=True))


def _let_go(pool: Pool, file: DatabaseFile) -> None:
    """Close what is idle when an open store is collected, or at exit, when daemon threads may still
    use it."""
    pool.renew()
    file.lock.close()
