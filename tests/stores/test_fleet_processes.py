"""A fleet of processes and threads on each store that can lease: one call a request, and at most
one more for each that is killed."""

import json
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stores.processes import fork, outcome
from threads import until

from llm_cache_mem import LLMCache
from llm_cache_mem.engine import leases
from llm_cache_mem.stores import MemoryStore, Store
from llm_cache_mem.stores.memcached import MemcachedStore
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.stores.tiered import TieredStore

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

Open = Callable[[], LLMCache]


@pytest.fixture(params=["sqlite", "redis", "memcached", "tiered"])
def open_cache(request: pytest.FixtureRequest, fast_folder: Path) -> Open:
    """``open_cache()`` makes a cache of the fleet, in any process. Its store has time: what is
    asked here is whether all agree."""
    if request.param == "sqlite":
        backend: Store = SQLiteStore(fast_folder / "cache.db", lock_timeout=20)
    elif request.param == "redis":
        backend = RedisStore(request.getfixturevalue("redis_url"), timeout=20)
    elif request.param == "tiered":
        backend = TieredStore(MemoryStore(), SQLiteStore(fast_folder / "cache.db", lock_timeout=20))
    else:
        backend = MemcachedStore(request.getfixturevalue("memcached_url"), timeout=20)
    return lambda: LLMCache(backend=backend, coalesce="fleet", ttl_seconds=None)


