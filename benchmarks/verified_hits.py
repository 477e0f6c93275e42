"""What ``verify_rate`` costs the callers of hits: their CPU and their time by the clock, and beside
them the CPU of the whole process, which makes the calls in the background.

Rounds of a second with and without verification take turns. Their clock stands still in between, so
that the cache with verification makes no more calls than it would in a process of its own.
"""

import itertools
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

from benchmarks.http_layer import provider
from benchmarks.workload import request
from llm_cache_mem import LLMCache

__all__ = ["verified"]

LIMIT = 1.02
RATE = 0.2
ENTRIES = 1_000
ROUND_SECONDS = 1.0
PACES = (100, None)
"""Hits a second; None: one after the other."""
MEASURES = ("CPU of the caller", "by the clock, median", "by the clock, mean", "CPU of the process")
PATH = "/v1/chat/completions"

Ask = Callable[[dict[str, Any]], object]


class Cost(NamedTuple):
    """Microseconds a hit, in the order of MEASURES."""

    cpu: float
    usual: float
    mean: float
    process: float


class Clock:
    """Seconds that pass only between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self._before, self._since = 0.0, None  # type: tuple[float, float | None]

    def __call__(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._since else 0.0)

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self._before, self._since = self(), None


class Contestant(NamedTuple):
    cache: LLMCache
    clock: Clock
    ask: Ask

    @property
    def verified(self) -> int:
        return sum(found.checked + found.failed for found in self.cache.stats().verified.values())


def verified(rounds: int = 40) -> None:
    """Hits of which a share of 0.2 may be verified, against hits of which none is."""
    with provider() as url, ExitStack() as stack:
        for name, way in (("get_or_call", _core), ("httpx", _http)):
            off, on = (_contestant(way, rate, url, stack) for rate in (0.0, RATE))
            _settle(off, on)
            for pace in PACES:
                before = on.verified
                taken = [_pair(off, on, pace, number) for number in range(rounds)]
                how = f"{pace} a second" if pace else "one after the other"
                title = f"hits by {name}, {how}, {ENTRIES:,} entries of size M"
                _show(title, taken, (on.verified - before) / rounds / ROUND_SECONDS)


def _contestant(
    way: Callable[[LLMCache, str, ExitStack], Ask], rate: float, url: str, stack: ExitStack
) -> Contestant:
    clock = Clock()
    cache = stack.enter_context(
        LLMCache(
            max_size=ENTRIES,
            ttl_seconds=None,
            clock=clock,
            verify_rate=rate,
            verify_with="exact" if rate else None,
        )
    )
    return Contestant(cache, clock, way(cache, url, stack))


def _core(cache: LLMCache, url: str, stack: ExitStack) -> Ask:
    import httpx

    client = stack.enter_context(httpx.Client(base_url=url))

    def model(**asked: Any) -> Any:
        return client.post(PATH, json=asked).json()

    return lambda asked: cache.get_or_call(fn=model, **asked)


def _http(cache: LLMCache, url: str, stack: ExitStack) -> Ask:
    import httpx

    from llm_cache_mem.http import CacheTransport

    client = stack.enter_context(httpx.Client(base_url=url, transport=CacheTransport(cache)))
    return lambda asked: client.post(PATH, json=asked)


def _settle(*contestants: Contestant) -> None:
    """Store all entries, and use up the verifications that a process may begin with."""
    for one in contestants:
        for number in range(ENTRIES):
            one.ask(request("M", number))
        before = -1
        while before < one.verified:
            before = one.verified
            for _ in range(5 * ENTRIES):
                one.ask(request("M", random.randrange(ENTRIES)))
            time.sleep(0.05)


def _pair(off: Contestant, on: Contestant, pace: int | None, number: int) -> tuple[Cost, Cost]:
    """A round of both, in one order or the other."""
    if number % 2:
        after = _round(on, pace)
        return _round(off, pace), after
    return _round(off, pace), _round(on, pace)


def _round(one: Contestant, pace: int | None) -> Cost:
    cpu, walls = 0.0, list[float]()
    one.clock.start()
    process, began = time.process_time(), time.perf_counter()
    for count in itertools.count(1):
        asked = request("M", random.randrange(ENTRIES))
        cpu_before, wall_before = time.thread_time(), time.perf_counter()
        one.ask(asked)
        walls.append(time.perf_counter() - wall_before)
        cpu += time.thread_time() - cpu_before
        now = time.perf_counter() - began
        if now >= ROUND_SECONDS:
            break
        if pace:
            time.sleep(max(0.0, count / pace - now))
    one.clock.stop()
    time.sleep(0.02)  # calls in progress are the cost of this round
    used = time.process_time() - process
    each = cpu / count, median(walls), sum(walls) / count, used / count
    return Cost(*(seconds * 1e6 for seconds in each))


def _show(title: str, taken: list[tuple[Cost, Cost]], calls: float) -> None:
    print(f"\n{title}; {calls:.1f} verified a second")
    for at, name in enumerate(MEASURES):
        ratio, low, high = _ratio([(off[at], on[at]) for off, on in taken])
        verdict = "" if at == 3 else f"   (must be <= {LIMIT}: {'ok' if ratio <= LIMIT else 'NO'})"
        micros = median(off[at] for off, _ in taken)
        print(f"  {name:<20}  {ratio:8.3f} [{low:.3f}, {high:.3f}]   {micros:10.1f} us{verdict}")


def _ratio(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """The median ratio of the rounds, and between which values it lies in 95 of 100 samples of
    them."""
    ratios = [on / off for off, on in pairs]
    spread = sorted(median(random.choices(ratios, k=len(ratios))) for _ in range(1_000))
    return median(ratios), spread[25], spread[974]
