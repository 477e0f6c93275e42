"""Counts of writes in the lock file: what they say to readers of other processes and stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.conformance import entry_of, value_of

from llm_cache_mem.stores.filelock import FileLock
from llm_cache_mem.stores.sqlite import SQLiteStore, rows
from llm_cache_mem.stores.sqlite.changes import Changes


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[SQLiteStore, SQLiteStore]]:
    """Two on one file, as two processes have them."""
    both = SQLiteStore(tmp_path / "c.db", max_size=4), SQLiteStore(tmp_path / "c.db", max_size=4)
    yield both
    for store in both:
        store.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that the file was asked for."""
    keys: list[str] = []
    monkeypatch.setattr(rows, "get", lambda db, key, get=rows.get: keys.append(key) or get(db, key))
    return keys


def test_write_to_one_key_leaves_others_recalled(
    stores: tuple[SQLiteStore, SQLiteStore], asked: list[str]
) -> None:
    mine, other = stores
    other.put("a", entry_of(1))
    assert [value_of(mine.get("a")) for _ in range(2)] == [1, 1]
    other.put("b", entry_of(2))
    assert value_of(mine.get("a")) == 1
    assert asked == ["a"]
    other.put("a", entry_of(3))
    assert value_of(mine.get("a")) == 3


def test_removed_rows_are_asked_for_again(
    stores: tuple[SQLiteStore, SQLiteStore], asked: list[str]
) -> None:
    mine, other = stores
    for key in "abcd":
        other.put(key, entry_of(key))
    assert value_of(mine.get("a")) == "a"
    assert other.put("e", entry_of("e")).evicted == 1
    assert mine.get("a") is None
    assert value_of(mine.get("b")) == "b"
    other.clear()
    assert mine.get("b") is None


def test_version_changes_with_every_write(stores: tuple[SQLiteStore, SQLiteStore]) -> None:
    mine, other = stores
    other.put("a", entry_of(1))
    seen = [mine.version(), mine.version()]
    assert seen[0] == seen[1]
    other.put("b", entry_of(2))
    assert mine.version() not in seen


def test_version_changes_with_writes_of_this_store_without_counts(
    stores: tuple[SQLiteStore, SQLiteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Changes, "of_all", lambda self: None)
    mine, _ = stores
    before = mine.version()
    assert mine.version() == before
    mine.put("a", entry_of(1))
    assert mine.version() != before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it is not closed
def test_counts_hold_no_lock(tmp_path: Path) -> None:
    """A caller that an interrupt ended has dropped the lock, although the counts stay mapped."""
    locks = FileLock(str(tmp_path / "lock"), 1.0), FileLock(str(tmp_path / "lock"), 1.0)
    changes = Changes(locks[0])
    held = locks[0].acquire(1.0)
    assert held is not None
    changes.count(held, ["a"])
    assert changes.of("a") != changes.of("b")
    del held
    mine = locks[1].acquire(0.0)
    assert mine is not None
    mine.release()
    for lock in locks:
        lock.close()
