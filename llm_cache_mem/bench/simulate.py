"""The simulation: a trace, call by call, through client caches, a prompt cache, and the one behind the other."""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from heapq import heappop, heappush
from typing import Any, Final

from llm_cache_mem.bench.bill import PromptCacheBill
from llm_cache_mem.bench.census import Census
from llm_cache_mem.bench.clients import Client, Clock, Flights, Flying, Rule
from llm_cache_mem.bench.prefix import MINIMUM_TOKENS, PrefixTree, Reuse
from llm_cache_mem.bench.trace import Call
from llm_cache_mem.keys import prefix
from llm_cache_mem.request import Request
from llm_cache_mem.seats import running_loop

__all__ = ["DEFAULT_LIFETIMES", "Saved", "Simulation"]

DEFAULT_LIFETIMES: Final = (300.0, 3600.0)
_AHEAD: Final = 50_000  # calls that are looked at before their turn, to see which of them overlap
_KEY_PREFIX: Final = prefix("", "value")
_NO_PARAMS: Final[Mapping[str, Any]] = {}


class Saved:
    """What one client cache saved, and what the prompt cache behind it was asked for."""

    def __init__(self, lifetimes: Sequence[float]) -> None:
        self.hits = self.coalesced = self.input_tokens = self.output_tokens = 0
        self.seconds = 0.0
        self.behind = [PromptCacheBill(lifetime) for lifetime in lifetimes]

    def add(self, call: Call, seconds: float) -> None:
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.seconds += seconds


class Simulation:
    """Runs calls through a cache for each of *rules* and a prompt cache for each of *lifetimes* (seconds); read it when ``run`` is done."""

    def __init__(self, rules: Sequence[Rule], lifetimes: Sequence[float] = DEFAULT_LIFETIMES, *, keep_keys: bool = False) -> None:
        self.clock = Clock()
        self.clients = [Client(rule, self.clock) for rule in rules]
        self.saved = [Saved(lifetimes) for _ in rules]
        self.lifetimes = tuple(lifetimes)
        self.alone = [PromptCacheBill(lifetime) for lifetime in lifetimes]
        self._nothing_owed = (0,) * len(self.lifetimes)
        self._common = [PromptCacheBill(lifetime) for lifetime in lifetimes]
        self.census = Census(keep_keys=keep_keys)
        self.seconds = 0.0
        self._tree = PrefixTree(lifetimes, streams=1 + len(self.clients)) if lifetimes else None
        self._lookups = [(place, client.lookup) for place, client in enumerate(self.clients)]
        self._everyone = list(range(len(self.clients)))
        self._flights = Flights(self.clients)
        self._landings: list[tuple[float, int, Request, float, Any]] = []
        self._answered: dict[tuple[str, int], float] = {}  # when calls in flight, which others may join, will be, by client
        self._coalesce = any(rule.coalesce for rule in rules)

    def run(self, calls: Iterable[Call], step: Callable[[], object] | None = None) -> "Simulation":
        """Take in all of *calls*, which come by arrival; *step* is told of each."""
        if running_loop() is None:
            return self._run(calls, step)
        with ThreadPoolExecutor(1) as aside:  # as in a notebook: where one event loop runs, ours cannot
            return aside.submit(self._run, calls, step).result()

    def _run(self, calls: Iterable[Call], step: Callable[[], object] | None) -> "Simulation":
        clock, landings, flights, census = self.clock, self._landings, self._flights, self.census
        send = None if self._tree is None else self._tree.send
        with closing(flights), _no_collections():
            for number, (call, took, overlaps) in enumerate(_with_overlaps(calls, far=self._coalesce)):
                now = call.at
                if landings and landings[0][0] <= now:
                    self._land(now)
                clock.now = now
                census.add(call)
                self.seconds += took
                request = Request(_KEY_PREFIX + call.key, call.model, None, _NO_PARAMS)
                if overlaps or request.key in flights.under_way:
                    went: list[bool] | None = self._fly(number, request, call, took)
                else:
                    went = self._ask(number, request, call, took)
                if send is not None:
                    self._bill(call, send(call, went), went)
                if step is not None:
                    step()
            self._land(float("inf"))
        self._add_up()
        return self

    def _ask(self, number: int, request: Request, call: Call, took: float) -> list[bool] | None:
        """A call that overlaps no other for its key: looked up now, kept when it is answered. Which clients' it went on for; None: all."""
        missed = [place for place, lookup in self._lookups if lookup(request) is None]
        if missed:
            heappush(self._landings, (call.at + took, number, request, took, missed))
        if len(missed) == len(self._lookups):
            return None
        went = [True, *[False] * len(self.clients)]
        for place in missed:
            went[place + 1] = True
        for place, saved in enumerate(self.saved):
            if not went[place + 1]:
                saved.hits += 1
                saved.add(call, took)
        return went

    def _fly(self, number: int, request: Request, call: Call, took: float) -> list[bool]:
        flying = self._flights.take_off(request)
        lands = call.at + took
        if flying.leads:
            heappush(self._landings, (lands, number, request, took, flying))
            self._answered.update({(request.key, place): lands for place in flying.leads})
        for place, saved in enumerate(self.saved):
            if flying.hits[place]:
                saved.hits += 1
                saved.add(call, took)
            elif place not in flying.leads:
                saved.coalesced += 1
                waits = self._answered.get((request.key, place), lands) - call.at
                saved.add(call, max(0.0, took - waits))
        return [True, *(place in flying.leads for place in self._everyone)]

    def _land(self, now: float) -> None:
        """Keep the answers that are complete by *now*."""
        landings, clients, clock = self._landings, self.clients, self.clock
        while landings and landings[0][0] <= now:
            clock.now, _, request, took, who = heappop(landings)
            if isinstance(who, Flying):
                self._flights.land(who)
                for place in who.leads:
                    self._answered.pop((request.key, place), None)
                continue
            for place in who:
                clients[place].arrived(request, took)

    def _bill(self, call: Call, reuse: Reuse, went: list[bool] | None) -> None:
        reads, tokens = reuse.read, call.input_tokens
        writes = tokens if tokens >= MINIMUM_TOKENS else 0
        if went is None and reads[0] is reads[-1]:  # the same behind every client
            _charge(self._common, reads[0], writes, reuse.owed)
            return
        _charge(self.alone, reads[0], writes, reuse.owed)
        for saved, goes, read in zip(self.saved, went[1:] if went else self._everyone, reads[1:], strict=True):
            if goes is not False:
                _charge(saved.behind, read, writes, self._nothing_owed)

    def _add_up(self) -> None:
        """What was the same behind every client belongs to each of them."""
        for bills in (self.alone, *(saved.behind for saved in self.saved)):
            for bill, common in zip(bills, self._common, strict=True):
                bill.merge(common)


