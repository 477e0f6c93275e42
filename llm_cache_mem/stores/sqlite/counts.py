"""The totals of all processes, and the hits of entries, in tables beside those of the entries.

The first batch makes the tables: a file without them is complete.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence

from llm_cache_mem.accounting.bounded import MOST_NAMES, OTHER
from llm_cache_mem.accounting.counts import NAMES, Batch, Counts, EntryHits, Place
from llm_cache_mem.accounting.totals import StoreTotals
from llm_cache_mem.stores.sqlite.file import Connection
from llm_cache_mem.stores.sqlite.layout import COUNTS

__all__ = ["add", "entry_hits", "reset", "totals"]

_SINCE = "since"  # a row of the totals that is no sum
_MICRO = 1e6
_NAMED = 500  # keys in one statement: older builds of SQLite take 999
_REMEMBERED = 1000  # batches of all processes, of each process its last

_MAKE = [re.sub("TABLE|TRIGGER", r"\g<0> IF NOT EXISTS", each, count=1) for each in COUNTS]
_ADDED = "SELECT 1 FROM batches WHERE process = ? AND number = ?"
_REMEMBER = "INSERT OR REPLACE INTO batches (process, number) VALUES (?, ?)"  # with the highest id
_FORGET = "DELETE FROM batches WHERE id <= (SELECT max(id) FROM batches) - ?"
_HAS_PLACE = "SELECT 1 FROM totals WHERE namespace = ? AND model = ?"
_PLACES = "SELECT count(*) FROM (SELECT DISTINCT namespace, model FROM totals WHERE name <> ?)"
_ADD = (
    "INSERT INTO totals (namespace, model, name, amount) VALUES (?, ?, ?, ?) ON CONFLICT"
    " (namespace, model, name) DO UPDATE SET amount = amount + excluded.amount"
)
_BEGIN = "INSERT OR IGNORE INTO totals (namespace, model, name, amount) VALUES ('', '', ?, ?)"
_HITS = "SELECT key, hits, last FROM entries JOIN hits ON hits.id = entries.id WHERE key IN"
_HIT = (
    "INSERT INTO hits (id, hits, last) SELECT id, ?, ? FROM entries WHERE key = ? ON CONFLICT (id)"
    " DO UPDATE SET hits = hits + excluded.hits, last = max(last, excluded.last)"
)


def add(db: Connection, batch: Batch) -> None:
    """Add *batch* in one transaction, unless it was added before. Inside the lock."""
    db.changed = ()  # of the entries
    db.execute("BEGIN IMMEDIATE")
    for statement in _MAKE:
        db.execute(statement)
    batch_id = batch.number.partition("-")[0], batch.number
    if db.execute(_ADDED, batch_id).fetchone() is None:
        db.execute(_REMEMBER, batch_id)
        db.execute(_FORGET, (_REMEMBERED,))
        db.execute(_BEGIN, (_SINCE, round(batch.now * _MICRO)))
        _add_sums(db, batch.counts)
        db.executemany(_HIT, [(hits, batch.now, key) for key, hits in batch.hits.items()])
    db.execute("COMMIT")


def _add_sums(db: sqlite3.Connection, counts: Mapping[Place, Counts]) -> None:
    """Add *counts* to the sums of their places, or of OTHER if they are new to full tables."""
    new = [place for place in counts if db.execute(_HAS_PLACE, place).fetchone() is None]
    if new:
        (places,) = db.execute(_PLACES, (_SINCE,)).fetchone()
        new = new[max(0, MOST_NAMES - places) :]  # for which there is no room
    for place, sums in counts.items():
        where = (OTHER, OTHER) if place in new else place
        db.executemany(_ADD, [(*where, *each) for each in sums.amounts()])


def totals(db: sqlite3.Connection) -> StoreTotals:
    """The sums of all batches. What is no number, or of a later version, is left out."""
    since: float | None = None
    sums: dict[Place, Counts] = {}
    if not _has_tables(db):
        return StoreTotals(since, sums)
    for *names, amount in db.execute("SELECT namespace, model, name, amount FROM totals"):
        if not isinstance(amount, int):
            continue
        namespace, model, name = (part.decode("utf-8", "replace") for part in names)
        if name == _SINCE:
            since = amount / _MICRO
        elif name in NAMES:
            setattr(sums.setdefault((namespace, model), Counts()), name, amount)
    return StoreTotals(since, sums)


def entry_hits(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, EntryHits]:
    """The hits of the entries under *keys*, of those that had some."""
    found: dict[str, EntryHits] = {}
    if not _has_tables(db):
        return found
    for at in range(0, len(keys), _NAMED):
        some = keys[at : at + _NAMED]
        statement = f"{_HITS} ({', '.join('?' * len(some))})"
        for key, hits, last in db.execute(statement, some):
            found[key.decode("ascii", "backslashreplace")] = EntryHits(hits, last)
    return found


def reset(db: Connection) -> None:
    """Begin again at zero. Inside the lock."""
    db.changed = ()
    db.execute("BEGIN IMMEDIATE")
    if _has_tables(db):
        db.execute("DELETE FROM totals")
        db.execute("DELETE FROM hits")
    db.execute("COMMIT")


def _has_tables(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'totals'").fetchone() is not None
