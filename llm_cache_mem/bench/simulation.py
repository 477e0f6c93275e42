"""The simulation: a trace, call by call, through client caches, a prompt cache, and the one behind
the other."""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from heapq import heappop, heappush
from itertools import chain, count, islice
from typing import Any, Final, TypeAlias

from llm_cache_mem.bench.bill import Charges, PromptCacheBill
from llm_cache_mem.bench.clients import Client, Clock, Flights, Flying, Rule
from llm_cache_mem.bench.prefix_tree import MINIMUM_TOKENS, PrefixTree, Reuse
from llm_cache_mem.bench.trace import Call, Census
from llm_cache_mem.engine.waiters import running_loop
from llm_cache_mem.keys.digest import prefix
from llm_cache_mem.keys.request import Request

__all__ = ["DEFAULT_LIFETIMES", "Saved", "Simulation", "with_overlaps"]

DEFAULT_LIFETIMES: Final = (300.0, 3600.0)
_KEY_PREFIX: Final = prefix("", "value")
# calls. One thing for many calls, then the next, takes a fifth less than all for one: the
# processor's caches
_AT_ONCE: Final = 1000
_AHEAD: Final = 50_000  # calls that are looked at before their turn
_END: Final = Call(float("inf"), "", 0, 0)
_NO_PARAMS: Final[Mapping[str, Any]] = {}
_new = tuple.__new__  # in half the time of the class itself

_Timed: TypeAlias = tuple[Call, float, bool]
"""A call, the seconds it took, and whether it overlaps others for its key."""


class Saved:
    """What one client cache saved, and what the prompt cache behind it was asked for."""

    def __init__(self, lifetimes: Sequence[float]) -> None:
        self.hits = self.coalesced = self.input_tokens = self.output_tokens = 0
        self.seconds = 0.0
        self.charges = Charges(lifetimes)

    def add(self, call: Call, seconds: float) -> None:
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.seconds += seconds

    @property
    def behind(self) -> list[PromptCacheBill]:
        return self.charges.bills()


