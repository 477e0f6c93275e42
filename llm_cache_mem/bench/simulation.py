"""The simulation: each call of a trace goes through client caches, through a prompt cache, and
through each client cache with the prompt cache behind it."""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from heapq import heappop, heappush
from itertools import chain, count, islice
from typing import Any, Final, TypeAlias

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.accounting.sums import Sums
from llm_cache_mem.bench.bill import Charges, PromptCacheBill
from llm_cache_mem.bench.clients import (
    CacheConfig,
    ClientCache,
    OverlappingCall,
    OverlappingCalls,
    SimulatedClock,
)
from llm_cache_mem.bench.prefix_tree import MINIMUM_TOKENS, PrefixTree, Reuse
from llm_cache_mem.bench.trace import Call, TraceStatistics
from llm_cache_mem.keys.digest import prefix
from llm_cache_mem.keys.request import Request

__all__ = ["DEFAULT_PROMPT_TTLS", "Savings", "Simulation", "mark_overlaps"]

DEFAULT_PROMPT_TTLS: Final = (300.0, 3600.0)
_KEY_PREFIX: Final = prefix("", "value")
# Calls that take each step of the simulation together: a fifth faster than all steps for one call
# after the other, because of the processor's caches.
_BATCH: Final = 1000
_LOOKAHEAD: Final = 50_000  # calls read ahead to find overlaps
_END: Final = Call(float("inf"), "", 0, 0)
_NO_PARAMS: Final[Mapping[str, Any]] = {}

_TimedCall: TypeAlias = tuple[Call, float, bool]
"""A call, its duration in seconds, and whether it overlaps others for its key."""

_Missed: TypeAlias = list[bool] | None
"""For each client cache whether the call missed, and so reaches the provider; None: in all."""


class Savings(Sums):
    """What one client cache saved, and the charges of the prompt cache behind it."""

    def __init__(self, prompt_ttls: Sequence[float]) -> None:
        super().__init__()
        self.coalesced = 0
        self.charges = Charges(prompt_ttls)

    @property
    def hits(self) -> int:
        return self.calls - self.coalesced

    @property
    def prompt_cache_bills(self) -> list[PromptCacheBill]:
        """The bill of the prompt cache behind this client cache, one per TTL."""
        return self.charges.bills()


