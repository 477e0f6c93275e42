"""SQLiteStore when things go wrong: failing calls, files that are locked, full, read-only, damaged,
foreign, newer or gone."""

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import random
import resource
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from stores.conformance import entry_of, value_of
from stores.processes import in_child

from llm_cache_mem import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import filelock
from llm_cache_mem.stores.sqlite import SQLiteStore, rows
from llm_cache_mem.stores.sqlite import file as sqlite_file
from llm_cache_mem.stores.sqlite import layout as sqlite_layout

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., SQLiteStore]]:
    opened = []

    def open_it(at: Path = path, **options: Any) -> SQLiteStore:
        opened.append(SQLiteStore(at, **options))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def works(store: SQLiteStore) -> bool:
    key = f"works{secrets.token_hex(4)}"
    store.put(key, entry_of(key))
    return value_of(store.get(key)) == key


def error_of(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except StoreError as exc:
        return str(exc)
    return None


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def filled(path: Path, count: int, length: int = 500) -> list[str]:
    """A closed database of *count* entries, each of which tells its own key."""
    store = SQLiteStore(path)
    keys = [f"1:f:v:{number}" for number in range(count)]
    for key in keys:
        store.put(key, entry_of([key, "x" * length], expires_at=4e9))
    store.close()
    return keys


# -- Every call that can fail, failing once


class Faults:
    """Raises *exception* at the *nth* of the calls it is asked about."""

    def __init__(self) -> None:
        self.calls = 0
        self.nth = 0
        self.exception: BaseException = OSError()

    def arm(self, nth: int, exception: BaseException) -> None:
        self.calls, self.nth, self.exception = 0, nth, exception

    def before_call(self) -> None:
        self.calls += 1
        if self.calls == self.nth:
            raise self.exception


class FaultyModule:
    """A module with some functions of which one may fail."""

    def __init__(self, module: ModuleType, names: set[str], faults: Faults) -> None:
        self._module, self._names, self._faults = module, names, faults

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._module, name)
        if name not in self._names:
            return attribute

        def call(*args: Any) -> Any:
            if name == "close":  # which closes even when it fails
                attribute(*args)
                return self._faults.before_call()
            self._faults.before_call()
            return attribute(*args)

        return call


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults = Faults()

    class FaultyConnection(sqlite_file.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            faults.before_call()
            return super().execute(*args)

        def executemany(self, *args: Any) -> sqlite3.Cursor:
            faults.before_call()
            return super().executemany(*args)

        def close(self) -> None:
            super().close()
            faults.before_call()

    def try_flock(fd: int, flock: Callable[[int], bool] = filelock._try_flock) -> bool:
        faults.before_call()
        return flock(fd)

    def unflock(fd: int, flock: Callable[[int], None] = filelock._unflock) -> None:
        faults.before_call()
        flock(fd)

    names = {"stat", "open", "close", "rename", "access", "mkdir", "chmod", "fstat"}
    monkeypatch.setattr(sqlite_file, "Connection", FaultyConnection)
    monkeypatch.setattr(sqlite_file, "os", FaultyModule(os, names, faults))
    monkeypatch.setattr(filelock, "os", FaultyModule(os, names, faults))
    monkeypatch.setattr(filelock, "_try_flock", try_flock)
    monkeypatch.setattr(filelock, "_unflock", unflock)
    monkeypatch.setattr(sqlite_file, "_LOG_LIMIT", 100_000)
    return faults


def damage() -> sqlite3.DatabaseError:
    exc = sqlite3.DatabaseError("database disk image is malformed")
    exc.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return exc


EXCEPTIONS: list[Callable[[], BaseException]] = [
    damage,
    lambda: sqlite3.OperationalError("database or disk is full"),
    lambda: sqlite3.DatabaseError("x"),
    lambda: sqlite3.IntegrityError("x"),
    lambda: sqlite3.InterfaceError("x"),
    lambda: sqlite3.ProgrammingError("x"),
    lambda: OSError(errno.EIO, "Input/output error"),
    lambda: OSError(errno.ENOSPC, "No space left on device"),
    lambda: PermissionError(errno.EACCES, "Permission denied"),
    MemoryError,
    RecursionError,
    lambda: UnicodeEncodeError("utf-8", "the secret key", 0, 1, "surrogates not allowed"),
    lambda: OverflowError("Python int too large"),
]

OPERATIONS: list[Callable[[SQLiteStore], Any]] = [
    lambda store: store.put("1:a:v:1", entry_of("the secret answer")),
    lambda store: store.put("1:a:v:2", entry_of("x" * 120_000)),
    lambda store: store.get("1:a:v:1"),
    lambda store: store.put("1:a:v:3", entry_of(3)),
    lambda store: list(store.entries("1:a:")),
    lambda store: store.delete("1:a:v:3"),
    lambda store: store.size("1:"),
    lambda store: store.purge(),
    lambda store: store.clear(),
    lambda store: store.get("1:a:v:1"),
]


@pytest.mark.usefixtures("usual_timeouts")  # with what a fault has left locked
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of stores that are dropped, not closed
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_only_store_errors_escape_and_the_next_try_works(
    faults: Faults, every: int, fast_folder: Path
) -> None:
    """Each call fails once with each exception, or with one *every* few of them, never the same few
    for the next call."""
    nth = 0
    while faults.calls >= nth:
        nth += 1
        for make in EXCEPTIONS[nth % every :: every]:
            path = fast_folder / str(nth) / "cache.db"
            faults.arm(nth, make())
            try:
                store = SQLiteStore(path, max_size=2, make_folder=True)
            except StoreError:  # the fault looked like a wrong path
                store = SQLiteStore(path, max_size=2, make_folder=True)
            for operation in OPERATIONS:
                error = error_of(lambda operation=operation, store=store: operation(store))
                if error:
                    assert "secret" not in error
                    operation(store)
            error_of(store.close)
            calls = faults.calls
            faults.arm(0, make())
            assert works(SQLiteStore(path))
            faults.calls = calls
            shutil.rmtree(path.parent)
    print(f"{nth} calls")
    assert nth > 50


# -- Paths that cannot be right are errors at once


@pytest.mark.parametrize("bad", ["", ":memory:", "a\0b"])
def test_a_non_path_is_a_value_error(bad: str) -> None:
    with pytest.raises(ValueError, match="path of a file"):
        SQLiteStore(bad)


@pytest.mark.parametrize(
    "options", [{"max_size": 0}, {"max_size": -1}, {"max_bytes": 0}, {"lock_timeout": -1}]
)
def test_senseless_options_are_value_errors(path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SQLiteStore(path, **options)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} is a directory"):
        SQLiteStore(tmp_path)


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    path.write_text("a file")
    with pytest.raises(StoreError, match="cannot be used: Not a directory"):
        SQLiteStore(path / "cache.db")
    assert path.read_text() == "a file"


def test_a_device_is_refused() -> None:
    with pytest.raises(StoreError, match="not a regular file"):
        SQLiteStore("/dev/null")


def test_a_loop_of_links_is_refused(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(StoreError, match="cannot be used"):
        SQLiteStore(path)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_another_user(work: Callable[[], Any]) -> Any:
    """For root no file is read-only."""
    return in_child(work, uid=NOBODY if os.geteuid() == 0 else None)


def test_an_unwritable_folder_is_refused(public_folder: Path) -> None:
    public_folder.chmod(0o555)
    error = as_another_user(
        lambda: error_of(lambda: SQLiteStore(public_folder / "new" / "cache.db", make_folder=True))
    )
    assert (
        error
        == f"SQLiteStore: open failed: {public_folder}/new/cache.db cannot be used: Permission"
        " denied"
    )


def test_an_unreadable_file_is_refused(public_folder: Path) -> None:
    path = public_folder / "cache.db"
    filled(path, 1)
    path.chmod(0)
    assert "may not be read" in as_another_user(lambda: error_of(lambda: SQLiteStore(path)))


@pytest.fixture
def read_only(public_folder: Path) -> tuple[Path, str]:
    """A database that nobody may write, without its lock file, and the key of its entry."""
    path = public_folder / "cache.db"
    (key,) = filled(path, 1)
    path.chmod(0o444)
    (public_folder / "cache.db.lock").unlink()
    return path, key


def test_a_read_only_file_can_be_read(read_only: tuple[Path, str]) -> None:
    path, key = read_only
    path.parent.chmod(0o777)

    def use() -> list[Any]:
        store = SQLiteStore(path)
        return [
            value_of(store.get(key))[0],
            error_of(lambda: store.put("k", entry_of(1))),
            value_of(store.get(key))[0],
        ]

    first, error, second = as_another_user(use)
    assert (first, second) == (key, key)
    assert "readonly" in error


def test_a_read_only_folder_raises_only_store_errors(read_only: tuple[Path, str]) -> None:
    path, key = read_only
    path.parent.chmod(0o555)

    def use() -> list[Any]:
        store = SQLiteStore(path)
        return [error_of(lambda: store.put("k", entry_of(1))), error_of(lambda: store.get(key))]

    assert as_another_user(use)[0] is not None


# -- Locked


def test_a_foreign_write_lock_fails_puts_and_not_gets(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store(lock_timeout=0.2)
    store.put("k", entry_of(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreError, match="put failed: database is locked"):
        store.put("k", entry_of(2))
    assert value_of(store.get("k")) == 1
    assert time.monotonic() - began < 20
    other.execute("ROLLBACK")
    other.close()
    assert works(store)


def test_an_exclusive_lock_fails_operations_but_not_opening(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    (key,) = filled(path, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    store = open_store(lock_timeout=0.2)
    with pytest.raises(StoreError, match="get failed: database is locked"):
        store.get(key)
    with pytest.raises(StoreError, match="put failed: database is locked"):
        store.put(key, entry_of(2))
    assert time.monotonic() - began < 20
    other.close()
    assert value_of(store.get(key))[0] == key


def test_a_writer_that_was_stopped_costs_a_bounded_wait(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store(lock_timeout=0.2)
    store.put("k", entry_of(1))
    with open(f"{path}.lock") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(StoreError, match="put failed: the write lock is held elsewhere"):
            store.put("k", entry_of(2))
        assert value_of(store.get("k")) == 1
        assert time.monotonic() - began < 20
    assert works(store)


def test_a_thread_that_keeps_the_lock_costs_a_bounded_wait(
    open_store: Callable[..., SQLiteStore],
) -> None:
    store = open_store(lock_timeout=0.1)
    with (
        store._file.lock.hold(),
        pytest.raises(StoreError, match="the write lock is held elsewhere"),
    ):
        store.put("k", entry_of(1))
    assert works(store)


def test_a_held_write_lock_costs_three_waits_and_no_hit(
    open_store: Callable[..., SQLiteStore],
) -> None:
    store = open_store(lock_timeout=0.05)
    with LLMCache(backend=store) as cache:
        cache.engine.backend._writes._timer = lambda: 0.0  # it is never time to try again
        cache.put("known", "answer")
        with store._file.lock.hold():
            for number in range(20):
                assert cache.get("known") == "answer"
                cache.put(f"new {number}", "answer")
        assert cache.stats().errors == 3
        assert cache.stats().hits == 20


# -- Full


def fill_up(store: SQLiteStore) -> tuple[list[str], int]:
    """Puts until some failed; the keys of those that did not, and how many did."""
    kept, failed = [], 0
    for number in range(1_000):
        key = f"1:f:v:{number}"
        if error_of(lambda key=key: store.put(key, entry_of([key, "x" * 5_000]))):
            failed += 1
        else:
            kept.append(key)
        if failed > 20:
            break
    return kept, failed


def all_there(store: SQLiteStore, keys: list[str]) -> bool:
    return all(value_of(store.get(key))[0] == key for key in keys)


def test_a_file_that_may_not_grow_loses_nothing_and_works_again(path: Path) -> None:
    def use() -> list[Any]:
        store = SQLiteStore(path)
        store.put("first", entry_of(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
        kept, failed = fill_up(store)
        there = all_there(store, kept)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return [len(kept), failed, there, works(store), all_there(store, kept)]

    kept, failed, there, works_again, still_there = in_child(use)
    assert kept > 0
    assert failed > 20
    assert (there, works_again, still_there) == (True, True, True)


def test_a_full_disk_loses_nothing_and_works_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
        ).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    try:
        store = SQLiteStore(disk / "cache.db")
        kept, failed = fill_up(store)
        assert kept
        assert failed > 20
        assert all_there(store, kept)
        assert error_of(lambda: SQLiteStore(disk / "second.db").close()) is None
        store.close()
        larger = subprocess.run([mount, "-o", "remount,size=20m", disk], capture_output=True)
        assert larger.returncode == 0
        store = SQLiteStore(disk / "cache.db")
        assert all_there(store, kept)
        assert works(store)
        store.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


# -- Not the file it was


def test_a_deleted_file_is_made_again(path: Path, open_store: Callable[..., SQLiteStore]) -> None:
    store = open_store()
    store.put("old", entry_of(1))
    path.unlink()
    store.put("new", entry_of(2))
    assert store.get("old") is None
    assert value_of(open_store().get("new")) == 2


def test_writes_to_a_recreated_file_survive_closing_the_old_one(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    old = open_store()
    old.put("k", entry_of("old"))
    path.unlink()
    new = open_store()
    new.put("k", entry_of("new"))
    old.close()  # must not take the new log along
    new.put("j", entry_of("new"))
    new.close()
    store = open_store()
    assert (value_of(store.get("k")), value_of(store.get("j"))) == ("new", "new")


def test_a_deleted_folder_is_made_again(
    tmp_path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    (tmp_path / "folder").mkdir()
    store = open_store(tmp_path / "folder" / "cache.db")
    store.put("old", entry_of(1))
    shutil.rmtree(tmp_path / "folder")
    assert works(store)


def test_a_replaced_file_is_the_one_that_counts(
    path: Path, tmp_path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    (key,) = filled(tmp_path / "other.db", 1)
    store = open_store()
    store.put("old", entry_of(1))
    os.replace(tmp_path / "other.db", path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    store.put("new", entry_of(2))
    assert value_of(store.get(key))[0] == key
    assert store.get("old") is None


def test_a_link_leads_to_the_same_file_with_the_same_lock(
    tmp_path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    open_store(tmp_path / "link.db").put("k", entry_of(1))
    assert value_of(open_store(tmp_path / "real.db").get("k")) == 1
    assert sorted(name for name in os.listdir(tmp_path) if "link" in name) == ["link.db"]


def test_an_empty_file_becomes_the_database(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    path.touch()
    assert works(open_store())


# -- Damaged


@pytest.mark.parametrize(
    "content",
    [b"this is no database\n" * 500, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8000, b"no"],
)
def test_a_corrupt_file_is_set_aside_once(
    path: Path,
    content: bytes,
    open_store: Callable[..., SQLiteStore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path.write_bytes(content)
    Path(f"{path}.lock").touch()  # as a cache that was once kept there has left it
    store = open_store()
    assert works(store)
    assert works(open_store())
    (aside,) = path.parent.glob("cache.db.corrupt-*")
    assert aside.read_bytes() == content
    assert [record.name for record in caplog.records] == ["llm_cache_mem.stores.sqlite.file"]


def test_a_file_of_something_else_is_left_where_it_is(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    path.write_bytes(b"notes that somebody wrote\n" * 100)
    with pytest.raises(StoreError, match="is not a SQLite database"):
        open_store()
    assert path.read_bytes().startswith(b"notes")
    assert not list(path.parent.glob("*corrupt*"))


def test_a_file_corrupted_while_open_is_set_aside(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    keys = filled(path, 200)
    store = open_store()
    assert store.get(keys[0]) is not None
    with open(
        path, "r+b"
    ) as file:  # closing it drops this process's locks: the test is the only user
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    store._access.pool.acquire().close()  # its page cache would still be whole
    outcomes = [error_of(lambda key=key: store.get(key)) for key in keys]
    assert any(outcomes)
    assert works(store)
    assert (
        len(
            [
                name
                for name in os.listdir(path.parent)
                if "corrupt" in name and not name.endswith(("-wal", "-shm"))
            ]
        )
        == 1
    )


def test_threads_that_meet_the_damage_at_once_set_it_aside_once(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    path.write_bytes(b"no database" * 1000)
    Path(f"{path}.lock").touch()
    stores = []
    threads = [
        threading.Thread(target=lambda: stores.append(open_store(lock_timeout=5))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (
        store
    ) in stores:  # a connection to the file that another thread has just set aside may fail once
        error_of(lambda store=store: works(store))
    assert all(works(store) for store in stores)
    assert len(list(path.parent.glob("*corrupt*"))) == 1
    assert len({store.size() for store in stores}) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM parts",
        "UPDATE parts SET bytes = 'x'",
        "DROP TRIGGER entries_added",
        "DROP TABLE parts",
        "ALTER TABLE entries RENAME COLUMN used TO abused",
    ],
)
def test_missing_parts_do_not_stop_it_for_good(
    path: Path, damage: str, open_store: Callable[..., SQLiteStore]
) -> None:
    filled(path, 3)
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    store = open_store(max_size=100)
    error_of(lambda: works(store))
    assert works(store)
    assert store.size() > 0


def test_only_the_damaged_file_is_set_aside(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    """Whoever comes second finds a new file there, which is not to blame."""
    path.write_bytes(b"no database" * 1000)
    Path(f"{path}.lock").touch()
    damaged = path.stat().st_ino
    store = open_store()
    store.put("k", entry_of(1))
    store._file.set_aside(damaged)
    assert value_of(open_store().get("k")) == 1


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_never_answers_wrong(
    path: Path, part: float, open_store: Callable[..., SQLiteStore]
) -> None:
    keys = filled(path, 100)
    os.truncate(path, int(path.stat().st_size * part))
    store = open_store()
    assert wrong_answers(store, keys) == []
    assert works(store)


def wrong_answers(store: SQLiteStore, keys: list[str]) -> list[str]:
    """Keys that get another value than their own; misses and errors are not wrong."""
    wrong = []
    for key in keys:
        try:
            entry = store.get(key)
        except StoreError:
            continue
        if entry is not None and (value_of(entry)[0] != key or entry.expires_at != 4e9):
            wrong.append(key)
    return wrong


@pytest.mark.usefixtures("usual_timeouts")
def test_flipped_bits_never_change_an_answer(fast_folder: Path) -> None:
    """10,000 flips, some to a copy of the file, or many; in some copies one is in the first
    page."""
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    keys = filled(fast_folder / "whole.db", 100, 1_000)
    whole = (fast_folder / "whole.db").read_bytes()
    found = 0
    for turn in range(240):
        content = bytearray(whole)
        for flip in range((1, 5, 20, 140)[turn % 4]):
            at = rng.randrange(4096 if flip == 0 and turn % 3 == 0 else len(content))
            content[at] ^= 1 << rng.randrange(8)
        path = fast_folder / f"{turn}.db"
        path.write_bytes(content)
        error = error_of(lambda path=path: SQLiteStore(path).close())
        if error:
            assert "another application" in error or "is not a SQLite database" in error
            continue
        store = SQLiteStore(path)
        assert wrong_answers(store, keys) == []
        with contextlib.suppress(StoreError):
            for key, entry in store.entries():
                assert value_of(entry)[0] == key
                found += 1
        if error_of(lambda store=store: works(store)):
            error = (
                error_of(lambda store=store: works(store)) or ""
            )  # the file was set aside, unless it may be sound, but newer
            assert not error or any(
                said in error
                for said in ("newer version", "unsupported file format", "readonly database")
            )
        store.close()
    print(f"{found} entries were still readable")


def test_an_unreadable_entry_is_a_miss_removed_and_counted(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    one, two = filled(path, 2)
    with sqlite3.connect(path) as db:  # swapped: whole envelopes under the wrong keys
        rows = dict(db.execute("SELECT key, data FROM entries"))
        db.execute("UPDATE entries SET data = ? WHERE key = ?", (rows[one], two))
    db.close()
    store = open_store()
    assert store.get(two) is None
    assert store.unreadable == 1
    assert store.size() == 1
    assert value_of(store.get(one))[0] == one


def test_a_newer_entry_version_is_a_miss_and_stays(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    (key,) = filled(path, 1)
    with sqlite3.connect(path) as db:
        (data,) = db.execute("SELECT data FROM entries").fetchone()
        db.execute("UPDATE entries SET data = ?", (data[:4] + b"\x63" + data[5:],))
    db.close()
    store = open_store()
    assert store.get(key) is None
    assert list(store.entries()) == []
    assert store.size() == 1


# -- Not ours


def make_foreign(path: Path, application_id: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA application_id = {application_id}")
    db.execute("CREATE TABLE customers (name)")
    db.commit()
    db.close()
    path.chmod(0o644)


@pytest.mark.parametrize("application_id", [0, 1, 0x4C434D32])
def test_a_foreign_database_is_rejected_and_unchanged(path: Path, application_id: int) -> None:
    make_foreign(path, application_id)
    before = sha256(path)
    with pytest.raises(StoreError, match="database of another application"):
        SQLiteStore(path)
    assert sha256(path) == before
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == [path.name]


def test_a_foreign_database_in_place_of_ours_is_untouched(
    path: Path, tmp_path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    store.put("k", entry_of(1))
    for suffix in ("-wal", "-shm"):  # left beside it, SQLite would play our log into it
        Path(f"{path}{suffix}").unlink()
    make_foreign(tmp_path / "other.db", 7)
    os.replace(tmp_path / "other.db", path)
    before = sha256(path)
    assert error_of(lambda: store.put("k", entry_of(2))) is not None
    assert error_of(lambda: store.clear()) is not None
    assert sha256(path) == before


def test_a_newer_schema_is_left_alone_and_the_program_runs(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    filled(path, 3)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 3")
    db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    before = sha256(path)
    store = open_store()
    for use in (
        lambda: store.get("k"),
        lambda: store.put("k", entry_of(1)),
        store.clear,
        store.purge,
        store.size,
    ):
        assert "written by a newer version of llm-cache-mem (schema 3, not 2)" in (
            error_of(use) or ""
        )
    store.close()
    assert sha256(path) == before


def make_older(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA application_id = {sqlite_layout._APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.execute("CREATE TABLE entries (other)")
    db.commit()
    db.close()


def test_a_file_with_an_older_schema_is_set_aside(
    path: Path, open_store: Callable[..., SQLiteStore], caplog: pytest.LogCaptureFixture
) -> None:
    make_older(path)
    store = open_store()
    assert store.size() == 0
    assert works(store)
    (aside,) = path.parent.glob("*.outdated-*")
    with contextlib.closing(sqlite3.connect(aside)) as db:
        assert db.execute("SELECT * FROM entries").fetchall() == []
    assert f"was written by an older version; it was moved to {aside}" in caplog.text


def test_a_read_only_store_refuses_an_older_schema(path: Path) -> None:
    make_older(path)
    before = sha256(path)
    with pytest.raises(StoreError, match=r"written by an older version .* \(schema 1, not 2\)"):
        SQLiteStore(path, read_only=True)
    assert sha256(path) == before


def test_a_closed_store_raises(open_store: Callable[..., SQLiteStore]) -> None:
    store = open_store()
    store.close()
    with pytest.raises(StoreError, match="get failed: the store is closed"):
        store.get("k")


# -- Privacy


def test_all_files_are_for_this_user_alone_whatever_the_umask(
    tmp_path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    before = os.umask(0)
    try:
        assert works(open_store(tmp_path / "new" / "newer" / "cache.db", make_folder=True))
    finally:
        os.umask(before)
    folder = tmp_path / "new" / "newer"
    assert {
        name: (folder / name).stat().st_mode & 0o777 for name in os.listdir(folder)
    } == dict.fromkeys(("cache.db", "cache.db-wal", "cache.db-shm", "cache.db.lock"), 0o600)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "new/newer")] == [
        0o700,
        0o700,
    ]


def test_a_file_that_others_could_read_is_closed_to_them(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    filled(path, 1)
    path.chmod(0o644)
    store = open_store()
    assert works(store)
    assert {Path(f"{path}{suffix}").stat().st_mode & 0o777 for suffix in ("", "-wal", "-shm")} == {
        0o600
    }


def test_errors_and_logs_show_neither_keys_nor_values(
    path: Path, open_store: Callable[..., SQLiteStore], caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    for key in ("canary\ud800", "canary" * 10, "canary\0"):
        for use in (
            lambda key=key: store.put(key, entry_of("canary")),
            lambda key=key: store.get(key),
            lambda key=key: store.delete(key),
            lambda key=key: store.size(key),
            lambda key=key: store.clear(key),
        ):
            assert "canary" not in (error_of(use) or "")
    path.write_bytes(b"canary" * 1000)
    assert "canary" not in "".join(
        error_of(lambda: works(store)) or "" for _ in range(3)
    ) + caplog.text + repr(store)


# -- Written by an attacker


def change_schema(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def held_in(path: Path) -> list[Any]:
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT key, data FROM entries ORDER BY key").fetchall()
    finally:
        db.close()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
FOREIGN = [
    f"CREATE TRIGGER endless AFTER INSERT ON entries BEGIN {ENDLESS}; END",
    f"CREATE TRIGGER endless AFTER UPDATE ON parts BEGIN {ENDLESS}; END",
    f"CREATE VIEW endless AS {ENDLESS}",
    "CREATE TABLE more (x)",
    "CREATE INDEX more ON entries (abs(used))",
    "CREATE TABLE leases (key TEXT)",
]


@pytest.mark.parametrize("statement", FOREIGN)
@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_file_with_tables_and_triggers_of_others_is_not_used(
    path: Path, statement: str, when: str, open_store: Callable[..., SQLiteStore]
) -> None:
    filled(path, 3)
    store = open_store()
    if when == "before it is opened":
        store.close()
        change_schema(path, statement)
        store = open_store()
    else:
        assert works(store)
        change_schema(path, statement)
    rows = held_in(path)
    for work in (lambda: store.put("k", entry_of(1)), lambda: store.delete("k"), store.clear):
        assert "did not make" in str(error_of(work))
    store.close()
    assert held_in(path) == rows
    assert list(path.parent.glob("*corrupt*")) == []
    assert LLMCache(backend=path).get_or_call("q", lambda messages: "answer") == "answer"


def test_a_trigger_added_later_is_noticed(
    path: Path, open_store: Callable[..., SQLiteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 3)
    store = open_store()
    assert store.get("1:f:v:1") is not None
    change_schema(path, FOREIGN[0])
    for module in ("pool", "reader"):  # a tenth of a second later
        clock = f"llm_cache_mem.stores.sqlite.{module}.monotonic"
        monkeypatch.setattr(clock, lambda: time.monotonic() + 1)
    assert "did not make" in str(error_of(lambda: store.get("1:f:v:1")))


def test_first_entry_of_another_process_is_no_damage(
    open_store: Callable[..., SQLiteStore],
) -> None:
    """It may come between any two statements of a look at the totals of an empty file."""
    store, other = open_store(), open_store()
    bounds = rows.Bounds(5, None)

    class Fetched:
        """Another process writes as soon as a statement has run."""

        def __init__(self, db: Any) -> None:
            self._db = db

        def execute(self, *args: Any) -> Any:
            found = self._db.execute(*args).fetchall()
            other.put("k", entry_of(1))
            return SimpleNamespace(fetchone=lambda: found[0])

    assert store._access.use(lambda db: rows.room(Fetched(db), bounds)) == (5, math.inf)
    assert store._access.use(rows.room, bounds) == (4, math.inf)


def test_a_file_changed_by_this_library_is_accepted(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    one, other = open_store(), open_store()
    for turn in range(3):
        assert works(one)
        assert works(other)
        assert other.lease(f"1:a:b:{turn}", "token", 5.0)
        assert one.clear() == 2
    change_schema(path, "ANALYZE")
    assert works(one)
    assert works(open_store())


@pytest.mark.parametrize("way", ["get", "get_many", "entries"])
def test_row_too_large_for_an_entry_is_a_miss_that_takes_no_memory(
    path: Path, way: str, open_store: Callable[..., SQLiteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 3)
    db = sqlite3.connect(path)
    db.execute("UPDATE entries SET data = zeroblob(?) WHERE key = '1:f:v:1'", (200 << 20,))
    db.commit()
    db.close()
    store = open_store()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "get":
        assert store.get("1:f:v:1") is None
    elif way == "get_many":
        assert list(store.get_many(["1:f:v:1", "1:f:v:2"])) == ["1:f:v:2"]
    else:
        assert sorted(key for key, _ in store.entries()) == ["1:f:v:0", "1:f:v:2"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert store.unreadable == 1
    assert store.size() == 2, "it was removed"


def test_key_too_large_for_a_row_fails_and_takes_no_memory(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    filled(path, 3)
    db = sqlite3.connect(path)
    db.execute("UPDATE entries SET key = CAST(zeroblob(?) AS TEXT) WHERE id = 2", (200 << 20,))
    db.commit()
    db.close()
    store = open_store()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert store.get("1:f:v:2") is not None
    assert "too big" in str(error_of(lambda: list(store.entries())))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
