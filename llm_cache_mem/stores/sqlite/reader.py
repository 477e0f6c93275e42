"""The reading side: entries are decoded once, and recalled for as long as nothing was written."""

import contextlib
import itertools
from collections.abc import Sequence
from time import monotonic
from typing import Any

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.stores.sqlite import rows
from llm_cache_mem.stores.sqlite.access import Access
from llm_cache_mem.stores.sqlite.file import Connection
from llm_cache_mem.stores.sqlite.packing import Row
from llm_cache_mem.values.entry import Entry, EntryMemo, Envelope, Remembered

__all__ = ["Reader"]

_SURE_SECONDS = 0.1  # how long a file that was replaced may go unnoticed,
_FOREIGN_SECONDS = 1.0  # and writes by other tools than this library, which count nothing
_GLANCE_SECONDS = 0.002  # that a read on an event loop may take
_GLANCE_BYTES = 256 << 10  # of an entry read there, since it is decoded there too
_GLANCE_PAUSE = 1.0  # seconds without such reads after one that failed,
_GLANCE_REST = 10  # times what it took after two slow ones


class Reader:
    """Reads the entries of a file; *on_loop* says whether ``glance`` may."""

    def __init__(self, access: Access, envelope: Envelope, *, on_loop: bool) -> None:
        self.unreadable = 0  # stored entries that could not be read
        self._access = access
        self._changes = access.file.changes
        self._envelope = envelope
        self._memo = EntryMemo(envelope=envelope)
        self._versions = itertools.count()
        self._version = next(self._versions)
        self._all: bytes | None = None  # the counts of all writes,
        self._version_of_all = 0  # and the version of that
        self._sure_until = 0.0  # until then no look at the file is needed,
        self._foreign_from = 0.0  # and from then on one for writes that are not counted
        self._glance_slow = False  # whether the last one was
        self._glance_from = 0.0 if on_loop else float("inf")

    def get(self, key: str) -> Remembered | None:
        """The entry under *key*, and when its row says that it was last used."""
        mark = self._mark(key)
        known = None if mark is None else self._memo.recall(key, mark)
        if known is not None:
            return known
        row, mark = self._access.use(self._get, key)
        return None if row is None else self._remembered(key, row[0], row[1], mark)

    def get_many(self, keys: Sequence[str]) -> dict[str, Remembered]:
        """As ``get``, of all *keys* that are there."""
        found = {}
        for name, data, used in self._access.use(rows.get_many, keys):
            key = name.decode("ascii", "backslashreplace")
            known = self._remembered(key, data, used, None)
            if known is not None:
                found[key] = known
        return found

    def note_written(self, row: Row, entry: Entry) -> None:
        """Remember the *entry* of a *row* that this process has just written, with nothing else;
        inside the lock."""
        counts = self._changes.after_write(row.key)
        if counts is not None:
            self._memo.note_written(row.key, row.data, entry, (self._version, counts), row.used)

    def glance(self, key: str) -> Remembered | None:
        """As ``get``, if that is so soon done that an event loop may wait for it; None says
        nothing.

        A read waits for no writer, and the pages that it needs are mostly in memory. After slow
        ones, or one that failed, ``get`` is used for a while; for good, once a tool that finds
        blocking calls on event loops has found this one.
        """
        began = monotonic()
        if began < self._glance_from or not self._access.file.in_wal_mode:
            return None
        mark = self._mark(key)
        known = None if mark is None else self._memo.recall(key, mark)
        if known is not None:
            return known
        db = None
        try:
            db = self._access.pool.acquire_idle()
            if db is None:
                return None
            row, mark = self._get(db, key)
        except BaseException as exc:
            if db is not None:
                self._access.pool.discard(db)
            if not isinstance(exc, Exception):
                raise
            found_out = type(exc).__name__ == "BlockingError"  # of blockbuster
            self._glance_from = float("inf") if found_out else monotonic() + _GLANCE_PAUSE
            return None
        self._access.pool.release(db)
        self._judge_glance(began)
        if row is None or type(row[0]) is not bytes or len(row[0]) > _GLANCE_BYTES:
            return None
        try:
            return self._memo.read(key, row[0], mark, row[1])
        except EntryUnreadable:
            return None  # get will remove it

    def version(self) -> object:
        """What changes whenever anything was written; what was read under the same is still
        valid."""
        if monotonic() >= self._sure_until:
            self._access.use(self._look)
        counts = self._changes.of_all()
        if counts is None:
            self._access.use(self._look_for_others)
        elif counts != self._all:
            self._version_of_all = next(self._versions)
            self._all = counts  # last: a thread that finds it gets that version, or a later one
        return self._version, self._version_of_all

    def unpacked(self, key: str, data: object) -> Entry | None:
        """The entry in *data*, which is not remembered; None, after removing it, if it is not a
        whole one."""
        try:
            return self._envelope.unpack(key, _whole(data))
        except EntryUnreadable as exc:
            self._remove(key, data, exc)
            return None

    def _remembered(self, key: str, data: object, used: object, mark: object) -> Remembered | None:
        try:
            return self._memo.read(key, _whole(data), mark, used)
        except EntryUnreadable as exc:
            self._remove(key, data, exc)
            return None

    def _remove(self, key: str, data: object, exc: EntryUnreadable) -> None:
        self.unreadable += 1
        if not exc.newer and not self._access.file.read_only:
            with contextlib.suppress(Exception):  # it is a miss all the same
                self._access.write(rows.remove_damaged, key, data)

    def _judge_glance(self, began: float) -> None:
        """Stop reading on event loops for a while, so that they wait little of the time, after two
        slow reads in a row: one alone may say more about a busy processor than about the disk."""
        ended = monotonic()
        was_slow, self._glance_slow = self._glance_slow, ended - began > _GLANCE_SECONDS
        if was_slow and self._glance_slow:
            self._glance_from = ended + _GLANCE_REST * (ended - began)

    def _mark(self, key: str) -> object:
        """What changes with every write to *key*; None if a connection has to look."""
        counts = self._changes.of(key) if monotonic() < self._sure_until else None
        return None if counts is None else (self._version, counts)

    def _get(self, db: Connection, key: str) -> tuple[Any, object]:
        """The row, and the mark from before it was read."""
        if monotonic() >= self._sure_until:
            self._look(db)
        mark = self._mark(key)
        return rows.get(db, key), mark

    def _look(self, db: Connection) -> None:
        """Begin a new version if another file may hold the counts, or there may have been writes
        that are not counted."""
        now = monotonic()
        if not self._changes.look():
            self._version = next(self._versions)
        if (now >= self._foreign_from or db.seen is None) and self._look_for_others(db):
            self._foreign_from = now + _FOREIGN_SECONDS
        self._sure_until = now + _SURE_SECONDS

    def _look_for_others(self, db: Connection) -> bool:
        """Begin a new version if a connection, of this library or not, has written since this was
        last asked of *db*, or *db* is new; whether that was so."""
        seen = rows.data_version(db), db.total_changes  # of other connections, and of this one
        if seen == db.seen:
            return False
        db.seen = seen
        self._version = next(self._versions)
        return True


def _whole(data: object) -> bytes:
    if type(data) is not bytes:
        raise EntryUnreadable("not bytes")
    return data
