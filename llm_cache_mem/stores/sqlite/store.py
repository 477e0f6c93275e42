"""A store in a SQLite file, which survives restarts and is shared by threads and processes."""

import functools
import os
import sqlite3
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from llm_cache_mem._util.clock import now
from llm_cache_mem.accounting.counts import Batch, EntryHits
from llm_cache_mem.accounting.totals import StoreTotals
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.base import Removed
from llm_cache_mem.stores.failures import store_errors_only
from llm_cache_mem.stores.sqlite import counts, leases, rows, survey
from llm_cache_mem.stores.sqlite.access import Access
from llm_cache_mem.stores.sqlite.file import DatabaseFile
from llm_cache_mem.stores.sqlite.layout import FileRefused
from llm_cache_mem.stores.sqlite.packing import SLICE, packed
from llm_cache_mem.stores.sqlite.reader import Reader
from llm_cache_mem.stores.sqlite.touches import Touches
from llm_cache_mem.stores.sqlite.uses import Uses
from llm_cache_mem.stores.sqlite.writer import Writer
from llm_cache_mem.values.entry import PLAIN, Entry, Envelope

__all__ = ["SQLiteStore"]


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
        self.envelope = envelope
        self._clock = clock
        self._file = DatabaseFile(
            name,
            durable=durable,
            timeout=lock_timeout,
            make_folder=make_folder,
            read_only=read_only,
        )
        bounds = rows.Bounds(max_size, max_bytes)
        self._uses = Uses()
        self._access = Access(self._file, timeout=lock_timeout)
        self._reader = Reader(self._access, envelope, on_loop=read_on_loop)
        self._writer = Writer(self._access, self._reader, bounds, self._uses, clock)
        self._touches = Touches(self._access, self._uses, bounds)
        weakref.finalize(self, self._access.let_go)
        self._begin()

    @property
    def unreadable(self) -> int:
        """How many stored entries could not be read."""
        return self._reader.unreadable

    @property
    def path(self) -> str:
        """The file, with links resolved."""
        return self._file.path

    def __repr__(self) -> str:
        return (
            f"SQLiteStore({self._file.path!r}, max_size={self._writer.bounds.entries},"
            f" max_bytes={self._writer.bounds.bytes})"
        )

    @store_errors_only("get", _reason)
    def get(self, key: str) -> Entry | None:
        found = self._reader.get(key)
        if found is None:
            return None
        self._touches.note(key, found.used)
        return found.entry

    def glance(self, key: str) -> Entry | None:
        """The entry under *key*, if it is read so soon that an event loop may wait for it; None
        says nothing."""
        if self._touches.flush_soon():
            return None
        found = self._reader.glance(key)
        if found is None:
            return None
        self._touches.note_only(key, found.used)
        return found.entry

    @store_errors_only("put", _reason)
    def put(self, key: str, entry: Entry) -> Removed:
        row = packed(key, entry, self.envelope, self._uses.note_put(key))
        return self._writer.put(row, entry)

    @store_errors_only("get_many", _reason)
    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        found = self._reader.get_many(list(dict.fromkeys(keys)))
        for key, known in found.items():
            self._touches.note(key, known.used)
        return {key: known.entry for key, known in found.items()}

    @store_errors_only("put_many", _reason)
    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """As Store.put_many, in transactions between which others write."""
        return self._writer.put_many(
            [
                packed(key, entry, self.envelope, self._uses.note_put(key))
                for key, entry in entries.items()
            ]
        )

    def touch(self, key: str) -> None:
        """Note a use of *key* that this store has not seen."""
        self._touches.note(key, None)

    @store_errors_only("delete", _reason)
    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        return self._access.write(rows.remove, key, stored_at)

    @store_errors_only("clear", _reason)
    def clear(self, prefix: str = "") -> int:
        removed = self._access.write(rows.clear_all, prefix)
        if removed is None:
            numbers = self._access.use(rows.numbers, prefix)
            removed = self._writer.in_slices(numbers, rows.remove_prefixed, prefix)
        self._writer.shrink()
        return removed

    @store_errors_only("purge", _reason)
    def purge(self) -> int:
        return self.prune(survey.Chosen(self._clock()))

    @store_errors_only("size", _reason)
    def size(self, prefix: str = "") -> int:
        return self._access.use(rows.count, prefix)

    @store_errors_only("version", _reason)
    def version(self) -> object:
        """What changes whenever anything was written; what was read under the same is still
        valid."""
        return self._reader.version()

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
        self._access.require_writable()
        numbers = self._access.use(survey.expired, chosen)
        removed = len(numbers)
        all_of_them = removed > SLICE and removed == self._access.use(rows.count, "")
        if not all_of_them or not self._access.write(survey.remove_all_expired, chosen):
            removed = self._writer.in_slices(numbers, survey.remove_expired, chosen)
        self._writer.shrink()
        return removed

    @store_errors_only("size", _reason)
    def count_expired(self, chosen: survey.Chosen) -> int:
        """How many entries ``prune`` would remove."""
        return len(self._access.use(survey.expired, chosen))

    @store_errors_only("size", _reason)
    def is_sealed(self) -> bool:
        """Whether there are entries whose model only those who can decrypt them know."""
        return self._access.use(survey.is_sealed)

    @store_errors_only("size", _reason)
    def parts(self) -> list[survey.Part]:
        """The sums of what is there, none of it read."""
        return self._access.use(survey.parts, self._clock())

    @store_errors_only("entries", _reason)
    def newest(
        self, chosen: survey.Chosen, limit: int, *, only_expired: bool = False
    ) -> tuple[int, list[tuple[str, Entry]]]:
        """How many entries are *chosen*, and so many that were stored last."""
        work = functools.partial(survey.newest, only_expired=only_expired)
        count, numbers = self._access.use(work, chosen, limit)
        found = [self._numbered(number, chosen.prefix) for number in numbers]
        return count, [each for each in found if each is not None]

    @store_errors_only("pragma", _reason)
    def pragma(self, name: str) -> str:
        """What SQLite says of the file, such as its ``journal_mode``."""
        (found,) = self._access.use(lambda db: db.execute(f"PRAGMA {name}").fetchone())
        return found.decode() if isinstance(found, bytes) else str(found)

    @store_errors_only("close", _reason)
    def close(self) -> None:
        self._touches.flush(all_of_them=True)
        self._access.close()

    # -- Totals

    @store_errors_only("add_counts", _reason)
    def add_counts(self, batch: Batch) -> None:
        shown = batch.without_models() if self.envelope.digests else batch
        self._access.write(counts.add, shown)

    @store_errors_only("totals", _reason)
    def totals(self) -> StoreTotals:
        return self._access.use(counts.totals)

    @store_errors_only("entry_hits", _reason)
    def entry_hits(self, keys: Sequence[str]) -> dict[str, EntryHits]:
        return self._access.use(counts.entry_hits, keys)

    @store_errors_only("reset_counts", _reason)
    def reset_counts(self) -> None:
        self._access.write(counts.reset)

    # -- Leases

    @store_errors_only("lease", _reason)
    def lease(self, key: str, token: str, seconds: float) -> bool:
        now = self._clock()
        if self._access.use(leases.is_taken, key, token, seconds, now):
            return False
        return self._access.write(leases.take, key, token, seconds, now)

    @store_errors_only("release", _reason)
    def release(self, key: str, token: str) -> None:
        self._access.write(leases.release, key, token)

    def _begin(self) -> None:
        """Look at the file once, so that a wrong path is an error of the program that named it."""
        try:
            self._touches.begin()
        except Exception as exc:
            # Locked, damaged, a full disk: operations will say so, and it may pass.
            if self._file.read_only or (isinstance(exc, FileRefused) and exc.misconfigured):
                raise StoreError(type(self).__name__, "open", _reason(exc)) from exc

    @store_errors_only("entries", _reason)
    def _numbers(self, prefix: str, part: str) -> "array[int]":
        """Row ids, least recently used first: a list that later writes do not change."""
        self._touches.flush(all_of_them=True)
        return self._access.use(rows.numbers, prefix, part)

    @store_errors_only("entries", _reason)
    def _numbered(self, number: int, prefix: str) -> tuple[str, Entry] | None:
        row = self._access.use(rows.numbered, number)
        if row is None:
            return None
        key = row[0].decode("ascii", "backslashreplace")
        if not key.startswith(prefix):
            return None  # removed, and its id given to another
        entry = self._reader.unpacked(key, row[1])
        return None if entry is None else (key, entry)
