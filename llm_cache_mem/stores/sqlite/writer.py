"""The writing side: puts, with what has to make room for them, and removals by the slice."""

import contextlib
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVarTuple

from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.sqlite import rows
from llm_cache_mem.stores.sqlite.access import Access
from llm_cache_mem.stores.sqlite.file import Connection
from llm_cache_mem.stores.sqlite.packing import SLICE, Row, slices
from llm_cache_mem.stores.sqlite.reader import Reader
from llm_cache_mem.stores.sqlite.uses import Uses
from llm_cache_mem.values.entry import Entry

__all__ = ["Writer"]

Ts = TypeVarTuple("Ts")

_SWEEP_EVERY = 64  # puts
_SWEEP = 256  # rows that a sweep looks at, and that of a put that has to make room
_SHORT_SWEEP = 32
_FEW = 16  # rows, each of which is counted as changed; more count as a write to any key
_PAGE_BYTES = 16 << 10  # that a put writes beside its entry
_CREDIT = 16  # the share of the room left that one process fills before it looks again


class Writer:
    """Writes entries, within *bounds*; *uses* tell what to evict, and *clock* what has expired."""

    def __init__(
        self,
        access: Access,
        reader: Reader,
        bounds: rows.Bounds,
        uses: Uses,
        clock: Callable[[], float],
    ) -> None:
        self.bounds = bounds
        self._access = access
        self._reader = reader  # of the same process, which knows then what was written
        self._uses = uses
        self._clock = clock
        self._puts = 0
        self._sweep = rows.Sweep()
        self._credit: tuple[float, float] = (0, 0)

    def put(self, row: Row, entry: Entry) -> Removed:
        """Put *row*, which is that of *entry*."""
        if self._is_too_large(row):  # do not empty the store for what cannot stay
            self._access.write(rows.remove, row.key, None)
            return Removed(evicted=1)
        return self._access.write(self._insert, row, entry)

    def put_many(self, some: Sequence[Row]) -> Removed:
        """Put *some* rows in transactions between which others write."""
        too_large = [row for row in some if self._is_too_large(row)]
        for row in too_large:
            self._access.write(rows.remove, row.key, None)
        evicted, expired = len(too_large), 0
        for batch in slices([row for row in some if not self._is_too_large(row)]):
            removed = self._access.write(self._insert_all, batch)
            evicted, expired = evicted + removed.evicted, expired + removed.expired
        return Removed(evicted, expired)

    def in_slices(
        self,
        numbers: "array[int]",
        work: Callable[[Connection, "array[int]", *Ts], int],
        *args: *Ts,
    ) -> int:
        """Do what removes rows by their numbers for a slice at a time; others write in between."""
        starts = range(0, len(numbers), SLICE)
        return sum(self._access.write(work, numbers[at : at + SLICE], *args) for at in starts)

    def shrink(self) -> None:
        """Give the space of a file that is nearly empty back to the file system."""
        with contextlib.suppress(Exception):  # what was to be removed is
            if self._access.write(rows.shrink):
                fold_log = self._access.file.fold_log
                self._access.write(lambda db: fold_log(db, at_once=True))

    def _is_too_large(self, row: Row) -> bool:
        return self.bounds.bytes is not None and row.size > self.bounds.bytes

    # -- Inside the lock

    def _insert(self, db: Connection, row: Row, entry: Entry) -> Removed:
        self._puts += 1
        if self._puts % _SWEEP_EVERY and self._has_room(db, row.size):
            rows.insert(db, row, self._uses.lag)
            db.written, db.changed = _PAGE_BYTES + row.size, (row.key,)
            self._reader.note_written(row, entry)
            return NOTHING_REMOVED
        return self._insert_all(db, [row])

    def _has_room(self, db: Connection, size: int) -> bool:
        """Whether an entry of that size fits even if its key is new."""
        if self.bounds == (None, None):
            return True
        entries, room = self._credit
        if entries < 1 or room < size:
            left, space = rows.room(db, self.bounds)
            if left < 1 or space < size:
                return False
            entries, room = max(1, left / _CREDIT), max(size, space / _CREDIT)
        self._credit = entries - 1, room - size
        return True

    def _insert_all(self, db: Connection, some: Sequence[Row]) -> Removed:
        self._credit = (0, 0)
        at_length = len(some) > 1 or not self._puts % _SWEEP_EVERY
        removed = rows.insert_many(
            db,
            some,
            self.bounds,
            sweep=self._sweep,
            window=_SWEEP if at_length else _SHORT_SWEEP,
            now=self._clock(),
            touched=self._uses.noted,
            lag=self._uses.lag,
        )
        if removed == NOTHING_REMOVED and len(some) <= _FEW:
            db.changed = [row.key for row in some]
        return removed
