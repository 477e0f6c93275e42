"""SQLiteStore as a store to agree through: what all of them do, older files, clocks that are
wrong."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import entry_of, value_of
from stores.leases import Join, ListedLeases

from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.sqlite import SQLiteStore

LONG = 60.0


class TestLeases(ListedLeases):
    @pytest.fixture
    def join(self, tmp_path: Path) -> Iterator[Join]:
        made: list[SQLiteStore] = []

        def join() -> SQLiteStore:
            made.append(SQLiteStore(tmp_path / "cache.db", lock_timeout=10))
            return made[-1]

        yield join
        for store in made:
            store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def tables(path: Path) -> set[str]:
    db = sqlite3.connect(path)
    try:
        return {
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
    finally:
        db.close()


def leases(path: Path) -> list[Any]:
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT key, token FROM leases ORDER BY key").fetchall()
    finally:
        db.close()


def test_a_file_that_knows_no_leases_gets_them_with_the_first(path: Path) -> None:
    store = SQLiteStore(path)
    store.put("k", entry_of("kept"))
    store.release("k", "a")
    assert tables(path) == {"entries", "parts"}
    assert store.lease("k", "a", LONG)
    assert tables(path) == {"entries", "parts", "leases"}
    store.close()
    reopened = SQLiteStore(path)
    assert value_of(reopened.get("k")) == "kept"
    assert not reopened.lease("k", "b", LONG)
    reopened.close()


def test_leases_of_the_dead_are_swept_away_by_the_next(path: Path, clock: Any) -> None:
    store = SQLiteStore(path, clock=clock)
    for number in range(100):
        store.lease(f"k{number:02}", "dead", 10)
    clock.advance(5)
    store.lease("alive", "a", 10)
    clock.advance(6)
    store.lease("new", "b", 10)
    assert leases(path) == [("alive", "a"), ("new", "b")]
    store.close()


@pytest.mark.parametrize("back", [120, 86_400, 10 * 365 * 86_400])
def test_a_lease_from_the_future_is_ignored(path: Path, clock: Any, back: int) -> None:
    """Its clock was wrong, or ours is: nobody shall wait for that."""
    store = SQLiteStore(path, clock=clock)
    store.lease("k", "a", 10)
    clock.advance(-back)
    assert store.lease("k", "b", 10)
    store.close()


def test_a_clock_that_goes_back_a_little_leaves_the_lease(path: Path, clock: Any) -> None:
    store = SQLiteStore(path, clock=clock)
    store.lease("k", "a", 10)
    clock.advance(-20)
    assert not store.lease("k", "b", 10)
    store.close()


def test_a_closed_store_raises(path: Path) -> None:
    store = SQLiteStore(path)
    store.close()
    with pytest.raises(StoreError, match="lease failed"):
        store.lease("k", "a", LONG)
    with pytest.raises(StoreError, match="release failed"):
        store.release("k", "a")
