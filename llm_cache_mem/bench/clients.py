"""Client caches under a simulated clock: real LLMCache objects, asked and told as a program would, only that no time passes."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from llm_cache_mem import LLMCache
from llm_cache_mem.request import Request
from llm_cache_mem.stats import CacheStats

__all__ = ["Client", "Clock", "Flights", "Flying", "Rule"]

_VALUE: Final[list[str]] = []  # what is stored for every answer: nobody looks at it
_MOST_TURNS_TO_ASK: Final = 10  # of the event loop; it takes three
_MOST_TURNS_TO_LAND: Final = 1000


class Clock:
    """Simulated Unix seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Rule(NamedTuple):
    """How a client cache is set up: entries and seconds, None for no bound; whether calls in flight are joined; who leaves first."""

    max_size: int | None = 256
    ttl_seconds: float | None = 3600.0
    coalesce: bool = True
    policy: Literal["lru", "sieve"] = "lru"


class Client:
    """One LLMCache in memory by *rule*, with what it did counted by itself."""

    def __init__(self, rule: Rule, clock: Clock) -> None:
        self.rule = rule
        self.cache = LLMCache(
            rule.max_size, rule.ttl_seconds, coalesce=rule.coalesce, admit="any", mode="on", prices={}, clock=clock, policy=rule.policy
        )
        self.lookup = self.cache.lookup

    def arrived(self, request: Request, seconds: float) -> None:
        """The answer to *request*, which missed, is complete after *seconds*."""
        self.cache.keep(request, _VALUE, response=_VALUE, seconds=seconds)

    def stats(self) -> CacheStats:
        return self.cache.stats()


class Flights:
    """Calls that overlap others for the same key: they go through ``acall`` in an event loop, so that the real flights decide."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = list(clients)
        self._in_flight: Counter[str] = Counter()
        self._unfinished: set[asyncio.Task[Any]] = set()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def __contains__(self, key: str) -> bool:
        """Whether a call for *key* is in flight here."""
        return key in self._in_flight

    def take_off(self, request: Request) -> "Flying":
        """Ask every client for *request* now. Where it calls the model, ``land`` is to be called when the model answers."""
        flying = Flying(request, self._loop.create_future())
        tasks = [self._loop.create_task(client.cache.acall(request, flying.model(place))) for place, client in enumerate(self._clients)]
        self._run(lambda: all(task.done() or place in flying.leads for place, task in enumerate(tasks)), turns=_MOST_TURNS_TO_ASK)
        flying.hits = [task.done() for task in tasks]
        flying.tasks = [tasks[place] for place in flying.leads]
        self._unfinished.update(task for task in tasks if not task.done())
        if flying.leads:
            self._in_flight[request.key] += 1
        return flying

    def land(self, flying: "Flying") -> None:
        """The model has answered; who waited for that has the answer too."""
        flying.answer.set_result(_VALUE)
        if not self._run(lambda: all(task.done() for task in flying.tasks), turns=_MOST_TURNS_TO_LAND):
            raise RuntimeError("a simulated call did not come to its end")
        self._run(lambda: False, turns=_MOST_TURNS_TO_ASK)  # those who joined
        self._unfinished = {task for task in self._unfinished if not task.done()}
        self._in_flight[flying.request.key] -= 1
        if not self._in_flight[flying.request.key]:
            del self._in_flight[flying.request.key]

    def close(self) -> None:
        """End what is still in flight, as a program does that is stopped."""
        if "_loop" not in vars(self):  # no two calls have met
            return
        for task in self._unfinished:
            task.cancel()
        self._run(lambda: all(task.done() for task in self._unfinished), turns=_MOST_TURNS_TO_LAND)
        self._loop.close()

    def _run(self, enough: Callable[[], bool], turns: int) -> bool:
        for _ in range(turns):
            if enough():
                return True
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()
        return enough()


class Flying:
    """One call, put to every client. *hits*: who had the answer; *leads*: who calls the model; the others have joined an earlier call."""

    def __init__(self, request: Request, answer: "asyncio.Future[list[str]]") -> None:
        self.request, self.answer = request, answer
        self.leads: set[int] = set()
        self.hits: list[bool] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def model(self, place: int) -> Callable[[], Awaitable[list[str]]]:
        async def answer() -> list[str]:
            self.leads.add(place)
            return await self.answer

        return answer
