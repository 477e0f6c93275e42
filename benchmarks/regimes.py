"""Hits and misses in memory as programs make them: among many entries, with tools, in agents, at
first sight, and from crowds of threads and tasks."""

import asyncio
import gc
import itertools
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import process_time
from typing import Any, NamedTuple

import llm_cache_mem
from benchmarks.harness import Result, Variant, Work, compare
from benchmarks.peers import in_memory
from benchmarks.peers.contestant import Absent, Contestant, Place, opened
from benchmarks.peers.timed import anew, folder
from benchmarks.workload import VALUE, conversation, request, with_parts, with_tools
from llm_cache_mem.keys import digest

__all__ = [
    "AGENTS",
    "FIRST_SIGHT",
    "HITS",
    "MISSES",
    "Regime",
    "agents",
    "crowds",
    "first_sight",
    "hits",
    "measured",
    "misses",
]

PEERS = (
    in_memory.Ours,
    in_memory.PublishedAlgorithm,
    in_memory.CacheToolsCopied,
    in_memory.DSPy,
    in_memory.GPTCache,
)
ROUNDS = 11
STEPS = 40
THREADS = (16, 64, 256)
TASKS = 10_000
Request = dict[str, Any]
Kind = Callable[[Contestant, "Regime"], Callable[[], Sequence[Work]]]
_numbers = itertools.count(2_000_000)


class Regime(NamedTuple):
    """A way of asking: *make* builds request number n, *entries* are stored, *batch* calls are
    timed in a round.

    *must*: the most that ours may take in µs with the compiled part and without it; with *beside*,
    the most of the published algorithm's time instead.
    """

    name: str
    make: Callable[[int], Request]
    entries: int
    batch: int
    must: tuple[float, float] | None = None
    beside: tuple[float, float] | None = None


def _sized(size: str) -> Callable[[int], Request]:
    return lambda number: request(size, number)


HITS = (
    Regime("S, 60 entries", _sized("S"), 60, 300, beside=(0.56, 1.0)),
    Regime("M, 60 entries", _sized("M"), 60, 100, beside=(0.16, 0.45)),
    Regime("L, 60 entries", _sized("L"), 60, 12, (90, 370), beside=(0.07, 0.35)),
    Regime("S, 2,000 entries", _sized("S"), 2_000, 300, (9, 15)),
    Regime("M, 2,000 entries", _sized("M"), 2_000, 100, (18, 40)),
    Regime("S, 20,000 entries", _sized("S"), 20_000, 300),
    Regime("M, 20,000 entries", _sized("M"), 20_000, 100),
    Regime("S and 20 tools, 2,000 entries", with_tools, 2_000, 100),
    Regime("M in parts, keys in any order, 2,000 entries", with_parts, 2_000, 100),
)
FIRST_SIGHT = (
    Regime("S", _sized("S"), 300, 300, (8, 15)),
    Regime("M", _sized("M"), 100, 100, (18, 43)),
    Regime("L", _sized("L"), 12, 12, (240, 680)),
)
MISSES = (
    Regime("S", _sized("S"), 2_000, 300, (12, 26)),
    Regime("M", _sized("M"), 2_000, 100, (25, 60)),
    Regime("L", _sized("L"), 60, 12, (280, 800)),
)
AGENTS = Regime(f"{STEPS}-step agent, 20 tools", lambda number: {}, 50, STEPS)


def hits() -> None:
    """Hits on random entries, each request built anew."""
    for regime in HITS:
        _show(f"hit, {regime.name}", regime, known)


def first_sight() -> None:
    """The first hit of an entry, on a request of which this process remembers nothing."""
    for regime in FIRST_SIGHT:
        _show(f"hit, first sight, {regime.name}", regime, unseen)


def misses() -> None:
    """A miss and the put that follows it, every request and every answer a new one."""
    for regime in MISSES:
        _show(f"miss and put, {regime.name}", regime, new)


def agents() -> None:
    """The steps of an agent, each with the whole conversation so far, run again and for the first
    time."""
    again, first = AGENTS._replace(must=(165, 400)), AGENTS._replace(must=(200, 500))
    _show(f"hit, a step of a {again.name}, run again", again, rerun)
    _show(f"miss and put, a step of a {first.name}", first, run)


def crowds() -> None:
    """Hits on random entries from many threads, and from many tasks: CPU of the whole process."""
    regime = Regime("S", _sized("S"), 2_000, 2_560)
    for count in THREADS:
        _show(
            f"hit, S, 2,000 entries, {count} threads", regime, lambda c, r, n=count: _crew(c, r, n)
        )  # type: ignore[misc]
    everybody = regime._replace(batch=TASKS)
    _show(
        f"hit, S, 2,000 entries, {TASKS:,} tasks",
        everybody,
        tasks,
        (in_memory.OursAsync, in_memory.Cashews),
    )


# -- Calls to time


def _put(contestant: Contestant, asked: Request) -> None:
    contestant.put(contestant.asked(anew(asked)), contestant.answered(VALUE))


def _asked(contestant: Contestant, regime: Regime) -> list[Any]:
    """A batch of random requests that are stored, built anew."""
    picks = random.choices(range(regime.entries), k=regime.batch)
    return [contestant.asked(anew(regime.make(number))) for number in picks]


def _filled(contestant: Contestant, regime: Regime) -> None:
    for number in range(regime.entries):
        _put(contestant, regime.make(number))
    for asked in (anew(regime.make(number)) for number in range(regime.entries)):
        contestant.get(contestant.asked(asked))  # nothing is seen for the first time


def _gets(contestant: Contestant, asked: Sequence[Any]) -> list[Work]:
    return [lambda a=a: contestant.get(a) for a in asked]  # type: ignore[misc]


