"""Hits and misses, timed: in memory and on SQLite by CPU time of the process, on Redis by the wall clock, all contestants of a table in turn."""

import gc
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from benchmarks.harness import Work, compare
from benchmarks.peers import in_memory, on_disk, on_redis
from benchmarks.peers.contestant import Absent, Contestant, Place, finished, isolates, opened, variant
from benchmarks.peers.tables import Cell, Column, Row, Table
from benchmarks.servers import redis_server
from benchmarks.workload import SIZES, VALUE, request
from llm_cache_mem import keys

__all__ = ["FULL", "Scale", "anew", "first_sight", "folder", "fresh", "misses", "numbers", "redis", "rows_of", "sqlite", "stored", "warm"]

PREFILLED = 1_000
numbers = itertools.count(1_000_000)


class Scale(NamedTuple):
    """How much is run: the *rounds* of each comparison, the calls in a *batch* by size, the *entries* of what is weighed, *callers* of one key."""

    rounds: int = 15
    batch: dict[str, int] = {"S": 300, "M": 100, "L": 12}  # noqa: RUF012 - nobody changes it
    entries: int = 50_000
    on_disk: int = 10_000
    callers: int = 50
    seconds: float = 0.2  # that the model takes in the stampede


FULL = Scale()
Prepare = Callable[[Contestant, str, int], Callable[[], Sequence[Work]]]


def folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the files of a table, in build/: on the disk where the project lies, since /tmp may be memory."""
    Path("build").mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir="build")


# -- Calls to time


def anew(plain: dict[str, Any]) -> dict[str, Any]:
    """*plain*, built anew: no object of it is shared."""
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


def stored(contestant: Contestant, size: str, count: int, first: int = 0) -> list[dict[str, Any]]:
    """*count* requests that *contestant* holds the answers to."""
    plain = [request(size, first + number) for number in range(count)]
    for asked in plain:
        finished(contestant, contestant.put(contestant.asked(anew(asked)), contestant.answered(VALUE)))
    return plain


def _gets(contestant: Contestant, asked: Sequence[Any]) -> list[Work]:
    return [lambda a=a: contestant.get(a) for a in asked]  # type: ignore[misc]


def _warm(contestant: Contestant, size: str, count: int) -> Callable[[], Sequence[Work]]:
    kept = [contestant.asked(anew(plain)) for plain in stored(contestant, size, count)]
    return lambda: _gets(contestant, kept)


def _fresh(contestant: Contestant, size: str, count: int) -> Callable[[], Sequence[Work]]:
    known = stored(contestant, size, count)
    return lambda: _gets(contestant, [contestant.asked(anew(plain)) for plain in known])


def _first(contestant: Contestant, size: str, count: int) -> Callable[[], Sequence[Work]]:
    def prepare() -> Sequence[Work]:
        known = stored(contestant, size, count, next(numbers) * count)
        keys.forget()
        return _gets(contestant, [contestant.asked(anew(plain)) for plain in known])

    return prepare


def _misses(contestant: Contestant, size: str, count: int) -> Callable[[], Sequence[Work]]:
    def prepare() -> Sequence[Work]:
        number = next(numbers) * count
        pairs = [(contestant.asked(anew(request(size, number + n))), contestant.answered(VALUE)) for n in range(count)]
        return [lambda a=a, v=v: contestant.miss(a, v) for a, v in pairs]  # type: ignore[misc]

    return prepare


# -- Tables


def warm(scale: Scale = FULL) -> Table:
    """Hits on a request that the program still holds and asks again."""
    about = "A hit in memory; the program holds its requests and asks them again, the same objects each time."
    return _in_memory("hits-warm", "Hits in memory, the same request objects again", about, _warm, scale)


def fresh(scale: Scale = FULL) -> Table:
    """Hits on a request built anew."""
    about = "A hit in memory; every request is built anew, as programs do: equal to one asked before, sharing no object with it."
    return _in_memory("hits-fresh", "Hits in memory, requests built anew", about, _fresh, scale)


def first_sight(scale: Scale = FULL) -> Table:
    """Hits on a request of which nothing is remembered."""
    about = "The first hit of an entry, on a request of which this process remembers nothing, as after a restart: nobody's key or value is warm."
    return _in_memory("hits-first", "Hits in memory, first sight", about, _first, scale)


def misses(scale: Scale = FULL) -> Table:
    """A miss and the put after it."""
    about = "A look in vain and the put after it; every request and every answer is a new one. The caches are full and drop an entry for each."
    return _in_memory("misses", "Misses in memory, with the put", about, _misses, scale)


LOSING = {
    "hits-warm": "Where a cache hands out the stored object itself it spares the copy, and the next caller gets what the last one made of it.",
    "hits-fresh": "On small requests the copy of the answer that keeps callers apart weighs more than the key; who makes none is ahead.",
    "hits-first": "The canonical JSON has to be written once whatever one does; on top come the check that the request has only one wire form, and the first decoding of the answer.",
    "misses": "A miss is where we do more than the others: the request is checked to have one wire form, the answer is encoded so that no caller can change it, and read for what it cost.",
}


def _in_memory(name: str, title: str, about: str, prepare: Prepare, scale: Scale) -> Table:
    with folder() as path, ExitStack() as stack:
        contestants, absent = opened(in_memory.ALL, Place(max(scale.batch.values()) + 200, Path(path)))
        for contestant in contestants:
            stack.callback(contestant.close)
        columns = [Column(size, "µs") for size in SIZES]
        cells = [_compared(contestants, prepare, size, scale, process_time) for size in SIZES]
        return Table(name, title, f"{about} µs of CPU.", columns, rows_of(contestants, cells), absent, LOSING[name])


def sqlite(scale: Scale = FULL) -> Table:
    """Hits and misses on files, requests built anew."""
    about = (
        f"Each on a file of its own on one disk, {PREFILLED:,} entries beforehand, requests built anew. µs of CPU: what a contestant waits for the disk is not in it. "
        "Ours, diskcache and those on top of it write with WAL and synchronous=NORMAL; LangChain's SQLiteCache with a rollback journal and an fsync for each put. "
        "An entry's file size is that of all files over the number of entries (S)."
    )
    losing = "Where we are behind, it is by what we check: a checksum over every entry, one wire form for every request, a codec that runs nothing that a file says."
    with folder() as path, ExitStack() as stack:
        contestants, absent = opened(on_disk.ALL, Place(10 * PREFILLED, Path(path)))
        for contestant in contestants:
            stack.callback(contestant.close)
        sizes = [_file_bytes(contestant, Path(path), scale) for contestant in contestants]
        hits = [_compared(contestants, _fresh, size, scale, process_time) for size in SIZES]
        lost = [_compared(contestants, _misses, size, scale, process_time) for size in SIZES]
        columns = [*(Column(f"hit, {size}", "µs") for size in SIZES), *(Column(f"miss, {size}", "µs") for size in SIZES)]
        weights = [Cell(size, size / sizes[0]) for size in sizes]
        rows = rows_of(contestants, [*hits, *lost, weights])
        return Table("sqlite", "On SQLite and other files", about, [*columns, Column("file, an entry", "B")], rows, absent, losing)


def _file_bytes(contestant: Contestant, path: Path, scale: Scale) -> float:
    count = PREFILLED if scale.rounds > 1 else 5
    stored(contestant, "S", count, 500_000_000)
    own = path / str([kind for kind in on_disk.ALL].index(type(contestant)))
    return sum(file.stat().st_size for file in own.rglob("*") if file.is_file()) / count


def redis(scale: Scale = FULL) -> Table:
    """Hits and misses on a Redis of our own, over loopback."""
    name, title = "redis", "On Redis"
    about = "One redis-server on loopback, each contestant with the client that it brings, one call after the other, requests built anew. µs on the wall clock, of which most is waiting."
    losing = "Ours is one GET or SET as for the others; behind is what a redis-py client in threads costs against one that asyncio drives, and our checks."
    columns = [*(Column(f"hit, {size}", "µs") for size in SIZES), *(Column(f"miss, {size}", "µs") for size in SIZES)]
    with folder() as path, ExitStack() as stack:
        try:
            port = stack.enter_context(redis_server())
        except FileNotFoundError as exc:
            return Table(name, title, about, columns, [], [Absent(kind.name, str(exc)) for kind in on_redis.ALL])
        contestants, absent = opened(on_redis.ALL, Place(PREFILLED, Path(path), port))
        for contestant in contestants:
            stack.callback(contestant.close)
        hits = [_compared(contestants, _fresh, size, scale, perf_counter) for size in SIZES]
        lost = [_compared(contestants, _misses, size, scale, perf_counter) for size in SIZES]
        return Table(name, title, about, columns, rows_of(contestants, [*hits, *lost]), absent, losing)


def _compared(contestants: Sequence[Contestant], prepare: Prepare, size: str, scale: Scale, timer: Callable[[], float]) -> list[Cell]:
    """A cell for each of *contestants*, from one interleaved run; the first of them is what the others are divided by."""
    count = scale.batch[size]
    variants = [variant(contestant, prepare(contestant, size, count), count) for contestant in contestants]
    gc.collect()
    gc.freeze()  # what the libraries brought with them is not looked through again at every collection
    print(f"  {size}: {len(variants)} contestants, {scale.rounds} rounds of {count} calls", flush=True)
    return [Cell(result.micros, result.ratio) for result in compare(variants, scale.rounds, timer)]


def rows_of(contestants: Sequence[Contestant], columns: Sequence[Sequence[Cell | None]]) -> list[Row]:
    """The rows made of *columns*, each a cell for each of *contestants*."""
    return [
        Row(
            contestant.versioned(),
            cells,
            "" if contestant.reference else isolates(contestant),
            contestant.spares,
            contestant.key,
            contestant.value,
            contestant.reference,
        )
        for contestant, *cells in zip(contestants, *columns, strict=True)
    ]
