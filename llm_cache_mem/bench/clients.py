"""Client caches under a simulated clock: real LLMCache objects, asked and told as a program would,
only that no time passes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal, NamedTuple

from llm_cache_mem import LLMCache
from llm_cache_mem.accounting.stats import CacheStats
from llm_cache_mem.bench.instant import InstantLoop
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.payload import Payload

__all__ = ["Client", "Clock", "Flights", "Flying", "Rule"]

_VALUE: Final = None  # what is stored for every answer: nobody looks at it
_AT_REST: Final = Payload.of(_VALUE)


class Clock:
    """Simulated Unix seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now


class Rule(NamedTuple):
    """How a client cache is set up: entries and seconds, None for no bound; whether calls in flight
    are joined; who leaves first."""

    max_size: int | None = 256
    ttl_seconds: float | None = 3600.0
    coalesce: bool = True
    policy: Literal["lru", "sieve"] = "lru"


class Client:
    """One LLMCache in memory by *rule*, with what it did counted by itself."""

    def __init__(self, rule: Rule, clock: Clock) -> None:
        self.rule = rule
        self.cache = LLMCache(
            rule.max_size,
            rule.ttl_seconds,
            coalesce=rule.coalesce,
            admit="any",
            mode="on",
            prices={},
            clock=clock.read,
            policy=rule.policy,
        )
        self.lookup = self.cache.lookup
        self._keep = self.cache.keep_at_rest

    def arrived(self, request: Request, seconds: float) -> None:
        """The answer to *request*, which missed, is complete after *seconds*."""
        self._keep(request, _AT_REST, seconds)

    def stats(self) -> CacheStats:
        return self.cache.stats()


class Flights:
    """Calls that overlap others for the same key: they go through ``acall`` in an event loop, so
    that the real flights decide."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = list(clients)
        self._loop = InstantLoop()  # type: ignore[abstract]  # what it lacks is for I/O
        self.under_way: dict[str, int] = {}
        """Keys that somebody calls the model for here, and how many calls do."""
        self._joined: dict[tuple[str, int], list[asyncio.Task[Any]]] = {}
        """Who waits for the answer of another, by key and client."""

    def take_off(self, request: Request) -> "Flying":
        """Ask every client for *request* now. Where it calls the model, ``land`` is to be called
        when the model answers."""
        flying = Flying(request, self._loop.create_future())
        tasks = [
            self._loop.create_task(client.cache.acall(request, flying.model(place)))
            for place, client in enumerate(self._clients)
        ]
        # now each has the answer, or calls the model, or has joined a call in flight
        self._loop.run_ready()
        for place, task in enumerate(tasks):
            flying.hits.append(task.done())
            if place in flying.leads:
                flying.tasks.append(task)
            elif not task.done():
                self._joined.setdefault((request.key, place), []).append(task)
        if flying.leads:
            self.under_way[request.key] = self.under_way.get(request.key, 0) + 1
        return flying

    def land(self, flying: "Flying") -> None:
        """The model has answered; who waited for that has the answer too."""
        key = flying.request.key
        tasks = [
            *flying.tasks,
            *(task for place in flying.leads for task in self._joined.pop((key, place), ())),
        ]
        flying.answer.set_result(_VALUE)
        self._loop.run_ready()
        if not all(task.done() for task in tasks):
            raise RuntimeError("a simulated call did not come to its end")
        self.under_way[key] -= 1
        if not self.under_way[key]:
            del self.under_way[key]

    def close(self) -> None:
        """End what is still in flight, as a program does that is stopped."""
        self._loop.close()


class Flying:
    """One call, put to every client. *hits*: who had the answer; *leads*: who calls the model; the
    others have joined an earlier call."""

    def __init__(self, request: Request, answer: "asyncio.Future[None]") -> None:
        self.request, self.answer = request, answer
        self.leads: set[int] = set()
        self.hits: list[bool] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def model(self, place: int) -> Callable[[], Awaitable[None]]:
        async def answer() -> None:
            self.leads.add(place)
            await self.answer

        return answer