class Log:
    """What the models of all processes did, in the order in which they did it: a file that is only
    appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, request: int) -> None:
        os.write(self._file, f"{what} {request} {os.getpid()}\n".encode())

    def lines(self) -> list[tuple[str, int, int]]:
        found = [line.split() for line in self._path.read_text().splitlines()]
        return [(what, int(request), int(pid)) for what, request, pid in found]


class Fleet(NamedTuple):
    """What each process of a test is to do: *threads* at once ask the same *requests*, each in an
    order of its own."""

    open_cache: Open
    log: Log
    threads: int
    requests: int
    seconds: float  # that a call takes
    open_gate: Path | None = None  # until this is there, every eighth call goes on

    def answer(self, number: int, called: list[int]) -> dict[str, Any]:
        called.append(number)
        self.log.note("begin", number)
        time.sleep(self.seconds)
        while self.open_gate is not None and number % 8 == 0 and not self.open_gate.exists():
            time.sleep(0.02)
        self.log.note("end", number)
        return {"content": f"answer {number}", "by": os.getpid()}

    def work(self, seed: int, begin: int) -> dict[str, int]:
        """What a child does once *begin* is closed at its other end; how many callers got the right
        answer, and what went wrong."""
        cache, tally, lock = self.open_cache(), Counter[str](), threading.Lock()
        os.read(begin, 1)

        def ask_all(own_seed: int) -> None:
            numbers = list(range(self.requests))
            random.Random(own_seed).shuffle(numbers)
            mine: Counter[str] = Counter()
            for number in numbers:
                called: list[int] = []
                try:
                    found = cache.get_or_call(
                        f"question {number}",
                        lambda messages, model, number=number, called=called: self.answer(
                            number, called
                        ),
                        model="m",
                    )
                    if called:
                        self.log.note("returned", number)
                    mine["right" if found["content"] == f"answer {number}" else "wrong"] += 1
                except Exception as exc:
                    mine[type(exc).__name__] += 1
            with lock:
                tally.update(mine)

        threads = [
            threading.Thread(target=ask_all, args=(seed + number,))
            for number in range(self.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tally["failures of the store"] = cache.stats().errors
        return dict(tally)


def start(asking: Fleet, seed: int, reader: int, writer: int) -> tuple[int, int]:
    def child() -> dict[str, int]:
        os.close(writer)
        return asking.work(seed, reader)

    return fork(child)


SIZES = [
    pytest.param(4, 10, 60, id="4 x 10"),
    pytest.param(8, 50, 200, id="8 x 50", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


@pytest.mark.parametrize(("processes", "threads", "requests"), SIZES)
def test_each_request_is_called_once(
    open_cache: Open, tmp_path: Path, processes: int, threads: int, requests: int
) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    log = Log(tmp_path / "calls")
    asking = Fleet(open_cache, log, threads, requests, seconds=0.1)
    reader, writer = os.pipe()
    children = [start(asking, seed + 1000 * number, reader, writer) for number in range(processes)]
    os.close(reader)
    began = time.monotonic()
    os.close(writer)  # all at once
    tallies = [outcome(*child, timeout=300) for child in children]
    seconds = time.monotonic() - began
    calls = [number for what, number, _ in log.lines() if what == "begin"]
    asked = processes * threads * requests
    print(
        f"{len(calls)} calls for {asked} callers of {requests} requests in {seconds:.1f} s;"
        f" {tallies}"
    )
    assert sum(tally.get("right", 0) for tally in tallies) == asked
    assert all(tally.keys() <= {"right", "failures of the store"} for tally in tallies)
    assert sorted(calls) == list(range(requests))


@pytest.mark.parametrize(("processes", "threads", "requests", "kills"), [
    pytest.param(3, 4, 24, 4, id="3 x 4"),
    pytest.param(8, 50, 200, 40, id="8 x 50", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
])  # fmt: skip
def test_kill_9_of_a_leader_costs_one_call_and_no_hang(
    open_cache: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    threads: int,
    requests: int,
    kills: int,
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 3.0)
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    log = Log(tmp_path / "calls")
    gate = (
        tmp_path / "open"
    )  # as long as it is not, there are leaders to kill, however slow this is
    asking = Fleet(open_cache, log, threads, requests, seconds=0.3, open_gate=gate)
    killed: set[int] = set()
    reader, writer = os.pipe()
    children = [start(asking, rng.getrandbits(30), reader, writer) for _ in range(processes)]
    os.close(writer)
    writer = os.open(os.devnull, os.O_RDONLY)  # those who come later find the pipe closed

    def busy_leaders() -> set[int]:
        """The processes with a call under way."""
        lines = log.lines()
        ended = {(number, pid) for what, number, pid in lines if what == "end"}
        return {
            pid for what, number, pid in lines if what == "begin" and (number, pid) not in ended
        } - killed

    for _ in range(kills):
        until(lambda: bool(busy_leaders()), seconds=60)
        leaders = busy_leaders()
        time.sleep(rng.uniform(0.0, 0.25))
        victim = rng.choice(sorted(leaders))
        at = next(number for number, (pid, _) in enumerate(children) if pid == victim)
        killed.add(victim)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        os.close(children[at][1])
        children[at] = start(asking, rng.getrandbits(30), reader, writer)
    gate.touch()
    tallies = [outcome(*child, timeout=600) for child in children]
    os.close(reader)
    os.close(writer)
    callers: dict[int, list[int]] = {number: [] for number in range(requests)}
    lines = log.lines()
    for what, number, pid in lines:
        if what == "begin":
            callers[number].append(pid)
    cut_off = {(what, number, pid) for what, number, pid in lines if pid in killed}
    cut_off = {
        (what, number, pid) for what, number, pid in cut_off if ("end", number, pid) not in cut_off
    }
    extra = sum(map(len, callers.values())) - requests
    print(
        f"{len(killed)} kills cut off {len(cut_off)} calls; {extra} extra calls;"
        f" {json.dumps(tallies)}"
    )
    assert all(
        tally["right"] == threads * requests and tally.keys() <= {"right", "failures of the store"}
        for tally in tallies
    )
    assert all(callers.values())
    # Again only after a death, and not if that came after the answer was stored.
    assert [number for number, pids in callers.items() if not killed.issuperset(pids[:-1])] == []
    returned = {(number, pid) for what, number, pid in lines if what == "returned"}
    assert [
        number
        for number, pids in callers.items()
        if any((number, pid) in returned for pid in pids[:-1])
    ] == []
    assert len(killed) == kills
