"""SQLiteStore as a store: what all of them do, the model, a history of many threads, and what is
its own."""

import contextlib
import errno
import os
import random
import secrets
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import MakeStore, StoreConformance, entry_of, value_of
from stores.history import check_history, length
from stores.model import StoreMachine, check_against_model, sequences

from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import filelock
from llm_cache_mem.stores.sqlite import SQLiteStore, rows
from llm_cache_mem.stores.sqlite import file as sqlite_file
from llm_cache_mem.stores.sqlite import pool as sqlite_pool
from llm_cache_mem.stores.sqlite import reader as sqlite_reader
from llm_cache_mem.stores.sqlite import rows as sqlite_rows
from llm_cache_mem.stores.sqlite import store as sqlite_store
from llm_cache_mem.stores.sqlite import uses as sqlite_uses
from llm_cache_mem.stores.sqlite import writer as sqlite_writer


class TestConformance(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Iterator[MakeStore]:
        made: list[SQLiteStore] = []

        def make(**options: Any) -> SQLiteStore:
            made.append(SQLiteStore(tmp_path / f"{len(made)}.db", **options))
            return made[-1]

        yield make
        for store in made:
            store.close()


class SQLiteMachine(StoreMachine):
    persistent = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(
            dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        )

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> SQLiteStore:
        return SQLiteStore(
            Path(self.folder.name, "cache.db"), clock=clock, max_size=max_size, max_bytes=max_bytes
        )

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()


@sequences(100)
def test_it_does_what_the_model_does(number: int, steps: int) -> None:
    check_against_model(SQLiteMachine, number, steps)


@length(40_000)
def test_thirty_two_threads_see_a_consistent_history(tmp_path: Path, calls: int) -> None:
    with contextlib.closing(SQLiteStore(tmp_path / "c.db", lock_timeout=10)) as store:
        check_history(store, threads=32, calls=calls)


@pytest.mark.parametrize("puts", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_bounds_hold_over_many_puts(fast_folder: Path, puts: int) -> None:
    """Entries, bytes and the file stay as they were when the store was full for the first time."""
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    path = fast_folder / "cache.db"
    store = SQLiteStore(path, max_size=1_000, max_bytes=500_000)
    entries = [entry_of("x" * rng.randrange(800)) for _ in range(50)]
    evicted = 0
    full = 0
    for number in range(puts):
        evicted += store.put(f"1:b:v:{number}", entries[number % 50]).evicted
        if number % 10_000 == 4_999:
            assert store.size() == number + 1 - evicted <= 1_000
            assert sum(len(key) + entry.size for key, entry in store.entries()) <= 500_000
            used = sum(Path(f"{path}{suffix}").stat().st_size for suffix in ("", "-wal", "-shm"))
            full = full or used
            assert used <= full + sqlite_file._LOG_LIMIT + 1_000_000  # the log comes and goes
    store.close()
    assert path.stat().st_size < 1_500_000


def test_entries_survive_a_restart_with_their_order(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "c.db")
    for key in ("a", "b", "c"):
        store.put(key, entry_of(key))
    store.get("a")
    store.close()
    store = SQLiteStore(tmp_path / "c.db")
    assert [(key, value_of(entry)) for key, entry in store.entries()] == [
        ("b", "b"),
        ("c", "c"),
        ("a", "a"),
    ]
    store.close()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of at most 1,000 rows."""
    for module in (sqlite_rows, sqlite_store, sqlite_writer):
        monkeypatch.setattr(module, "SLICE", 1000)


@pytest.mark.usefixtures("small_slices")
def test_a_smaller_bound_is_reached_in_slices(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "c.db")
    for number in range(2_500):
        store.put(f"k{number}", entry_of(number))
    store.close()
    store = SQLiteStore(tmp_path / "c.db", max_size=10)
    assert [store.put("new", entry_of(turn)).evicted for turn in range(4)] == [1000, 1000, 491, 0]
    assert store.size() == 10
    store.close()


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("count", [999, 1_000, 2_001])
def test_all_slices_are_removed(tmp_path: Path, clock: Any, count: int) -> None:
    store = SQLiteStore(tmp_path / "c.db", clock=clock)
    for remove in (store.purge, store.clear, lambda: store.clear("1:")):
        for number in range(count):
            store.put(f"1:{number}", entry_of(number, expires_at=clock() + 1))
        clock.advance(1)
        assert remove() == count
        assert store.size() == 0
    store.close()


def test_purge_of_nearly_all_leaves_the_others(tmp_path: Path, clock: Any) -> None:
    store = SQLiteStore(tmp_path / "c.db", clock=clock)
    store.put("fresh", entry_of("x"))
    store.put("later", entry_of("x", expires_at=clock() + 2))
    store.put_many({f"1:{number}": entry_of(1, expires_at=clock() + 1) for number in range(1500)})
    clock.advance(1)
    assert store.purge() == 1500
    assert [key for key, _ in store.entries()] == ["fresh", "later"]
    assert store.size() == 2
    store.close()


def test_expired_entries_go_by_and_by_without_being_asked_for(tmp_path: Path, clock: Any) -> None:
    store = SQLiteStore(tmp_path / "c.db", clock=clock)
    for number in range(100):
        store.put(f"old{number}", entry_of(number, expires_at=clock() + 1))
    clock.advance(2)
    expired = sum(store.put(f"new{number}", entry_of(number)).expired for number in range(100))
    assert expired == 100
    assert store.size() == 100
    store.close()


class Nanoseconds:
    """The time by which a store orders uses, advanced by the test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Nanoseconds:
    time = Nanoseconds()
    monkeypatch.setattr(sqlite_uses, "time_ns", time)
    return time


def test_uses_are_written_by_the_hundred(tmp_path: Path, uses: Nanoseconds) -> None:
    """A get does not write; the 256th of another entry does, and so does one after two seconds."""
    store = SQLiteStore(tmp_path / "c.db")
    for number in range(300):
        store.put(f"k{number}", entry_of(number))
    uses.advance(1.9)  # the next group of uses is due at 2 s
    store._uses.lag = 0
    db = sqlite3.connect(tmp_path / "c.db")
    before = db.execute("PRAGMA data_version").fetchone()
    for number in range(255):
        store.get(f"k{number}")
    assert db.execute("PRAGMA data_version").fetchone() == before
    for number in range(255, 300):
        store.get(f"k{number}")
    assert db.execute("PRAGMA data_version").fetchone() != before
    db.close()
    store.close()


def test_uses_are_written_after_an_eighth_of_the_oldest_age(
    tmp_path: Path, uses: Nanoseconds
) -> None:
    store = SQLiteStore(tmp_path / "c.db", max_size=3)
    store.put("old", entry_of(1))
    uses.advance(800)
    store.put("k", entry_of(2))
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as db:

        def used() -> int:
            (found,) = db.execute("SELECT used FROM entries WHERE key = 'k'").fetchone()
            return int(found)

        written = used()
        for seconds in (3, 10, 80):
            uses.advance(seconds)
            store.get("k")
            assert used() == written
        uses.advance(30)
        store.get("k")
        assert used() == uses.now
    store.close()


def test_what_was_read_is_read_again_once_anyone_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another store's writes count themselves, at once; those of other tools show a second
    later."""
    now = 1000.0
    monkeypatch.setattr(sqlite_reader, "monotonic", lambda: now)
    monkeypatch.setattr(sqlite_pool, "monotonic", lambda: now)
    store, other = SQLiteStore(tmp_path / "c.db"), SQLiteStore(tmp_path / "c.db")
    asked: list[str] = []
    monkeypatch.setattr(
        rows, "get", lambda db, key, get=rows.get: asked.append(key) or get(db, key)
    )
    store.put("a", entry_of(1))
    assert [value_of(store.get("a")) for _ in range(3)] == [1, 1, 1]
    assert asked == ["a"]
    other.put("b", entry_of(2))
    other.put("a", entry_of(3))
    assert [value_of(store.get("a")) for _ in range(3)] == [3, 3, 3]
    assert asked == ["a", "a"]
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as db:
        db.execute("DELETE FROM entries")
    now += 1.1
    assert store.get("a") is None
    other.close()
    store.close()


def test_put_again_stays_in_the_order_of_use_of_its_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "c.db", max_size=3)
    for key in "abca":
        store.put(key, entry_of(key))
    assert store.put("d", entry_of("d")).evicted == 1
    assert [key for key, _ in store.entries()] == ["c", "a", "d"]
    store.close()


def test_unwritten_uses_count_for_eviction(tmp_path: Path, uses: Nanoseconds) -> None:
    store = SQLiteStore(tmp_path / "c.db", max_size=3)
    for key in "abc":
        store.put(key, entry_of(key))
    store.get("b")
    store.get("a")
    assert [store.put(key, entry_of(key)).evicted for key in "de"] == [1, 1]
    assert [key for key, _ in store.entries()] == ["a", "d", "e"]
    store.close()


def test_a_use_in_front_of_the_store_is_written(tmp_path: Path, uses: Nanoseconds) -> None:
    store = SQLiteStore(tmp_path / "c.db")
    store.put("a", entry_of(1))
    store.put("b", entry_of(2))
    store.touch("a")
    store.close()
    store = SQLiteStore(tmp_path / "c.db")
    assert [key for key, _ in store.entries()] == ["b", "a"]
    store.close()


@pytest.mark.parametrize("prefix", ["", "1:"])
def test_a_file_shrinks_when_it_is_cleared(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "c.db"
    store = SQLiteStore(path)
    store.put_many({f"1::value:{number}": entry_of("x" * 3000) for number in range(2000)})
    assert store.clear(prefix) == 2000
    assert path.stat().st_size < 3 << 20
    store.put("k", entry_of(1))
    assert store.size() == 1
    store.close()


def test_sizes_of_namespaces_and_kinds_are_counted(tmp_path: Path) -> None:
    """After puts, replacements, evictions and clears, by counters where there are any."""
    store = SQLiteStore(tmp_path / "c.db", max_size=50)
    rng = random.Random(5)
    held: set[str] = set()
    for turn in range(600):
        space = rng.choice(["1::value:", "1::http:", "1:a:value:", "1:ab:value:", ""])
        key = f"{space}{rng.randrange(20)}"
        if turn % 100 == 99:
            store.clear(rng.choice(["1:a:", "1::", "1::http:"]))
        else:
            store.put(key, entry_of(rng.choice("xy"), model=rng.choice([None, "m", "n"])))
        held = {key for key, _ in store.entries()}
        for prefix in ("", "1:", "1::", "1::value:", "1:a:", "1:ab:", "1:a", "2:", "1::value:1"):
            assert store.size(prefix) == sum(key.startswith(prefix) for key in held), prefix
    store.close()


def test_durable_syncs_every_commit(tmp_path: Path) -> None:
    for durable, level in ((False, 1), (True, 2)):
        store = SQLiteStore(tmp_path / "c.db", durable=durable)
        assert store._access.use(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (level,)
        store.close()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 2), True),
    ],
)
def test_which_sqlite_may_use_a_log_without_our_lock(
    tmp_path: Path, version: tuple[int, int, int], safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where flock does not work and SQLite has the WAL-reset bug, there is no log."""

    def no_flock(fd: int) -> bool:
        raise OSError(errno.EOPNOTSUPP, "no flock here")

    monkeypatch.setattr(filelock, "_try_flock", no_flock)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    store = SQLiteStore(tmp_path / "c.db")
    store.put("k", entry_of(1))
    assert value_of(store.get("k")) == 1
    assert store._access.use(lambda db: db.execute("PRAGMA journal_mode").fetchone()) == (
        b"wal" if safe else b"truncate",
    )
    store.close()


def test_no_connection_is_lost_when_looking_at_the_file_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(tmp_path / "c.db", lock_timeout=0.1)
    store.put("k", entry_of(1))

    def fail(db: object) -> bool:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(store._access.pool, "_moved", fail)
        for _ in range(20):
            store._access.pool._idle[0].checked = store._reader._sure_until = 0.0
            with pytest.raises(StoreError):
                store.get("k")
            patch.setattr(store._access.pool, "_moved", store._file.moved)
            assert value_of(store.get("k")) == 1
            patch.setattr(store._access.pool, "_moved", fail)
    assert value_of(store.get("k")) == 1
    store.close()


def test_a_thousand_threads_share_sixteen_connections(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "c.db", lock_timeout=30)
    store.put("k", entry_of(1))
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(value_of(store.get("k"))))
        for _ in range(1_000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 1_000
    assert len(store._access.pool._slots) <= 16
    store.close()


# -- Opened read-only


def test_a_read_only_store_reads_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with contextlib.closing(SQLiteStore(path, clock=lambda: 0.0)) as store:
        for number in range(3):
            store.put(f"k{number}", entry_of(number))
    before = path.read_bytes()
    with contextlib.closing(SQLiteStore(path, read_only=True)) as reader:
        assert value_of(reader.get("k1")) == 1
        assert reader.get_many(["k0", "no"]).keys() == {"k0"}
        assert [key for key, _ in reader.entries()] == ["k0", "k1", "k2"]
        assert [key for key, _ in reader.entries("k", part="2")] == ["k2"]
        assert reader.size() == 3
        for change in (
            lambda: reader.put("new", entry_of(1)),
            lambda: reader.put_many({"new": entry_of(1)}),
            lambda: reader.delete("k1"),
            reader.clear,
            reader.purge,
            lambda: reader.lease("k1", "token", 1.0),
        ):
            with pytest.raises(StoreError, match="was opened read-only"):
                change()
    assert path.read_bytes() == before


def test_a_read_only_store_sees_writes_of_others(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    store = SQLiteStore(path)
    reader = SQLiteStore(path, read_only=True)
    store.put("k", entry_of(1))
    assert value_of(reader.get("k")) == 1
    store.clear()
    assert reader.get("k") is None
    store.close()
    reader.close()


def test_a_read_only_store_leaves_unreadable_entries(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with contextlib.closing(SQLiteStore(path)) as store:
        store.put("k", entry_of(1))
        store._access.write(lambda db: db.execute("UPDATE entries SET data = x'00'"))
    with contextlib.closing(SQLiteStore(path, read_only=True)) as reader:
        assert reader.get("k") is None
        assert list(reader.entries()) == []
        assert reader.unreadable == 2
        assert reader.size() == 1


@pytest.mark.parametrize("content", [None, b"", b"notes", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_read_only_store_makes_no_file_and_sets_none_aside(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "cache.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="open failed"):
        SQLiteStore(path, read_only=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == (
        [] if content is None else [content]
    )
