"""Hits and puts on a SQLite file against diskcache and LangChain's SQLiteCache, alone and in four
processes, and how a get grows with the number of entries."""

import asyncio
import contextlib
import multiprocessing
import random
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks.harness import Variant, Work, compare, show
from benchmarks.peers.contestant import OURS, Contestant, Place, opened
from benchmarks.peers.langchain_caches import OnSQLite
from benchmarks.peers.on_disk import DiskCache, OursOnSQLite
from benchmarks.peers.timed import anew, folder
from benchmarks.workload import VALUE, request
from llm_cache_mem import LLMCache
from llm_cache_mem.stores.sqlite import SQLiteStore

__all__ = ["growth", "hits", "processes", "tasks"]

_ENTRIES = 1_000
_PROCESSES = 4
_CALLS = 4_000  # of each process


def hits() -> None:
    """Hits, replacements and new entries, drawn at random from 1,000: key, SQLite, and a value that
    is the caller's own, for all."""
    for size in ("S", "M"):
        with (
            folder() as path,
            warnings.catch_warnings(action="ignore"),
            contextlib.ExitStack() as stack,
        ):
            contestants, absent = opened((DiskCache, OursOnSQLite, OnSQLite), Place(10_000, path))
            known = [request(size, number) for number in range(_ENTRIES)]
            for contestant in contestants:
                stack.callback(contestant.close)
                for plain in known:
                    contestant.put(contestant.asked(anew(plain)), contestant.answered(VALUE))
            for name, reason in absent:
                print(f"  {name}: {reason}")
            for what, prepare, limit in (("get", _gets, 1.0), ("put", _puts, 1.1)):
                variants = [Variant(each.name, prepare(each, known)) for each in contestants]
                title = f"{what} on SQLite, {size}, random among {_ENTRIES:,}"
                show(title, compare(variants, rounds=21), limit)


def _gets(contestant: Contestant, known: Sequence[Any]) -> Callable[[], list[Work]]:
    rng = random.Random(7)
    return lambda: [
        lambda a=contestant.asked(anew(rng.choice(known))): contestant.get(a)  # type: ignore[misc]
        for _ in range(300)
    ]


def _puts(contestant: Contestant, known: Sequence[Any]) -> Callable[[], list[Work]]:
    rng = random.Random(7)
    return lambda: [
        lambda a=contestant.asked(anew(rng.choice(known))), v=contestant.answered(VALUE): (  # type: ignore[misc]
            contestant.put(a, v)
        )
        for _ in range(100)
    ]


def processes() -> None:
    """Four processes on one file, nine reads to one write, drawn at random from 1,000 entries:
    calls a second, by the wall clock and by CPU time."""
    kinds: dict[str, type[Contestant]] = {DiskCache.name: DiskCache, OURS: OursOnSQLite}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for number in range(7):
        order = list(kinds) if number % 2 == 0 else list(reversed(kinds))
        for name in order:
            with folder() as path:
                rates[name].append(_together(kinds[name], path))
    print(f"\n{_PROCESSES} processes, 9 reads to 1 write, S, calls a second (wall; CPU)")
    base = rates[DiskCache.name]
    for name, found in rates.items():
        wall, cpu = (median(each[at] for each in found) for at in (0, 1))
        by_wall, by_cpu = (
            median(a[at] / b[at] for a, b in zip(found, base, strict=True)) for at in (0, 1)
        )
        must = "" if name != OURS else f"   (must be >= 0.9: {'ok' if by_wall >= 0.9 else 'NO'})"
        print(f"  {name:<14} {by_wall:6.2f} {by_cpu:6.2f}   {wall:8.0f} {cpu:8.0f}{must}")


def _together(kind: type[Contestant], path: Path) -> tuple[float, float]:
    """How many calls a second the processes make together, and how many in a second of CPU time."""
    spawn = multiprocessing.get_context("spawn")
    contestant = kind(Place(10_000, path))
    for number in range(_ENTRIES):
        contestant.put(contestant.asked(request("S", number)), contestant.answered(VALUE))
    contestant.close()
    begin, results = spawn.Barrier(_PROCESSES + 1), spawn.SimpleQueue()
    workers = [
        spawn.Process(target=_work, args=(kind, path, seed, begin, results))
        for seed in range(_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    begin.wait()
    began = perf_counter()
    cpu = sum(results.get() for _ in workers)
    seconds = perf_counter() - began
    for worker in workers:
        worker.join()
    calls = _PROCESSES * _CALLS
    return calls / seconds, calls / cpu


def _work(kind: type[Contestant], path: Path, seed: int, begin: Any, results: Any) -> None:
    rng = random.Random(seed)
    contestant = kind(Place(10_000, path))
    asked = [contestant.asked(anew(request("S", rng.randrange(_ENTRIES)))) for _ in range(_CALLS)]
    answers = [contestant.answered(VALUE) for _ in range(_CALLS // 10)]
    contestant.put(asked[0], contestant.answered(VALUE))  # what is loaded at first is loaded now
    begin.wait()
    began = process_time()
    for number, each in enumerate(asked):
        if number % 10:
            contestant.get(each)
        else:
            contestant.put(each, answers[number // 10])
    results.put(process_time() - began)
    contestant.close()


def growth() -> None:
    """A get of a known request among a thousand entries and among a million."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("memory", "sqlite"):
            variants = []
            for size in (1_000, 1_000_000):
                backend = "memory" if name == "memory" else Path(folder, f"{size}.db")
                cache = LLMCache(max_size=None, ttl_seconds=None, backend=backend)
                for number in range(size):
                    cache.put(str(number), number)
                variants.append(
                    Variant(
                        "llm-cache-mem" if size > 1000 else "among 1,000", _random_gets(cache, size)
                    )
                )
            show(
                f"get among a million entries against a thousand, {name}",
                compare(variants, rounds=11),
                3.0,
            )


def _random_gets(cache: LLMCache, size: int) -> Callable[[], list[Callable[[], object]]]:
    rng = random.Random(7)
    return lambda: [lambda q=str(rng.randrange(size)): cache.get(q) for _ in range(500)]


def tasks() -> None:
    """Hits of asynchronous callers on SQLite, S, random among 1,000: awaited one after the other,
    and by 10,000 tasks at once."""
    for what, together in (("one after the other", 1), ("in 10,000 tasks", 10_000)):
        with folder() as path:
            variants = []
            for name, on_loop in (("each read in a thread", False), (OURS, True)):
                store = SQLiteStore(path / f"{on_loop}.db", read_on_loop=on_loop)
                cache = LLMCache(backend=store)
                known = [request("S", number) for number in range(_ENTRIES)]
                for plain in known:
                    cache.put(value=VALUE, **plain)
                variants.append(Variant(name, _awaited(cache, known, together), max(together, 500)))
            title = f"hit on SQLite, awaited {what}, CPU time of the process"
            show(title, compare(variants, rounds=7, timer=process_time))


def _awaited(
    cache: LLMCache, known: Sequence[dict[str, Any]], together: int
) -> Callable[[], list[Work]]:
    rng = random.Random(7)

    def prepare() -> list[Work]:
        asked = [anew(rng.choice(known)) for _ in range(max(together, 500))]

        async def ask() -> None:
            if together > 1:
                await asyncio.gather(*(cache.aget(**each) for each in asked))
                return
            for each in asked:
                await cache.aget(**each)

        return [lambda: asyncio.run(ask())]

    return prepare
