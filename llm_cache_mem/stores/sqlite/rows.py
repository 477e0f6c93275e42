"""The statements of SQLiteStore, one function each; callers of those that write hold the lock."""

import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_cache_mem.stores.base import Removed
from llm_cache_mem.stores.sqlite.layout import (
    DROP_REMOVED,
    MAKE_HITS_REMOVED,
    MAKE_REMOVED,
    FileDamaged,
)
from llm_cache_mem.stores.sqlite.packing import SLICE, Row, space_of
from llm_cache_mem.values.entry import MAX_ENTRY_BYTES

__all__ = [
    "Bounds",
    "Sweep",
    "begin",
    "clear_all",
    "count",
    "data_version",
    "empty",
    "get",
    "get_many",
    "insert",
    "insert_many",
    "is_crowded",
    "newest_use",
    "numbered",
    "numbers",
    "oldest_use",
    "remove",
    "remove_damaged",
    "remove_prefixed",
    "room",
    "shrink",
    "touch",
]

_NAMED = 500  # keys in one statement: older builds of SQLite take 999
_FREE_PAGES = 256  # that stay in the file, for later entries
_MANY = 1000  # rows, for which
_LARGE_CACHE_KB = 64 << 10  # saves a connection from writing the pages of an index again and again
_COPIED_PAGES = 4000  # that it takes to shrink a file, while others wait: 16 MB

