"""Client caches under a simulated clock: real LLMCache objects, asked and told as a program would,
only that no time passes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context, copy_context
from typing import Any, Final, Literal, NamedTuple, TypeVar, TypeVarTuple

from llm_cache_mem import LLMCache
from llm_cache_mem.accounting.stats import CacheStats
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.payload import Payload

__all__ = ["Client", "Clock", "Flights", "Flying", "InstantLoop", "Rule"]

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
        self.lookup = self.cache.engine.lookup
        self._put = self.cache.engine.writer.put

    def arrived(self, request: Request, seconds: float) -> None:
        """The answer to *request*, which missed, is complete after *seconds*."""
        self._put(request, _AT_REST, seconds=seconds)

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
            self._loop.create_task(client.cache.engine.acall(request, flying.model(place)))
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


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InstantLoop(asyncio.AbstractEventLoop):
    """For coroutines that wait for one another and for nothing else. ``run_ready`` returns when all
    of them wait.

    It asks no operating system for events and keeps no clock, which is most of what a turn of
    another loop takes. What a callback raises is raised by ``run_ready``.
    """

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Context]] = deque()
        self._handle = asyncio.Handle(
            self.close, (), self
        )  # of whatever is ready: that is never cancelled
        self._closed = False

    def run_ready(self) -> None:
        """Run what is ready, and what becomes so by that, until nothing is."""
        ready = self._ready
        asyncio._set_running_loop(self)
        try:
            while ready:
                callback, args, context = ready.popleft()
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(None)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._ready.append((callback, args, copy_context() if context is None else context))
        return self._handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(delay, callback, args, self, context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or RuntimeError(context.get("message"))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the tasks that still wait, as a program does that is stopped."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.run_ready()
        self._closed = True

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """No timer is kept."""