class Simulation:
    """Runs calls through a client cache for each of *configs* and a prompt cache for each of
    *prompt_ttls* (seconds). Read the results when ``run`` has returned."""

    def __init__(
        self,
        configs: Sequence[CacheConfig],
        prompt_ttls: Sequence[float] = DEFAULT_PROMPT_TTLS,
        *,
        keep_keys: bool = False,
    ) -> None:
        self.clock = SimulatedClock()
        self.clients = [ClientCache(config, self.clock) for config in configs]
        self.savings = [Savings(prompt_ttls) for _ in configs]
        self.prompt_ttls = tuple(prompt_ttls)
        self.trace = TraceStatistics(keep_keys=keep_keys)
        self.seconds = 0.0
        self._alone = Charges(prompt_ttls)
        self._common = Charges(prompt_ttls)  # of calls that cost the same behind every client
        self._tree = PrefixTree(prompt_ttls, len(self.clients)) if prompt_ttls else None
        self._lookups = [(place, client.lookup) for place, client in enumerate(self.clients)]
        self._stores = [client.store for client in self.clients]
        self._overlapping = OverlappingCalls(self.clients)
        self._answers: list[tuple[float, int, Request, float, Any]] = []
        """A heap of answers on their way: when they arrive, and for which clients."""
        self._order = count()
        self._answered_at: dict[tuple[str, int], float] = {}
        """When overlapping calls in progress will be answered, by key and client."""
        self._coalesce = any(config.coalesce for config in configs)

    @property
    def prompt_cache_bills(self) -> list[PromptCacheBill]:
        """The bill of the prompt cache without a client cache, one per TTL."""
        return self._alone.bills()

    def run(self, calls: Iterable[Call], step: Callable[[], object] | None = None) -> "Simulation":
        """Simulate *calls*, which come by arrival; call *step* after each."""
        if running_loop() is None:
            return self._run(calls, step)
        # In a thread of its own, because a notebook's thread already runs an event loop.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._run, calls, step).result()

    def _run(self, calls: Iterable[Call], step: Callable[[], object] | None) -> "Simulation":
        timed = (
            mark_overlaps(calls)
            if self._coalesce
            else ((call, call.duration(), False) for call in calls)
        )
        with closing(self._overlapping), _gc_disabled():
            while batch := list(islice(timed, _BATCH)):
                self.trace.add(call for call, _, _ in batch)
                missed = self._call_clients(batch)
                if self._tree is not None:
                    self._send_to_provider(self._tree, batch, missed)
                if step is not None:
                    for _ in batch:
                        step()
            self._deliver_answers(float("inf"))
        for charges in (self._alone, *(savings.charges for savings in self.savings)):
            charges.merge(self._common)
        return self

    def _call_clients(self, batch: Iterable[_TimedCall]) -> list[_Missed]:
        """Make calls in every client cache; return where each of them missed."""
        clock, answers, in_progress = self.clock, self._answers, self._overlapping.in_progress
        missed = []
        for call, seconds, overlaps in batch:
            now, key, _, _, _, _, model, _ = call
            if answers and answers[0][0] <= now:
                self._deliver_answers(now)
            clock.now = now
            self.seconds += seconds
            request = Request(_KEY_PREFIX + key, model, None, _NO_PARAMS)
            overlaps = overlaps or request.key in in_progress
            make = self._call_overlapping if overlaps else self._call_alone
            missed.append(make(request, call, seconds))
        return missed

    def _call_alone(self, request: Request, call: Call, seconds: float) -> _Missed:
        """Make a call that overlaps no other for its key: look it up now, and store the answer when
        it arrives."""
        places = []
        for place, lookup in self._lookups:
            if lookup(request) is None:
                places.append(place)
        if places:
            answer = (call.at + seconds, next(self._order), request, seconds, places)
            heappush(self._answers, answer)
        if len(places) == len(self._lookups):
            return None
        missed = [False] * len(self._lookups)
        for place in places:
            missed[place] = True
        for miss, savings in zip(missed, self.savings, strict=True):
            if not miss:
                savings.add((call.input_tokens, call.output_tokens), seconds, None)
        return missed

    def _call_overlapping(self, request: Request, call: Call, seconds: float) -> _Missed:
        started = self._overlapping.start(request)
        answered_at = call.at + seconds
        if started.leads:
            heappush(self._answers, (answered_at, next(self._order), request, seconds, started))
            self._answered_at.update({(request.key, place): answered_at for place in started.leads})
        for place, savings in enumerate(self.savings):
            if started.hits[place]:
                savings.add((call.input_tokens, call.output_tokens), seconds, None)
            elif place not in started.leads:
                savings.coalesced += 1
                waits = self._answered_at.get((request.key, place), answered_at) - call.at
                usage = (call.input_tokens, call.output_tokens)
                savings.add(usage, max(0.0, seconds - waits), None)
        return [place in started.leads for place in range(len(self.clients))]

    def _deliver_answers(self, now: float) -> None:
        """Store the answers that have arrived by *now*."""
        answers, stores, clock = self._answers, self._stores, self.clock
        while answers and answers[0][0] <= now:
            clock.now, _, request, seconds, target = heappop(answers)
            if isinstance(target, OverlappingCall):
                self._overlapping.finish(target)
                for place in target.leads:
                    self._answered_at.pop((request.key, place), None)
                continue
            for place in target:
                stores[place](request, seconds)

    def _send_to_provider(
        self, tree: PrefixTree, batch: Iterable[_TimedCall], missed: Iterable[_Missed]
    ) -> None:
        """Send calls to the prompt cache, both without a client cache and where they *missed*."""
        send, bill = tree.send, self._bill
        for (call, _, _), where in zip(batch, missed, strict=True):
            bill(call.input_tokens, send(call, where), where)

    def _bill(self, sent: int, reuse: Reuse, missed: _Missed) -> None:
        alone, behind, useful_writes = reuse
        tokens = sent if sent >= MINIMUM_TOKENS else 0
        if useful_writes is not None:
            self._alone.add_useful_writes(useful_writes)
        if missed is None and behind is None:
            self._common.add(tokens, alone)
            return
        self._alone.add(tokens, alone)
        for place, savings in enumerate(self.savings):
            if missed is None or missed[place]:
                savings.charges.add(tokens, alone if behind is None else behind[place])


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Run without garbage collection: a million entries are not garbage, and scanning them over and
    over takes longer than the simulation."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # makes the entries old, so that the next collection does not scan them all
            gc.enable()
            gc.unfreeze()


def mark_overlaps(calls: Iterable[Call]) -> Iterator[_TimedCall]:
    """Yield each of *calls*, which come by arrival, with its duration and whether another call for
    its key arrives before it is answered: only there single-flight has something to do.

    If more than some ten thousand calls arrive in between, True means "perhaps".
    """
    ahead = deque[list[Any]]()  # when answered, whether it overlaps, the call, its duration
    latest: dict[str, list[Any]] = {}  # the latest call ahead for each key
    for following in chain(calls, (_END,)):
        at, key, *_ = following
        while ahead and (ahead[0][0] <= at or len(ahead) >= _LOOKAHEAD):
            first = ahead.popleft()
            answered, overlaps, call, seconds = first
            if latest[call.key] is first:
                del latest[call.key]
            yield call, seconds, overlaps or answered > at
        seconds = following.duration()
        waiting = [at + seconds, False, following, seconds]
        ahead.append(waiting)
        before = latest.get(key)
        if before is not None and at < before[0]:
            before[1] = True
        latest[key] = waiting