_COLUMNS = (
    *("key", "used", "stored_at", "expires_at", "size", "value_bytes"),
    *("input_tokens", "output_tokens", "micros", "nanos", "data", "part"),
)
_PUT = (
    f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({'?, ' * (len(_COLUMNS) - 1)}"
    "(SELECT id FROM parts WHERE space = ? AND model = ?)) ON CONFLICT (key) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
    + ", used = CASE WHEN excluded.used - used < ? THEN used ELSE excluded.used END"
)

# One statement: between two, another process may put the first entry.
_TOTALS = (
    "SELECT sum(entries), sum(bytes), EXISTS (SELECT 1 FROM entries) FROM parts"
    " WHERE substr(space, 1, ?) = ?"
)
_MAKE_PART = "INSERT OR IGNORE INTO parts (space, model) VALUES (?, ?)"

_TOO_LARGE = f"length(data) > {MAX_ENTRY_BYTES}"
_DATA = f"CASE WHEN {_TOO_LARGE} THEN NULL ELSE data END"
_GET = f"SELECT {_DATA}, used FROM entries WHERE key = ?"
_BY_USE = "SELECT id, key, used, size FROM entries WHERE key <> ? ORDER BY used LIMIT ?"


class Bounds(NamedTuple):
    """The most entries and bytes; None is unbounded."""

    entries: int | None
    bytes: int | None


class Sweep:
    """Removes expired rows on a walk through all, in order of use, a window at a time."""

    def __init__(self) -> None:
        self._from = 0

    def step(self, db: sqlite3.Connection, now: float, window: int, kept: str) -> int:
        """Remove those of the next *window* rows that expired by *now*, except *kept*; how many."""
        rows = db.execute(
            "SELECT id, used, expires_at <= ? FROM entries WHERE used >= ? ORDER BY used LIMIT ?",
            (now, self._from, window),
        ).fetchall()
        self._from = rows[-1][1] if len(rows) == window and rows[-1][1] > self._from else 0
        if not self._from:
            db.execute("DELETE FROM parts WHERE entries = 0")
        gone = [(number, kept) for number, _, is_expired in rows if is_expired]
        return db.executemany("DELETE FROM entries WHERE id = ? AND key <> ?", gone).rowcount


def get(db: sqlite3.Connection, key: str) -> Any:
    """What is stored under *key* as ``(data, used)``, or None. Here and below, *data* that is too
    large for an entry is None, and was not read."""
    return db.execute(_GET, (key,)).fetchone()


def get_many(db: sqlite3.Connection, keys: Sequence[str]) -> list[Any]:
    """``(key, data, used)`` of those that are there."""
    found: list[Any] = []
    for at in range(0, len(keys), _NAMED):
        some = keys[at : at + _NAMED]
        marks = ", ".join("?" * len(some))
        found += db.execute(
            f"SELECT key, {_DATA}, used FROM entries WHERE key IN ({marks})", some
        ).fetchall()
    return found


def count(db: sqlite3.Connection, prefix: str) -> int:
    """How many keys begin with *prefix*: from the counters where it is that of a namespace or kind,
    else by walking that part of an index."""
    if space_of(prefix) == prefix:
        return _totals(db, prefix)[0]
    (counted,) = db.execute(
        "SELECT count(*) FROM entries WHERE key >= ? AND key < ?", _range(prefix)
    ).fetchone()
    return int(counted)


def data_version(db: sqlite3.Connection) -> int:
    """A number that changes when another connection, of this process or another, has committed."""
    (version,) = db.execute("PRAGMA data_version").fetchone()
    return int(version)


def numbers(db: sqlite3.Connection, prefix: str, part: str = "") -> "array[int]":
    """The ids of the rows whose keys begin with *prefix* and hold *part*, least recently used
    first: eight bytes each."""
    conditions: list[str] = []
    values: list[str] = []
    if prefix:
        conditions.append("key >= ? AND key < ?")
        values += _range(prefix)
    if part:
        conditions.append("instr(key, ?)")
        values.append(part)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""  # else an index is enough
    rows = db.execute(f"SELECT id FROM entries {where} ORDER BY used", values)
    return array("q", (number for (number,) in rows))


def numbered(db: sqlite3.Connection, number: int) -> Any:
    """``(key, data)`` of the row with that id, or None."""
    return db.execute(f"SELECT key, {_DATA} FROM entries WHERE id = ?", (number,)).fetchone()


def newest_use(db: sqlite3.Connection) -> int:
    """The highest *used*, 0 if there is none or it is damaged: much more would leave no numbers for
    later uses."""
    return _use(db, "max")


def oldest_use(db: sqlite3.Connection) -> int:
    """The lowest *used*; 0 as above."""
    return _use(db, "min")


def _use(db: sqlite3.Connection, which: str) -> int:
    (found,) = db.execute(f"SELECT {which}(used) FROM entries").fetchone()
    return found if isinstance(found, int) and 0 <= found < 1 << 62 else 0


def begin(db: sqlite3.Connection, count: int) -> None:
    """Begin a transaction that writes so many rows."""
    if count > _MANY:
        db.execute(f"PRAGMA cache_size = -{_LARGE_CACHE_KB}")
    db.execute("BEGIN IMMEDIATE")


def insert(db: sqlite3.Connection, row: Row, lag: int) -> None:
    """Put *row*. If it replaces one, that stays where it is in the order of use, which is a page
    less to write, unless its use was noted *lag* ago."""
    try:
        db.execute(_PUT, (*row, lag))
    except sqlite3.IntegrityError as exc:
        if "entries.part" not in str(exc):
            raise
        db.execute(_MAKE_PART, (row.space, row.model))
        db.execute(_PUT, (*row, lag))


def room(db: sqlite3.Connection, bounds: Bounds) -> tuple[float, float]:
    """For how many more entries and bytes there is room; infinite where they are not bounded."""
    held, used = _totals(db)
    return (
        float("inf") if bounds.entries is None else bounds.entries - held,
        float("inf") if bounds.bytes is None else bounds.bytes - used,
    )


def is_crowded(db: sqlite3.Connection, bounds: Bounds) -> bool:
    """Whether half of the room is taken."""
    left, space = room(db, bounds)
    few = bounds.entries is not None and left < bounds.entries / 2
    return few or (bounds.bytes is not None and space < bounds.bytes / 2)


def insert_many(
    db: sqlite3.Connection,
    some: Sequence[Row],
    bounds: Bounds,
    *,
    sweep: Sweep,
    window: int,
    now: float,
    touched: Mapping[str, int],
    lag: int,
) -> Removed:
    """Put *some* rows, with *lag*, in one transaction; first some go that expired by *now*, and
    after each the least recently used, as far as it needs.

    *touched* ones were used since.
    """
    begin(db, len(some))
    swept = sweep.step(db, now, window, some[0].key)
    evicted = 0
    if bounds == (None, None):
        db.executemany(_MAKE_PART, {(row.space, row.model) for row in some})
        db.executemany(_PUT, [(*row, lag) for row in some])
    else:
        for row in some:
            insert(db, row, lag)
            evicted += _evict(db, bounds, row.key, touched)
    db.execute("COMMIT")
    return Removed(evicted, swept)


def touch(db: sqlite3.Connection, touched: Mapping[str, int]) -> None:
    """Note the later uses of the keys in *touched*."""
    if touched:
        uses = [(used, key, used) for key, used in touched.items()]
        db.executemany("UPDATE entries SET used = ? WHERE key = ? AND used < ?", uses)


def remove(db: sqlite3.Connection, key: str, stored_at: float | None) -> bool:
    if stored_at is None:
        return db.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount > 0
    return (
        db.execute("DELETE FROM entries WHERE key = ? AND stored_at = ?", (key, stored_at)).rowcount
        > 0
    )


def remove_damaged(db: sqlite3.Connection, key: str, data: object) -> None:
    """Remove *key* if it still holds *data*, or None, which is what is too large."""
    if data is None:
        db.execute("DELETE FROM entries WHERE key = ? AND " + _TOO_LARGE, (key,))
    else:
        db.execute("DELETE FROM entries WHERE key = ? AND data IS ?", (key, data))


def remove_prefixed(db: sqlite3.Connection, some: "array[int]", prefix: str) -> int:
    """Remove the rows with *some* ids, where the key begins with *prefix*, still; how many."""
    begin(db, len(some))
    gone = db.executemany(
        "DELETE FROM entries WHERE id = ? AND key >= ? AND key < ?",
        [(number, *_range(prefix)) for number in some],
    ).rowcount
    db.execute("COMMIT")
    return gone


def clear_all(db: sqlite3.Connection, prefix: str) -> int | None:
    """Remove all rows at once, without a look at each, if all keys begin with *prefix*; how many.
    None: there are others."""
    db.execute("BEGIN IMMEDIATE")
    held = _totals(db)[0]
    all_of_it = space_of(prefix) == prefix and _totals(db, prefix)[0] == held
    if not held or not all_of_it:
        db.execute("ROLLBACK")
        return held if all_of_it else None
    empty(db)
    db.execute("COMMIT")
    return held


def empty(db: sqlite3.Connection) -> None:
    """Remove all rows at once, in a transaction that has begun."""
    has_hits = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'hits'").fetchone()
    db.execute(DROP_REMOVED)  # with triggers, SQLite would go through them one by one
    db.execute("DROP TRIGGER IF EXISTS hits_removed")
    db.execute("DELETE FROM entries")
    db.execute("DELETE FROM parts")
    db.execute(MAKE_REMOVED)
    if has_hits:
        db.execute("DELETE FROM hits")
        db.execute(MAKE_HITS_REMOVED)


def shrink(db: sqlite3.Connection) -> bool:
    """Give free pages back to the file system, if most are free and the others are soon copied;
    whether that was so."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if not _FREE_PAGES < free > pages - free <= _COPIED_PAGES:
        return False
    db.execute("PRAGMA temp_store = MEMORY")  # not into another file
    db.execute("VACUUM")
    return True


def _totals(db: sqlite3.Connection, prefix: str = "") -> tuple[int, int]:
    """How many entries there are of the parts that begin with *prefix*, and their bytes; kept by
    triggers."""
    (entries, size, any_left) = db.execute(_TOTALS, (len(prefix), prefix)).fetchone()
    if entries is None and (prefix or not any_left):
        return 0, 0
    if not isinstance(entries, int) or not isinstance(size, int) or entries < 0:
        raise FileDamaged("its totals are no numbers")
    return entries, size


def _evict(db: sqlite3.Connection, bounds: Bounds, newest: str, touched: Mapping[str, int]) -> int:
    """Remove the least recently used until the bounds hold again, or a slice is gone; never
    *newest*. Those that come first and were *touched* since are put where they belong."""
    entries, size = (-left for left in room(db, bounds))
    evicted = 0
    while (entries > 0 or size > 0) and evicted < SLICE:
        gone: list[tuple[int]] = []
        moved: list[tuple[int, int]] = []
        for number, name, used, freed in db.execute(_BY_USE, (newest, SLICE)):
            if (entries <= 0 and size <= 0) or (moved and used > min(moved)[0]):
                break
            used_since = touched.get(name.decode("ascii", "backslashreplace"), 0)
            if used_since > used:
                moved.append((used_since, number))
            else:
                gone.append((number,))
                entries, size = entries - 1, size - freed
        db.executemany("UPDATE entries SET used = ? WHERE id = ?", moved)
        db.executemany("DELETE FROM entries WHERE id = ?", gone)
        evicted += len(gone)
        if not moved:
            break
    return evicted


def _range(prefix: str) -> tuple[str, str]:
    """The half-open range of keys that begin with *prefix*, which is not empty."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
