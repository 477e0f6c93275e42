"""Hits and misses: in memory and on SQLite by CPU time of the process, on Redis by the wall clock,
all contestants of a table in turn."""

import gc
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from benchmarks.harness import Variant, Work, compare
from benchmarks.peers import in_memory, on_disk, on_redis
from benchmarks.peers.contestant import (
    Absent,
    Contestant,
    Place,
    finished,
    isolates,
    opened,
    variant,
)
from benchmarks.peers.tables import Cell, Column, Row, Table
from benchmarks.servers import redis_server
from benchmarks.workload import SIZES, VALUE, request
from llm_cache_mem.keys import digest

__all__ = [
    "FULL",
    "QUICK",
    "Scale",
    "anew",
    "compared",
    "first_sight",
    "folder",
    "fresh",
    "misses",
    "numbers",
    "redis",
    "rows_of",
    "sqlite",
    "stored",
    "warm",
]

HITS_AND_MISSES = [Column(f"{what}, {size}", "µs") for what in ("hit", "miss") for size in SIZES]
numbers = itertools.count(1_000_000)


class Scale(NamedTuple):
    """How much is run: *rounds* of a comparison, calls in a *batch* by size, *entries* weighed,
    fewer *on_disk*, and *prefilled*."""

    rounds: int = 11
    batch: dict[str, int] = {"S": 300, "M": 100, "L": 12}  # noqa: RUF012 - nobody changes it
    entries: int = 50_000
    on_disk: int = 5_000
    prefilled: int = 1_000
    callers: int = 50
    seconds: float = 0.2  # that the model takes in the stampede


FULL = Scale()
QUICK = Scale(rounds=5, entries=10_000, on_disk=2_000)
Prepare = Callable[[Contestant, str, int], Callable[[], Sequence[Work]]]


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the files of a table, in build/: on the disk where the project lies, since /tmp
    may be memory."""
    build = Path(__file__).resolve().parents[2] / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as path:
        yield Path(path)


# -- Calls to time


def anew(plain: dict[str, Any]) -> dict[str, Any]:
    """*plain*, built anew: no object of it is shared."""
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


def stored(contestant: Contestant, size: str, count: int, first: int = 0) -> list[dict[str, Any]]:
    """*count* requests that *contestant* holds the answers to."""
    plain = [request(size, first + number) for number in range(count)]
    for asked in plain:
        finished(
            contestant, contestant.put(contestant.asked(anew(asked)), contestant.answered(VALUE))
        )
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
        digest.forget()
        return _gets(contestant, [contestant.asked(anew(plain)) for plain in known])

    return prepare


def _misses(contestant: Contestant, size: str, count: int) -> Callable[[], Sequence[Work]]:
    def prepare() -> Sequence[Work]:
        number = next(numbers) * count
        pairs = [
            (contestant.asked(anew(request(size, number + n))), contestant.answered(VALUE))
            for n in range(count)
        ]
        return [lambda a=a, v=v: contestant.miss(a, v) for a, v in pairs]  # type: ignore[misc]

    return prepare


# -- Tables


def warm(scale: Scale = FULL) -> Table:
    """Hits on a request that the program still holds and asks again."""
    return _in_memory("hits-warm", _warm, scale)


def fresh(scale: Scale = FULL) -> Table:
    """Hits on a request built anew."""
    return _in_memory("hits-fresh", _fresh, scale)


def first_sight(scale: Scale = FULL) -> Table:
    """Hits on a request of which nothing is remembered."""
    return _in_memory("hits-first", _first, scale)


def misses(scale: Scale = FULL) -> Table:
    """A miss and the put after it."""
    return _in_memory("misses", _misses, scale)


def _in_memory(name: str, prepare: Prepare, scale: Scale) -> Table:
    with folder() as path, ExitStack() as stack:
        contestants, absent = _entered(
            in_memory.ALL, Place(max(scale.batch.values()) + 200, path), stack
        )
        cells = [_compared(contestants, prepare, size, scale, process_time) for size in SIZES]
        return Table(
            name, [Column(size, "µs") for size in SIZES], rows_of(contestants, cells), absent
        )


def sqlite(scale: Scale = FULL) -> Table:
    """Hits and misses on files, requests built anew."""
    with folder() as path, ExitStack() as stack:
        contestants, absent = _entered(on_disk.ALL, Place(10 * scale.prefilled, path), stack)
        weights = [_file_bytes(contestant, path, scale.prefilled) for contestant in contestants]
        cells = [
            *_hits_and_misses(contestants, scale, process_time),
            [Cell(weight, weight / weights[0]) for weight in weights],
        ]
        columns = [*HITS_AND_MISSES, Column("file, an entry", "B")]
        return Table(
            "sqlite", columns, rows_of(contestants, cells), absent, {"entries": scale.prefilled}
        )


def _file_bytes(contestant: Contestant, path: Path, count: int) -> float:
    stored(contestant, "S", count, 500_000_000)
    own = path / str(on_disk.ALL.index(type(contestant)))  # the folder that opened() gave it
    return sum(file.stat().st_size for file in own.rglob("*") if file.is_file()) / count


def redis(scale: Scale = FULL) -> Table:
    """Hits and misses on a Redis of our own, over loopback."""
    with folder() as path, ExitStack() as stack:
        try:
            port = stack.enter_context(redis_server())
        except FileNotFoundError as exc:
            return Table(
                "redis", HITS_AND_MISSES, [], [Absent(kind.name, str(exc)) for kind in on_redis.ALL]
            )
        contestants, absent = _entered(on_redis.ALL, Place(scale.prefilled, path, port), stack)
        return Table(
            "redis",
            HITS_AND_MISSES,
            rows_of(contestants, _hits_and_misses(contestants, scale, perf_counter)),
            absent,
        )


def _entered(
    kinds: Sequence[type[Contestant]], place: Place, stack: ExitStack
) -> tuple[list[Contestant], list[Absent]]:
    contestants, absent = opened(kinds, place)
    for contestant in contestants:
        stack.callback(contestant.close)
    return contestants, absent


def _hits_and_misses(
    contestants: Sequence[Contestant], scale: Scale, timer: Callable[[], float]
) -> list[list[Cell]]:
    return [
        _compared(contestants, prepare, size, scale, timer)
        for prepare in (_fresh, _misses)
        for size in SIZES
    ]


def _compared(
    contestants: Sequence[Contestant],
    prepare: Prepare,
    size: str,
    scale: Scale,
    timer: Callable[[], float],
) -> list[Cell]:
    """A cell for each of *contestants*, from one interleaved run; the first of them is what the
    others are divided by."""
    count = scale.batch[size]
    variants = [
        variant(contestant, prepare(contestant, size, count), count) for contestant in contestants
    ]
    print(
        f"  {size}: {len(variants)} contestants, {scale.rounds} rounds of {count} calls", flush=True
    )
    return compared(variants, scale.rounds, timer)


def compared(variants: Sequence[Variant], rounds: int, timer: Callable[[], float]) -> list[Cell]:
    """A cell for each of *variants*. What was there before is not looked through at every
    collection: the libraries brought much of it."""
    gc.collect()
    gc.freeze()
    try:
        return [Cell(result.micros, result.ratio) for result in compare(variants, rounds, timer)]
    finally:
        gc.unfreeze()


def rows_of(
    contestants: Sequence[Contestant], columns: Sequence[Sequence[Cell | None]]
) -> list[Row]:
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
