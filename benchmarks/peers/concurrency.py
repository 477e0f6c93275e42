"""Many threads at once: what a hit costs when eight ask, and whether what they do at the same time
to one file goes well."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import perf_counter, process_time
from typing import Any

from benchmarks.harness import Variant, Work
from benchmarks.peers import in_memory, on_disk
from benchmarks.peers.contestant import Absent, Contestant, Place, opened
from benchmarks.peers.tables import Cell, Column, Table
from benchmarks.peers.timed import FULL, Scale, anew, compared, folder, numbers, rows_of, stored
from benchmarks.workload import VALUE, request

__all__ = ["THREADS", "threads", "threads_on_disk"]

THREADS = 8
ONE_PUT_IN = 10
ASYNC_ONLY = "for asyncio only: no threads"
Attempt = Callable[[], object]


def threads(scale: Scale = FULL) -> Table:
    """Hits in memory from one thread and from eight."""
    kinds = [
        kind for kind in in_memory.ALL if not kind.reference and kind is not in_memory.OursAsync
    ]
    return _crowd("threads", kinds, scale, putting=False)


def threads_on_disk(scale: Scale = FULL) -> Table:
    """Hits and puts on one file from one thread and from eight."""
    return _crowd(
        "threads-sqlite",
        [kind for kind in on_disk.ALL if not issubclass(kind, in_memory.OursAsync)],
        scale,
        putting=True,
    )


def _crowd(name: str, kinds: Sequence[type[Contestant]], scale: Scale, *, putting: bool) -> Table:
    with folder() as path, ExitStack() as stack:
        absent = [Absent(kind.versioned(), ASYNC_ONLY) for kind in kinds if kind.asynchronous]
        contestants, failed = opened(
            [kind for kind in kinds if not kind.asynchronous], Place(10_000, path)
        )
        for contestant in contestants:
            stack.callback(contestant.close)
        count = max(scale.batch["M"] // THREADS, 1) * THREADS
        tallies = [_Tally() for _ in contestants]
        cells: list[list[Cell | None]] = []
        for workers, timer in (
            (1, process_time),
            (THREADS, process_time),
            (1, perf_counter),
            (THREADS, perf_counter),
        ):
            variants = [
                Variant(
                    contestant.name, _prepared(contestant, count, workers, tally, putting), count
                )
                for contestant, tally in zip(contestants, tallies, strict=True)
            ]
            print(f"  {workers} threads, {timer.__name__}: {len(variants)} contestants", flush=True)
            cells.append([*compared(variants, scale.rounds, timer)])
        columns = [
            Column(f"{workers} thread{'s' * (workers > 1)}, {clock}", "µs")
            for clock in ("CPU", "wall")
            for workers in (1, THREADS)
        ]
        if putting:
            columns.append(Column("errors", "%"))
            cells.append([Cell(round(100 * tally.errors / tally.calls, 2)) for tally in tallies])
        return Table(
            name, columns, rows_of(contestants, cells), [*absent, *failed], {"threads": THREADS}
        )


class _Tally:
    """How many calls were made, and how many raised."""

    def __init__(self) -> None:
        self.calls = self.errors = 0
        self._lock = threading.Lock()

    def add(self, calls: int, errors: int) -> None:
        with self._lock:
            self.calls += calls
            self.errors += errors


def _prepared(
    contestant: Contestant, count: int, workers: int, tally: _Tally, putting: bool
) -> Callable[[], Sequence[Work]]:
    known = stored(contestant, "M", count)

    def attempts() -> list[Attempt]:
        calls: list[Attempt] = []
        for number, plain in enumerate(known):
            if putting and number % ONE_PUT_IN == ONE_PUT_IN - 1:
                new, answer = (
                    contestant.asked(request("M", next(numbers))),
                    contestant.answered(VALUE),
                )
                calls.append(lambda a=new, v=answer: contestant.put(a, v))  # type: ignore[misc]
            else:
                calls.append(lambda a=contestant.asked(anew(plain)): contestant.get(a))  # type: ignore[misc]
        return calls

    def prepare() -> Sequence[Work]:
        calls = attempts()
        crew = [
            threading.Thread(target=_make, args=(calls[first::workers], tally))
            for first in range(workers)
        ]
        return [lambda: _run(crew)]

    return prepare


def _make(calls: Sequence[Attempt], tally: _Tally) -> None:
    errors = 0
    for call in calls:
        try:
            call()
        except Exception:  # noqa: BLE001 - counted, and shown
            errors += 1
    tally.add(len(calls), errors)


def _run(crew: Sequence[threading.Thread]) -> Any:
    for worker in crew:
        worker.start()
    for worker in crew:
        worker.join()