def _charge(bills: Sequence[PromptCacheBill], reads: Sequence[int], writes: int, owed: Sequence[int]) -> None:
    """One call, by lifetime: it reads *reads*, and writes the rest of *writes*."""
    for bill, read, more in zip(bills, reads, owed, strict=True):
        bill.add(read, writes - read if writes else 0, more)


def _with_overlaps(calls: Iterable[Call], *, far: bool) -> Iterator[tuple[Call, float, bool]]:
    """Each call, what it took, and, looking *far*, whether another for its key may arrive before it is answered."""
    if not far:
        yield from ((call, call.took(), False) for call in calls)
        return
    source, ahead = iter(calls), deque[tuple[Call, float]]()
    waiting: dict[str, int] = {}  # calls ahead, by key
    last = float("-inf")
    while True:
        if not ahead:
            first = next(source, None)
            if first is None:
                return
            ahead.append((first, first.took()))
            waiting[first.key] = 1
            last = first.at
        call, took = ahead.popleft()
        key = call.key
        others = waiting.pop(key) - 1
        if others:
            waiting[key] = others
        answered = call.at + took
        while last < answered and len(ahead) < _AHEAD:
            following = next(source, None)
            if following is None:
                last = float("inf")
                break
            ahead.append((following, following.took()))
            waiting[following.key] = waiting.get(following.key, 0) + 1
            last = following.at
        yield call, took, key in waiting or last < answered


@contextmanager
def _no_collections() -> Iterator[None]:
    """A million entries are no garbage, and looking through them again and again takes longer than the simulation."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
