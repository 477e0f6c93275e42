"""Leases as rows of the SQLite file: which process may make the call for a key, and until when.

The first lease makes the table: a file without it is complete.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

from llm_cache_mem.stores.sqlite.layout import LEASES

__all__ = ["is_taken", "release", "take"]

# a lease that ends so much later than it may was taken by a clock that is wrong
_FUTURE_SECONDS = 60.0

_TABLE = LEASES.replace("TABLE", "TABLE IF NOT EXISTS", 1)
_TAKEN = "SELECT 1 FROM leases WHERE key = ? AND token <> ? AND until > ? AND until < ?"
_PUT = (
    "INSERT INTO leases (key, token, until) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET token"
    " = excluded.token, until = excluded.until WHERE token = excluded.token"
)


def is_taken(db: sqlite3.Connection, key: str, token: str, seconds: float, now: float) -> bool:
    """Whether another than *token* holds the lease of *key*: a read, for those who ask again and
    again."""
    with _without_table():
        return (
            db.execute(_TAKEN, (key, token, now, now + seconds + _FUTURE_SECONDS)).fetchone()
            is not None
        )
    return False


def take(db: sqlite3.Connection, key: str, token: str, seconds: float, now: float) -> bool:
    """Give *token* the lease of *key*, or prolong it; whether it has it. Inside the lock."""
    db.execute("BEGIN IMMEDIATE")
    db.execute(_TABLE)
    db.execute(
        "DELETE FROM leases WHERE until <= ? OR until >= ?", (now, now + seconds + _FUTURE_SECONDS)
    )  # there are never many
    taken = db.execute(_PUT, (key, token, now + seconds)).rowcount > 0
    db.execute("COMMIT")
    return taken


def release(db: sqlite3.Connection, key: str, token: str) -> None:
    """End the lease of *key*, if *token* holds it. Inside the lock."""
    with _without_table():
        db.execute("DELETE FROM leases WHERE key = ? AND token = ?", (key, token))


@contextlib.contextmanager
def _without_table() -> Iterator[None]:
    """Go on after the block when there is no table yet."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
