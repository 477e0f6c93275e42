"""The simulation: a trace, call by call, through client caches, a prompt cache, and the one behind the other."""

import gc
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        with closing(self._flights), _no_collections():
            pairs = _with_overlaps(calls) if self._coalesce else ((call, False) for call in calls)
            for number, (call, overlaps) in enumerate(pairs):
                self._land(call.at)
                self.clock.now = call.at
                self.census.add(call)
                took = call.took()
                self.seconds += took
                request = Request(_KEY_PREFIX + call.key, call.model, None, {})
                went: list[bool] | None
                if overlaps or request.key in self._flights:
                    went = self._fly(number, request, call, took)
                else:
                    went = self._ask(number, request, call, took)
                if self._tree is not None:
                    self._bill(call, self._tree.send(call, went), went)
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
            for bill, read, owed in zip(self._common, reads[0], reuse.owed, strict=True):
                bill.add(read, writes - read if writes else 0, owed)
            return
        for bill, read, owed in zip(self.alone, reads[0], reuse.owed, strict=True):
            bill.add(read, writes - read if writes else 0, owed)
        for saved, goes, reading in zip(self.saved, went[1:] if went else self._everyone, reads[1:], strict=True):
            if goes is not False:
                for bill, read in zip(saved.behind, reading, strict=True):
                    bill.add(read, writes - read if writes else 0, 0)

    def _add_up(self) -> None:
        """What was the same behind every client belongs to each of them."""
        for bills in (self.alone, *(saved.behind for saved in self.saved)):
            for bill, common in zip(bills, self._common, strict=True):
                bill.merge(common)


def _with_overlaps(calls: Iterable[Call]) -> Iterator[tuple[Call, bool]]:
    """Each call, and whether another for its key may arrive before it is answered."""
    source, ahead, keys = iter(calls), deque[Call](), Counter[str]()
    last = float("-inf")
    while True:
        if not ahead:
            first = next(source, None)
            if first is None:
                return
            ahead.append(first)
            keys[first.key] += 1
            last = first.at
        call = ahead.popleft()
        if keys[call.key] == 1:
            del keys[call.key]
        else:
            keys[call.key] -= 1
        answered = call.at + call.took()
        while last < answered and len(ahead) < _AHEAD:
            following = next(source, None)
            if following is None:
                last = float("inf")
                break
            ahead.append(following)
            keys[following.key] += 1
            last = following.at
        yield call, call.key in keys or last < answered


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
