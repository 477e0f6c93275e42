"""The statements of SQLiteStore, one function each; callers of those that write hold the lock."""

import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_cache_mem.stores.base import Removed
from llm_cache_mem.stores.sqlite.file import FileDamaged

__all__ = [
    "SLICE",
    "Bounds",
    "Row",
    "clear_slice",
    "count",
    "data_version",
    "get",
    "get_many",
    "has_room",
    "insert",
    "insert_many",
    "newest_use",
    "numbered",
    "numbers",
    "purge_slice",
    "remove",
    "remove_damaged",
    "touch",
]

SLICE = 1000  # rows that one transaction removes at the most
_SWEEP = 128  # expired rows that a put removes at the most
_NAMED = 500  # keys in one statement: older builds of SQLite take 999

_PUT = (
    "INSERT INTO entries (key, stored_at, expires_at, used, size, data) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET stored_at = excluded.stored_at, expires_at ="
    " excluded.expires_at, used = excluded.used, size = excluded.size, data = excluded.data"
)
_EXPIRED = (
    "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ? AND key <> ?"
    " ORDER BY expires_at LIMIT ?)"
)


class Row(NamedTuple):
    """A row to put; *used* orders by use, *size* is what it counts for in bytes."""

    key: str
    stored_at: float
    expires_at: float | None
    used: int
    size: int
    data: bytes


class Bounds(NamedTuple):
    """The most entries and bytes; None is unbounded."""

    entries: int | None
    bytes: int | None


def get(db: sqlite3.Connection, key: str) -> Any:
    """What is stored under *key* as ``(data,)``, or None."""
    return db.execute("SELECT data FROM entries WHERE key = ?", (key,)).fetchone()


def get_many(db: sqlite3.Connection, keys: Sequence[str]) -> list[Any]:
    """``(key, data)`` of those that are there."""
    found: list[Any] = []
    for at in range(0, len(keys), _NAMED):
        some = keys[at : at + _NAMED]
        marks = ", ".join("?" * len(some))
        found += db.execute(
            f"SELECT key, data FROM entries WHERE key IN ({marks})", some
        ).fetchall()
    return found


def count(db: sqlite3.Connection, prefix: str) -> int:
    """How many keys begin with *prefix*: all at once from a counter, some by walking that part of
    an index."""
    if not prefix:
        return _totals(db)[0]
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
    return db.execute("SELECT key, data FROM entries WHERE id = ?", (number,)).fetchone()


def newest_use(db: sqlite3.Connection) -> int:
    """The highest *used*, 0 if there is none or it is damaged: much more would leave no numbers for
    later uses."""
    (newest,) = db.execute("SELECT max(used) FROM entries").fetchone()
    return newest if isinstance(newest, int) and newest < 1 << 62 else 0


def insert(db: sqlite3.Connection, row: Row) -> None:
    db.execute(_PUT, row)


def has_room(db: sqlite3.Connection, row: Row, bounds: Bounds) -> bool:
    """Whether *row* fits even if its key is new."""
    return bounds == (None, None) or _excess(db, bounds, 1, row.size) == (0, 0)


def insert_many(
    db: sqlite3.Connection,
    some: Sequence[Row],
    bounds: Bounds,
    *,
    now: float,
    touched: Mapping[str, int],
) -> Removed:
    """Put *some* rows in one transaction; first some go that expired by *now*, and after each the
    least recently used, as far as it needs.

    *touched* ones were used since.
    """
    db.execute("BEGIN IMMEDIATE")
    expired = db.execute(_EXPIRED, (now, some[0].key, _SWEEP)).rowcount
    touch(db, touched)
    evicted = 0
    for row in some:
        insert(db, row)
        evicted += 0 if bounds == (None, None) else _evict(db, bounds, row.key)
    db.execute("COMMIT")
    return Removed(evicted, expired)


def touch(db: sqlite3.Connection, touched: Mapping[str, int]) -> None:
    """Note the later uses of the keys in *touched*."""
    if touched:
        uses = [(used, key, used) for key, used in list(touched.items())]
        db.executemany("UPDATE entries SET used = ? WHERE key = ? AND used < ?", uses)


def remove(db: sqlite3.Connection, key: str, stored_at: float | None) -> bool:
    if stored_at is None:
        return db.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount > 0
    return (
        db.execute("DELETE FROM entries WHERE key = ? AND stored_at = ?", (key, stored_at)).rowcount
        > 0
    )


def remove_damaged(db: sqlite3.Connection, key: str, data: object) -> None:
    """Remove *key* if it still holds *data*."""
    db.execute("DELETE FROM entries WHERE key = ? AND data IS ?", (key, data))


def clear_slice(db: sqlite3.Connection, prefix: str) -> int:
    """Remove some of the keys that begin with *prefix*; how many; less than SLICE: none are
    left."""
    if prefix:
        some = "SELECT id FROM entries WHERE key >= ? AND key < ?"
        return db.execute(
            f"DELETE FROM entries WHERE id IN ({some} LIMIT {SLICE})", _range(prefix)
        ).rowcount
    return db.execute(
        f"DELETE FROM entries WHERE id IN (SELECT id FROM entries LIMIT {SLICE})"
    ).rowcount  # in the order of the file


def purge_slice(db: sqlite3.Connection, now: float) -> int:
    """Remove some of those that expired by *now*; how many; less than SLICE: none are left."""
    return db.execute(_EXPIRED, (now, "", SLICE)).rowcount


def _totals(db: sqlite3.Connection) -> tuple[int, int]:
    """How many entries there are, and their bytes; kept by triggers."""
    row = db.execute("SELECT entries, bytes FROM totals").fetchone()
    if row is None or not isinstance(row[0], int) or not isinstance(row[1], int):
        raise FileDamaged("its totals are no numbers")
    return row[0], row[1]


def _excess(
    db: sqlite3.Connection, bounds: Bounds, entries: int = 0, size: int = 0
) -> tuple[int, int]:
    """By how many entries and bytes the bounds are exceeded, with so much added."""
    held, used = _totals(db)
    over_entries = 0 if bounds.entries is None else max(0, held + entries - bounds.entries)
    over_bytes = 0 if bounds.bytes is None else max(0, used + size - bounds.bytes)
    return over_entries, over_bytes


def _evict(db: sqlite3.Connection, bounds: Bounds, newest: str) -> int:
    """Remove the least recently used until the bounds hold again, or a slice is gone; never
    *newest*."""
    over_entries, over_bytes = _excess(db, bounds)
    if not over_entries and not over_bytes:
        return 0
    some = "FROM entries WHERE key <> ? ORDER BY used LIMIT ?"
    taken = freed = 0
    for (size,) in db.execute(f"SELECT size {some}", (newest, SLICE)):
        if taken >= over_entries and freed >= over_bytes:
            break
        taken += 1
        freed += size
    return db.execute(
        f"DELETE FROM entries WHERE id IN (SELECT id {some})", (newest, taken)
    ).rowcount


def _range(prefix: str) -> tuple[str, str]:
    """The half-open range of keys that begin with *prefix*, which is not empty."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