class Simulation:
    """Runs calls through a cache for each of *rules* and a prompt cache for each of *lifetimes*
    (seconds); read it when ``run`` is done."""

    def __init__(
        self,
        rules: Sequence[Rule],
        lifetimes: Sequence[float] = DEFAULT_LIFETIMES,
        *,
        keep_keys: bool = False,
    ) -> None:
        self.clock = Clock()
        self.clients = [Client(rule, self.clock) for rule in rules]
        self.saved = [Saved(lifetimes) for _ in rules]
        self.lifetimes = tuple(lifetimes)
        self._alone = Charges(lifetimes)
        self._common = Charges(lifetimes)  # of calls that cost the same behind every client
        self.census = Census(keep_keys=keep_keys)
        self.seconds = 0.0
        self._tree = PrefixTree(lifetimes, len(self.clients)) if lifetimes else None
        self._lookups = [(place, client.lookup) for place, client in enumerate(self.clients)]
        self._arrived = [client.arrived for client in self.clients]
        self._flights = Flights(self.clients)
        self._landings: list[tuple[float, int, Request, float, Any]] = []
        self._order = count()
        self._answered: dict[
            tuple[str, int], float
        ] = {}  # when calls in flight, which others may join, will be, by client
        self._coalesce = any(rule.coalesce for rule in rules)

    @property
    def alone(self) -> list[PromptCacheBill]:
        """The prompt cache without any client cache, by lifetime."""
        return self._alone.bills()

    def run(self, calls: Iterable[Call], step: Callable[[], object] | None = None) -> "Simulation":
        """Take in all of *calls*, which come by arrival; *step* is told of each."""
        if running_loop() is None:
            return self._run(calls, step)
        with ThreadPoolExecutor(
            1
        ) as aside:  # as in a notebook: where one event loop runs, ours cannot
            return aside.submit(self._run, calls, step).result()

    def _run(self, calls: Iterable[Call], step: Callable[[], object] | None) -> "Simulation":
        timed = (
            with_overlaps(calls)
            if self._coalesce
            else ((call, call.took(), False) for call in calls)
        )
        with closing(self._flights), _no_collections():
            while some := list(islice(timed, _AT_ONCE)):
                self.census.add(call for call, _, _ in some)
                went = self._arrive(some)
                if self._tree is not None:
                    self._send(self._tree, some, went)
                if step is not None:
                    for _ in some:
                        step()
            self._land(float("inf"))
        for charges in (self._alone, *(saved.charges for saved in self.saved)):
            charges.merge(self._common)
        return self

    def _arrive(self, some: Iterable[_Timed]) -> list[list[bool] | None]:
        """Let calls arrive at the clients. Which of them each call missed in; None: all."""
        clock, landings, under_way = self.clock, self._landings, self._flights.under_way
        went = []
        for call, took, overlaps in some:
            now, key, _, _, _, _, model, _ = call
            if landings and landings[0][0] <= now:
                self._land(now)
            clock.now = now
            self.seconds += took
            request = _new(Request, (_KEY_PREFIX + key, model, None, _NO_PARAMS, (), None))
            goes = self._fly if overlaps or request.key in under_way else self._ask
            went.append(goes(request, call, took))
        return went

    def _ask(self, request: Request, call: Call, took: float) -> list[bool] | None:
        """A call that overlaps no other for its key: looked up now, kept when it is answered. Which
        clients it missed in; None: all."""
        missed = []
        for place, lookup in self._lookups:
            if lookup(request) is None:
                missed.append(place)
        if missed:
            heappush(self._landings, (call.at + took, next(self._order), request, took, missed))
        if len(missed) == len(self._lookups):
            return None
        went = [False] * len(self._lookups)
        for place in missed:
            went[place] = True
        for goes, saved in zip(went, self.saved, strict=True):
            if not goes:
                saved.hits += 1
                saved.add(call, took)
        return went

    def _fly(self, request: Request, call: Call, took: float) -> list[bool]:
        flying = self._flights.take_off(request)
        lands = call.at + took
        if flying.leads:
            heappush(self._landings, (lands, next(self._order), request, took, flying))
            self._answered.update({(request.key, place): lands for place in flying.leads})
        for place, saved in enumerate(self.saved):
            if flying.hits[place]:
                saved.hits += 1
                saved.add(call, took)
            elif place not in flying.leads:
                saved.coalesced += 1
                waits = self._answered.get((request.key, place), lands) - call.at
                saved.add(call, max(0.0, took - waits))
        return [place in flying.leads for place in range(len(self.clients))]

    def _land(self, now: float) -> None:
        """Keep the answers that are complete by *now*."""
        landings, arrived, clock = self._landings, self._arrived, self.clock
        while landings and landings[0][0] <= now:
            clock.now, _, request, took, who = heappop(landings)
            if isinstance(who, Flying):
                self._flights.land(who)
                for place in who.leads:
                    self._answered.pop((request.key, place), None)
                continue
            for place in who:
                arrived[place](request, took)

    def _send(
        self, tree: PrefixTree, some: Iterable[_Timed], went: Iterable[list[bool] | None]
    ) -> None:
        """Let calls reach the provider, alone and behind the clients where they *went*."""
        send, bill = tree.send, self._bill
        for (call, _, _), where in zip(some, went, strict=True):
            bill(call.input_tokens, send(call, where), where)

    def _bill(self, sent: int, reuse: Reuse, went: list[bool] | None) -> None:
        alone, behind, owed = reuse
        tokens = sent if sent >= MINIMUM_TOKENS else 0
        if owed is not None:
            self._alone.owe(owed)
        if went is None and behind is None:
            self._common.add(tokens, alone)
            return
        self._alone.add(tokens, alone)
        for place, saved in enumerate(self.saved):
            if went is None or went[place]:
                saved.charges.add(tokens, alone if behind is None else behind[place])


@contextmanager
def _no_collections() -> Iterator[None]:
    """A million entries are no garbage, and looking through them again and again takes longer than
    the simulation."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # so that they count as old, and are not all looked through at once now
            gc.enable()
            gc.unfreeze()


def with_overlaps(calls: Iterable[Call]) -> Iterator[tuple[Call, float, bool]]:
    """Each of *calls*, which come by arrival, the seconds it took, and whether another for its key
    arrives before it is answered.

    Where more than some ten thousand calls arrive before that, True stands for "perhaps".
    """
    ahead = deque[
        list[Any]
    ]()  # when it is answered, whether another arrives before that, the call, its seconds
    latest: dict[str, list[Any]] = {}  # of the calls ahead, by key
    for following in chain(calls, (_END,)):
        at, key, *_ = following
        while ahead and (ahead[0][0] <= at or len(ahead) >= _AHEAD):
            first = ahead.popleft()
            answered, overlaps, call, took = first
            if latest[call.key] is first:
                del latest[call.key]
            yield call, took, overlaps or answered > at
        took = following.took()
        waiting = [at + took, False, following, took]
        ahead.append(waiting)
        before = latest.get(key)
        if before is not None and at < before[0]:
            before[1] = True
        latest[key] = waiting
