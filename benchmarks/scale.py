"""A million entries: for how long ``stats``, ``clear`` and ``purge`` in memory keep a reader waiting,
and what the commands take on a SQLite file."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import perf_counter, time

from benchmarks.peers.timed import folder
from llm_cache_mem import LLMCache
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["memory", "sqlite"]

_ENTRIES = 1_000_000
_VALUE = Payload.from_json(Payload.of({"id": "x", "content": "a" * 180}).json())


def _entries(first: int, count: int) -> dict[str, Entry]:
    """*count* entries, every other of which has expired."""
    now = time()
    return {
        f"1::value:{sha256(str(number).encode()).hexdigest()}": Entry(
            _VALUE,
            now - number % 86_400,
            now + (86_400 if number % 2 else -10),
            f"model-{number % 3}",
            (100, 50, 0, 0, 0),
            0.001,
            1.5,
        )
        for number in range(first, first + count)
    }


def memory() -> None:
    """The longest wait of a thread that reads one key again and again, while another asks for the
    statistics of a million entries, or removes them; without that, for comparison."""
    print("\na million entries in memory: the longest wait of a reader, and the time of the call")
    works: dict[str, Callable[[LLMCache], object]] = {
        "nothing": lambda cache: [perf_counter() for _ in range(3_000_000)],
        "stats()": lambda cache: cache.stats(),
        "purge()": lambda cache: cache.purge(),
        "clear()": lambda cache: cache.clear(),
    }
    cache = LLMCache(max_size=None)
    store = cache.engine.backend.inner
    for name, work in works.items():
        if store.size() < _ENTRIES:
            for key, entry in _entries(0, _ENTRIES).items():
                store.put(key, entry)
        cache.put("hello", "world", model="m")
        longest, seconds = _watched(cache, lambda work=work: work(cache))  # type: ignore[misc]
        print(f"  {name:<10} {longest * 1e3:8.1f} ms   {seconds:6.2f} s")


def _watched(cache: LLMCache, work: Callable[[], object]) -> tuple[float, float]:
    done, longest = threading.Event(), 0.0

    def read() -> None:
        nonlocal longest
        while not done.is_set():
            began = perf_counter()
            cache.get("hello", model="m")
            longest = max(longest, perf_counter() - began)

    reader = threading.Thread(target=read)
    reader.start()
    began = perf_counter()
    work()
    seconds = perf_counter() - began
    done.set()
    reader.join()
    return longest, seconds


def sqlite() -> None:
    """Statistics, lists, export, import, prune and clear of a million entries on SQLite: CPU
    seconds of the command with its start, seconds by the clock, and bytes of the file after it."""
    print("\na million entries on SQLite: CPU s, s by the clock, MB of the file")
    with folder() as path:
        name, other, lines = str(path / "a.db"), str(path / "b.db"), str(path / "all.jsonl")
        store = SQLiteStore(name)
        for first in range(0, _ENTRIES, 1000):
            store.put_many(_entries(first, 1000))
        store.close()
        with LLMCache(max_size=None, backend=f"sqlite:///{name}") as cache:
            began = perf_counter()
            cache.stats()
            print(f"  stats() in the process: {(perf_counter() - began) * 1e3:.2f} ms")
        for database, arguments in (
            (name, ["list", name, "--limit", "5"]),
            (name, ["stats", name]),
            (name, ["export", name, lines]),
            (other, ["import", other, lines]),
            (name, ["prune", name]),
            (name, ["clear", name, "--all", "--yes"]),
            (other, ["prune", other, "--older-than", "0s"]),
        ):
            _command(Path(database), arguments)


def _command(database: Path, arguments: list[str]) -> None:
    before, began = os.times(), perf_counter()
    command = [sys.executable, "-m", "llm_cache_mem", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = perf_counter() - began, os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    shown = " ".join(Path(word).name for word in arguments)
    print(f"  {shown:<30} {cpu:7.2f} {seconds:7.2f} {database.stat().st_size >> 20:6}", flush=True)
