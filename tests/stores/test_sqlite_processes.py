"""SQLiteStore among processes: forks, kills, checkpoints under load, and the ways a program
ends."""

import contextlib
import json
import multiprocessing
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import entry_of, value_of
from stores.processes import fork, in_child, outcome

from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.sqlite import SQLiteStore, file

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def is_sound(path: Path) -> bool:
    db = sqlite3.connect(path)
    try:
        (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
        totals = db.execute(
            "SELECT ifnull(sum(entries), 0), ifnull(sum(bytes), 0) FROM parts"
        ).fetchone()
        counted = db.execute("SELECT count(*), ifnull(sum(size), 0) FROM entries").fetchone()
    finally:
        db.close()
    return bool(verdict == "ok" and totals == counted and not list(path.parent.glob("*.corrupt-*")))


# -- kill -9


def write_until_killed(path: Path, slot: int, slots: int, seed: int, acknowledged: int) -> None:
    """Put ever higher numbers under keys that only this slot writes; tell the pipe *acknowledged*
    what was put."""
    rng = random.Random(seed)
    store = SQLiteStore(path, lock_timeout=5)
    while True:
        number = rng.randrange(40) * slots + slot
        key = f"1:kill:v:{number}"
        other = f"1:kill:v:{rng.randrange(40 * slots)}"
        try:
            entry = store.get(key)
            turn = value_of(entry)["turn"] + 1 if entry else 1
            store.put(key, entry_of({"key": key, "turn": turn, "text": "x" * rng.randrange(3_000)}))
            os.write(acknowledged, f"{number} {turn}\n".encode())
            found = store.get(other)
        except StoreError as exc:
            if "lock" not in exc.reason:  # which a slow disk makes last
                raise
            continue
        if found is not None and value_of(found)["key"] != other:
            raise AssertionError(f"{other} got another's value")


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_kill_9_loses_no_acknowledged_write(path: Path, seconds: float) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    slots = 8
    log = os.open(path.parent / "acknowledged", os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def start(slot: int) -> tuple[int, int]:
        own_seed = rng.randrange(2**32)
        return fork(lambda: write_until_killed(path, slot, slots, own_seed, log))

    running = {slot: start(slot) for slot in range(slots)}
    kills = 0
    stop_at = time.monotonic() + seconds
    failures = []
    while time.monotonic() < stop_at or kills <= 10:  # a rate would be the machine's, not ours
        time.sleep(rng.uniform(0.01, 0.12))
        slot = rng.randrange(slots)
        failures += kill(*running[slot])
        kills += 1
        running[slot] = start(slot)
    for pid, pipe in running.values():
        failures += kill(pid, pipe)
    assert failures == []
    store = SQLiteStore(path)
    store.size()
    highest: dict[int, int] = {}
    acknowledged = 0
    for line in (path.parent / "acknowledged").read_text().splitlines():
        number, turn = map(int, line.split())
        highest[number] = max(turn, highest.get(number, 0))
        acknowledged += 1
    found = {number: value_of(store.get(f"1:kill:v:{number}")) for number in highest}
    lost = [number for number in highest if found[number]["turn"] < highest[number]]
    store.close()
    print(f"{kills} kills, {acknowledged} acknowledged, {len(lost)} lost")
    assert lost == []
    assert all(value["key"] == f"1:kill:v:{number}" for number, value in found.items())
    assert is_sound(path)
    assert acknowledged > 100


def kill(pid: int, pipe: int) -> list[str]:
    """Kill a writer; what it had to complain of before that."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with open(pipe) as report:
        text = report.read()
    return [json.loads(text)["error"]] if text else []


# -- The WAL-reset bug of SQLite before 3.51.3: checkpoints against writers


@pytest.mark.parametrize("seconds", [4, pytest.param(600, marks=pytest.mark.slow)])
def test_checkpoints_under_load_lose_no_row(
    path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_LOG_LIMIT", 64 * 1024)  # one checkpoint for some twenty puts
    stop_at = time.monotonic() + seconds
    SQLiteStore(path).close()

    def write(writer: int) -> int:
        store = SQLiteStore(path, lock_timeout=10)
        count = 0
        while time.monotonic() < stop_at:
            store.put(f"1:wal:v:{writer}.{count}", entry_of([writer, count, "x" * (count % 4_000)]))
            count += 1
        return count

    def checkpoint() -> int:
        store = SQLiteStore(path, lock_timeout=10)
        count = 0
        while time.monotonic() < stop_at:
            store._access.write(lambda db: db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
            count += 1
        return count

    def disturb() -> int:
        while time.monotonic() < stop_at:
            with open(path.parent / "noise", "wb") as noise:
                noise.write(b"x" * 100_000)
                os.fsync(noise.fileno())
        return 0

    writers = [fork(lambda writer=writer: write(writer)) for writer in range(3)]
    others = [fork(checkpoint), fork(checkpoint), fork(disturb)]
    longest = 0
    while time.monotonic() < stop_at:
        with contextlib.suppress(FileNotFoundError):
            longest = max(longest, os.stat(f"{path}-wal").st_size)
        time.sleep(0.01)
    counts = [outcome(*writer, timeout=60) for writer in writers]
    checkpoints = [outcome(*other, timeout=60) for other in others]
    store = SQLiteStore(path)
    lost = [
        (writer, number)
        for writer, count in enumerate(counts)
        for number in range(count)
        if (entry := store.get(f"1:wal:v:{writer}.{number}")) is None
        or value_of(entry)[:2] != [writer, number]
    ]
    store.close()
    print(
        f"{counts} puts, {checkpoints} checkpoints, {len(lost)} lost, longest log {longest} bytes"
    )
    assert lost == []
    assert is_sound(path)
    assert longest <= 16 << 20
    assert sum(counts) > 100


def test_the_log_stays_short(path: Path) -> None:
    store = SQLiteStore(path)
    for number in range(40):
        store.put(f"k{number}", entry_of("x" * 500_000))
        assert os.stat(f"{path}-wal").st_size <= 10 << 20
    store.close()
    assert not Path(f"{path}-wal").exists()


# -- Forks


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    store.close()


def use(store: SQLiteStore, key: str) -> bool:
    store.put(key, entry_of(key))
    return bool(value_of(store.get(key)) == key)


def test_a_childs_writes_outlive_the_parent(path: Path, store: SQLiteStore) -> None:
    """With a connection carried over the fork it would not: the child would write into a log that
    the parent unlinks."""
    use(store, "parent")
    reader, writer = os.pipe()

    def child() -> bool:
        use(store, "before")
        os.read(reader, 1)
        return use(store, "after")

    running = fork(child)
    store.close()
    os.write(writer, b"x")
    assert outcome(*running) is True
    reopened = SQLiteStore(path)
    assert [value_of(reopened.get(key)) for key in ("parent", "before", "after")] == [
        "parent",
        "before",
        "after",
    ]
    reopened.close()


def test_no_fork_carries_a_connection(store: SQLiteStore) -> None:
    use(store, "k")
    assert in_child(lambda: [len(store._access.pool._idle), len(store._access.pool._slots)]) == [
        0,
        0,
    ]
    assert use(store, "k")


@pytest.mark.parametrize("forks", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_forks_amid_busy_threads(path: Path, forks: int) -> None:
    store = SQLiteStore(path, lock_timeout=5)
    stop = threading.Event()
    failures: list[BaseException] = []
    counts = [0] * 4

    def work(thread: int) -> None:
        try:
            while not stop.is_set():
                assert use(store, f"1:t:v:{thread}.{counts[thread]}")
                counts[thread] += 1
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(forks):
            assert in_child(lambda number=number: use(store, f"1:c:v:{number}"), timeout=60) is True
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    print(f"{counts} puts by threads")
    for thread, count in enumerate(counts):
        assert all(store.get(f"1:t:v:{thread}.{number}") for number in range(count))
    assert store.size("1:c:") == forks
    store.close()
    assert is_sound(path)


def holding(
    take: Callable[[SQLiteStore], Any], store: SQLiteStore, let_go: threading.Event
) -> threading.Thread:
    taken = threading.Event()

    def hold() -> None:
        with take(store):
            taken.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    return thread


@contextlib.contextmanager
def borrowed(store: SQLiteStore) -> Iterator[None]:
    db = store._access.pool.acquire()
    db.execute("BEGIN")
    db.execute("SELECT * FROM parts").fetchall()
    yield
    store._access.pool.discard(db)


@pytest.mark.parametrize(
    "take",
    [lambda store: store._file.lock.hold(), borrowed],
    ids=["write lock", "connection in a transaction"],
)
def test_a_fork_while_a_thread_holds_something(
    take: Callable[[SQLiteStore], Any], store: SQLiteStore
) -> None:
    use(store, "k")
    let_go = threading.Event()
    thread = holding(take, store, let_go)

    def child() -> str:
        try:
            return str(use(store, "child"))
        except StoreError as exc:
            return exc.reason

    began = time.monotonic()
    running = fork(child)
    assert time.monotonic() - began < 30  # and not until the thread lets go
    let_go.set()
    assert outcome(*running, timeout=60) in (
        "True",
        "the write lock is held elsewhere",
    )  # the parent's flock may still be held
    thread.join()
    assert use(store, "parent")


def test_multiprocessing_by_fork(path: Path, store: SQLiteStore) -> None:
    use(store, "parent")
    workers = [
        multiprocessing.get_context("fork").Process(target=use, args=(store, f"child{number}"))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert store.size("child") == 4


def test_many_processes_open_a_new_file_at_once(path: Path) -> None:
    def child(number: int) -> bool:
        store = SQLiteStore(path, lock_timeout=10)
        return use(store, f"child{number}")

    running = [fork(lambda number=number: child(number)) for number in range(16)]
    assert [outcome(*each, timeout=60) for each in running] == [True] * 16
    assert is_sound(path)
    store = SQLiteStore(path)
    assert store.size() == 16
    store.close()


def test_processes_agree_on_bounds_and_use(path: Path) -> None:
    """What another process has just used is not the next to go."""
    store = SQLiteStore(path, max_size=3)
    for key in ("a", "b", "c"):
        store.put(key, entry_of(key))

    def child() -> None:
        other = SQLiteStore(path, max_size=3)
        other.get("a")
        other.close()

    in_child(child)
    store.put("d", entry_of("d"))
    assert [key for key, _ in store.entries()] == ["c", "a", "d"]
    store.close()


# -- The ways a program ends

PROGRAM = """
import os, signal, sys, threading
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.stores.sqlite import SQLiteStore
store = SQLiteStore(sys.argv[1], lock_timeout=600)
for number in range(100):
    store.put(f"k{number}", Entry(Payload.of(number), 1.0))
    store.get(f"k{number}")
print("acknowledged", flush=True)
"""

ENDINGS = {
    "falls off the end": "",
    "sys.exit": "sys.exit(3)",
    "os._exit": "os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "an uncaught exception": "raise RuntimeError",
    "daemon threads in the middle of it": """
def work():
    while True:
        store.put("busy", Entry(Payload.of("x" * 10_000), 1.0)); store.get("busy")
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
""",
    "a forked child that exits": """
if os.fork():
    os.wait()
else:
    store.put("child", Entry(Payload.of(1), 1.0)); sys.exit()
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_acknowledged_writes_outlive_a_quick_exit(path: Path, ending: str) -> None:
    import llm_cache_mem

    environment = os.environ | {"PYTHONPATH": str(Path(llm_cache_mem.__file__).parents[1])}
    program = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM + ENDINGS[ending], str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "acknowledged\n"
    _, errors = program.communicate(timeout=60)
    assert "llm_cache_mem" not in errors
    store = SQLiteStore(path)
    assert [value_of(store.get(f"k{number}")) for number in range(100)] == list(range(100))
    store.close()
