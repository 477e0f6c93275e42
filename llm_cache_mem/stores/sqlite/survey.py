"""What is in a file, by its index and its counters: sums, the newest entries, and what has expired,
without a look at the entries themselves."""

import sqlite3
from array import array
from typing import NamedTuple

from llm_cache_mem.stores.sqlite.packing import SEALED
from llm_cache_mem.stores.sqlite.rows import begin, empty

__all__ = [
    "Chosen",
    "Part",
    "expired",
    "is_sealed",
    "newest",
    "parts",
    "remove_all_expired",
    "remove_expired",
]

_KIND_AT = 2  # in a space, whose fields are schema, namespace and kind

_FEW = 8  # parts
_SUMS = (
    "SELECT part, count(*), total(expires_at <= ?), total(value_bytes), total(input_tokens),"
    " total(output_tokens), total(micros) / 1e6, total(nanos) / 1e9, total(nanos IS NULL),"
    " min(stored_at), max(stored_at) FROM entries"
)


class Chosen(NamedTuple):
    """Some of the entries: those whose keys begin with *prefix*, of a *kind* and of a *model*; None
    is any, and *but* a kind to leave out. Those that count as expired expired by *now*, or were
    stored by *stored_by*."""

    now: float
    prefix: str = ""
    kind: str | None = None
    model: str | None = None
    stored_by: float | None = None
    but: str | None = None


class Part(NamedTuple):
    """The sums of the entries with the same *model* whose keys begin with *space*. Floats: no sum
    of integers in a file, whatever they are, overflows."""

    space: str
    model: str
    entries: int
    expired: float
    value_bytes: float
    input_tokens: float
    output_tokens: float
    seconds: float
    cost_usd: float
    unpriced: float
    oldest: float
    newest: float


def is_sealed(db: sqlite3.Connection) -> bool:
    """Whether there are entries that say their model only to those who can decrypt them."""
    found = db.execute("SELECT 1 FROM parts WHERE model = ? AND entries > 0", (SEALED,))
    return found.fetchone() is not None


def parts(db: sqlite3.Connection, now: float) -> list[Part]:
    """The sums of all parts, at *now*."""
    names = {number: (space, model) for number, space, model in _names(db)}
    if len(names) <= _FEW:  # a walk for each takes less than sorting all rows
        found = [
            row
            for number in names
            for row in db.execute(f"{_SUMS} WHERE part = ? GROUP BY part", (now, number))
        ]
    else:
        found = db.execute(f"{_SUMS} GROUP BY part", (now,)).fetchall()
    return [Part(*names.get(number, ("", "")), *sums) for number, *sums in found]


def newest(
    db: sqlite3.Connection, chosen: Chosen, limit: int, *, only_expired: bool
) -> tuple[int, "array[int]"]:
    """How many rows are *chosen*, and the ids of so many that were stored last."""
    where, values = _condition(db, chosen, only_expired=only_expired)
    counted = f"SELECT count(*) FROM entries {where}"
    if not only_expired:  # the counters know
        counted = f"SELECT ifnull(sum(entries), 0) FROM parts {where.replace('part IN', 'id IN')}"
    (count,) = db.execute(counted, values).fetchone()
    statement = f"SELECT id FROM entries {where} ORDER BY stored_at DESC LIMIT ?"
    return count, array("q", (number for (number,) in db.execute(statement, (*values, limit))))


def expired(db: sqlite3.Connection, chosen: Chosen) -> "array[int]":
    """The ids of the rows that are *chosen* and count as expired."""
    where, values = _condition(db, chosen, only_expired=True)
    rows = db.execute(f"SELECT id FROM entries {where}", values)
    return array("q", (number for (number,) in rows))


def remove_expired(db: sqlite3.Connection, some: "array[int]", chosen: Chosen) -> int:
    """Remove the rows with *some* ids that count as expired, still; how many. Inside the lock."""
    where, values = _expiry(chosen)
    begin(db, len(some))
    statement = f"DELETE FROM entries WHERE id = ? AND {where}"
    gone = db.executemany(statement, [(number, *values) for number in some]).rowcount
    db.execute("COMMIT")
    return gone


def remove_all_expired(db: sqlite3.Connection, chosen: Chosen) -> bool:
    """Remove all rows at once, if all that are there count as expired; whether that was so. Inside
    the lock."""
    where, values = _expiry(chosen)
    db.execute("BEGIN IMMEDIATE")
    others = f"SELECT EXISTS (SELECT 1 FROM entries WHERE ({where}) IS NOT TRUE)"
    (are_others,) = db.execute(others, values).fetchone()
    if are_others:
        db.execute("ROLLBACK")
        return False
    empty(db)
    db.execute("COMMIT")
    return True


def _condition(
    db: sqlite3.Connection, chosen: Chosen, *, only_expired: bool
) -> tuple[str, tuple[float, ...]]:
    conditions: list[str] = []
    values: tuple[float, ...] = ()
    names = _names(db)
    meant = [number for number, space, model in names if _is_meant(space, model, chosen)]
    if len(meant) < len(names):
        conditions.append(f"part IN ({', '.join(map(str, meant))})")
    if only_expired:
        expiry, values = _expiry(chosen)
        conditions.append(expiry)
    return (f"WHERE {' AND '.join(conditions)}" if conditions else "", values)


def _is_meant(space: str, model: str, chosen: Chosen) -> bool:
    fields = space.split(":")
    kind = fields[_KIND_AT] if len(fields) > _KIND_AT else None
    return (
        space.startswith(chosen.prefix)
        and chosen.kind in (None, kind)
        and (chosen.but is None or chosen.but != kind)
        and chosen.model in (None, model)
    )


def _expiry(chosen: Chosen) -> tuple[str, tuple[float, ...]]:
    if chosen.stored_by is None:
        return "expires_at <= ?", (chosen.now,)
    return "(expires_at <= ? OR stored_at <= ?)", (chosen.now, chosen.stored_by)


def _names(db: sqlite3.Connection) -> list[tuple[int, str, str]]:
    return [
        (int(number), space.decode("utf-8", "replace"), model.decode("utf-8", "replace"))
        for number, space, model in db.execute("SELECT id, space, model FROM parts")
    ]