def known(contestant: Contestant, regime: Regime) -> Callable[[], Sequence[Work]]:
    """Hits on random entries."""
    _filled(contestant, regime)
    return lambda: _gets(contestant, _asked(contestant, regime))


def unseen(contestant: Contestant, regime: Regime) -> Callable[[], Sequence[Work]]:
    """Hits on entries never read, with keys never made."""

    def prepare() -> Sequence[Work]:
        made = [regime.make(next(_numbers)) for _ in range(regime.batch)]
        for asked in made:
            _put(contestant, asked)
        digest.forget()
        return _gets(contestant, [contestant.asked(anew(asked)) for asked in made])

    return prepare


def new(contestant: Contestant, regime: Regime) -> Callable[[], Sequence[Work]]:
    """Misses and puts of new requests, in a cache that is full."""
    _filled(contestant, regime)
    return lambda: _misses(
        contestant, [anew(regime.make(next(_numbers))) for _ in range(regime.batch)]
    )


def _misses(contestant: Contestant, made: Sequence[Request]) -> list[Work]:
    pairs = [(contestant.asked(asked), contestant.answered(VALUE)) for asked in made]
    return [lambda a=a, v=v: contestant.miss(a, v) for a, v in pairs]  # type: ignore[misc]


def _steps(number: int) -> list[Request]:
    """The requests of one agent: built anew, but sharing their messages, as an agent's do."""
    whole = anew(conversation(number, STEPS))
    messages = whole.pop("messages")
    return [{"messages": messages[: 2 * n + 2], **whole} for n in range(STEPS)]


def rerun(contestant: Contestant, regime: Regime) -> Callable[[], Sequence[Work]]:
    """The steps of a random agent that has run before."""
    for number in range(regime.entries):
        for asked in _steps(number):
            contestant.put(contestant.asked(asked), contestant.answered(VALUE))

    def prepare() -> Sequence[Work]:
        again = _steps(random.randrange(regime.entries))
        return _gets(contestant, [contestant.asked(asked) for asked in again])

    return prepare


def run(contestant: Contestant, regime: Regime) -> Callable[[], Sequence[Work]]:
    """The steps of a new agent."""
    return lambda: _misses(contestant, _steps(next(_numbers)))


def _crew(contestant: Contestant, regime: Regime, count: int) -> Callable[[], Sequence[Work]]:
    """Random hits, made by *count* threads that start together; their start is in the time."""
    _filled(contestant, regime)

    def prepare() -> Sequence[Work]:
        calls = _gets(contestant, _asked(contestant, regime))
        crew = [
            threading.Thread(target=lambda mine=calls[n::count]: [call() for call in mine])  # type: ignore[misc]
            for n in range(count)
        ]

        def start_and_join() -> None:
            for thread in crew:
                thread.start()
            for thread in crew:
                thread.join()

        return [start_and_join]

    return prepare


def tasks(contestant: Contestant, regime: Regime) -> Callable[[], Sequence[Work]]:
    """Random hits, each in an asyncio task of its own."""

    async def fill() -> None:
        for number in range(regime.entries):
            await contestant.put(contestant.asked(anew(regime.make(number))), anew(VALUE))

    in_memory.LOOP.run_until_complete(fill())

    def prepare() -> Sequence[Work]:
        asked = _asked(contestant, regime)

        async def everybody() -> None:
            await asyncio.gather(*[asyncio.ensure_future(contestant.get(a)) for a in asked])

        return [lambda: in_memory.LOOP.run_until_complete(everybody())]

    return prepare


# -- What comes out


def measured(
    regime: Regime,
    kind: Kind,
    kinds: Sequence[type[Contestant]] = PEERS,
    rounds: int = ROUNDS,
) -> tuple[list[Result], list[Absent]]:
    """The results of *kinds* in one interleaved run, ours first; and those that did not run."""
    with folder() as path, ExitStack() as stack:
        room = max(regime.entries, regime.entries * STEPS if kind in (rerun, run) else 0)
        contestants, absent = opened(kinds, Place(room + 10, path))
        for contestant in contestants:
            stack.callback(contestant.close)
        each = regime.batch if kind not in (known, unseen, new, rerun, run) else 1
        variants = [Variant(one.name, kind(one, regime), each) for one in contestants]
        gc.collect()
        gc.freeze()  # what the peers brought is not looked through at every collection
        try:
            return compare(variants, rounds, process_time), absent
        finally:
            gc.unfreeze()


def _show(
    title: str, regime: Regime, kind: Kind, kinds: Sequence[type[Contestant]] = PEERS
) -> None:
    results, absent = measured(regime, kind, kinds)
    print(f"\n{title}{_limits(regime, results)}")
    width = max(len(result.name) for result in results)
    for result in results:
        print(f"  {result.name:<{width}}  {result.ratio:8.2f}   {result.micros:10.1f} us")
    for missing in absent:
        print(f"  {missing.name}: {missing.reason}")


def _limits(regime: Regime, results: Sequence[Result]) -> str:
    """What ours must keep to, and whether it does."""
    compiled = getattr(llm_cache_mem, "speedups", False)
    ours, said = results[0], []
    if regime.must is not None:
        most = regime.must[0 if compiled else 1]
        said.append(f"must be <= {most:g} us: {'ok' if ours.micros <= most else 'NO'}")
    published = [result for result in results if result.name == in_memory.PublishedAlgorithm.name]
    if regime.beside is not None and published:
        most, reached = regime.beside[0 if compiled else 1], 1 / published[0].ratio
        verdict = "ok" if reached <= most else "NO"
        said.append(f"must be <= {most:g} of published, is {reached:.2f}: {verdict}")
    return f"   ({'; '.join(said)})" if said else ""
