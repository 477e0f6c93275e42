"""Many threads on one store, every call written down, and a check afterwards that one store could
have answered so."""

import bisect
import random
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from typing import Literal, NamedTuple

import pytest
from stores.conformance import entry_of, value_of

from llm_cache_mem.stores.base import Store

__all__ = ["Call", "check_history", "length", "violations"]


class Call(NamedTuple):
    """*value* is what was put, or what a get gave: a number no other put has, None for a miss.
    Times are nanoseconds."""

    action: Literal["put", "get", "delete"]
    key: str
    value: int | None
    start: int
    end: int


def length(calls: int) -> pytest.MarkDecorator:
    """A history of *calls*; in the long form of a million."""
    long = pytest.param(1_000_000, marks=pytest.mark.slow)
    return pytest.mark.parametrize("calls", [calls, long])


def check_history(
    store: Store, *, threads: int, calls: int, rate: int = 2_000, keys: int = 64
) -> None:
    """Up to *calls* calls, or as many as are made at *rate* a second, in an order that explains
    each answer."""
    seed = secrets.randbits(32)
    print(f"{seed=}")
    history = record(
        store, threads=threads, calls=calls, seconds=calls / rate, seed=seed, keys=keys
    )
    print(f"{len(history)} calls")
    assert violations(history) == []
    assert len(history) > min(calls, 20_000) / 20


def record(
    store: Store, *, threads: int, calls: int, seconds: float, seed: int, keys: int
) -> list[Call]:
    """What happened in up to *calls* calls by *threads* threads. Raises the first exception that
    left the store."""
    history: list[list[Call]] = [[] for _ in range(threads)]
    failures: list[BaseException] = []
    stop_at = time.monotonic() + seconds

    def work(thread: int) -> None:
        rng = random.Random(seed * 1000 + thread)
        for turn in range(calls // threads):
            if failures or time.monotonic() > stop_at:
                return
            key = f"1:h:v:{rng.randrange(keys)}"
            action: Literal["put", "get", "delete"] = rng.choices(
                ("get", "put", "delete"), (6, 3, 1)
            )[0]
            value = None
            start = time.perf_counter_ns()
            try:
                if action == "put":
                    value = turn * threads + thread
                    store.put(key, entry_of([key, value]))
                elif action == "delete":
                    store.delete(key)
                else:
                    entry = store.get(key)
                    if entry is not None:
                        of, value = value_of(entry)
                        assert of == key, f"{of} answered for {key}"
            except BaseException as exc:
                failures.append(exc)
                return
            history[thread].append(Call(action, key, value, start, time.perf_counter_ns()))

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return [call for calls_of_one in history for call in calls_of_one]


def violations(history: Iterable[Call], *, evicting: bool = False) -> list[str]:
    """Reads that no order of the calls explains: a value that was overwritten before the read
    began, or a miss of what was there.

    An *evicting* store may miss at any time.
    """
    by_key: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history:
        by_key[call.key].append(call)
    return [problem for calls in by_key.values() for problem in _of_one_key(calls, evicting)]


def _of_one_key(calls: list[Call], evicting: bool) -> list[str]:
    writes = {call.value: call for call in calls if call.action == "put"}
    changes = _LatestStart(call for call in calls if call.action != "get")
    puts = _LatestStart(call for call in calls if call.action == "put")
    deletes = [call for call in calls if call.action == "delete"]
    found = []
    for read in (call for call in calls if call.action == "get"):
        if read.value is None:
            certain = puts.among_those_over_by(read.start)
            if (
                not evicting
                and certain
                and not any(gone.start < read.end and gone.end >= certain for gone in deletes)
            ):
                found.append(f"miss of what had been put: {read}")
            continue
        write = writes.get(read.value)
        if write is None or write.start > read.end:
            found.append(f"value out of nowhere: {read}")
        elif changes.among_those_over_by(read.start) > write.end:
            found.append(f"overwritten or deleted before: {read}, {write}")
    return found


class _LatestStart:
    """Of the calls that were over by some time, when did the last to start begin?"""

    def __init__(self, calls: Iterable[Call]) -> None:
        ordered = sorted(calls, key=lambda call: call.end)
        self._ends = [call.end for call in ordered]
        self._starts = list(accumulate((call.start for call in ordered), max))

    def among_those_over_by(self, moment: int) -> int:
        """0 if none was."""
        at = bisect.bisect_left(self._ends, moment)
        return self._starts[at - 1] if at else 0
