"""Client caches under a simulated clock: real LLMCache objects, used as a program uses them, only
that no time passes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context, copy_context
from typing import Any, Final, Literal, NamedTuple, TypeVar, TypeVarTuple

from llm_cache_mem import LLMCache
from llm_cache_mem.accounting.stats import CacheStats
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.payload import Payload

__all__ = [
    "CacheConfig",
    "ClientCache",
    "OverlappingCall",
    "OverlappingCalls",
    "SimulatedClock",
    "TimelessLoop",
]

_ANSWER: Final = None  # stored for every call: the simulation never reads it
_PAYLOAD: Final = Payload.of(_ANSWER)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SimulatedClock:
    """Simulated Unix seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        """Return the simulated time."""
        return self.now


class CacheConfig(NamedTuple):
    """The settings of a client cache: entries and seconds, None for no limit; whether concurrent
    identical calls are coalesced; the eviction policy."""

    max_size: int | None = 256
    ttl_seconds: float | None = 3600.0
    coalesce: bool = True
    policy: Literal["lru", "sieve"] = "lru"


class ClientCache:
    """One LLMCache in memory with the settings of *config* and statistics of its own."""

    def __init__(self, config: CacheConfig, clock: SimulatedClock) -> None:
        self.config = config
        self.cache = LLMCache(
            config.max_size,
            config.ttl_seconds,
            coalesce=config.coalesce,
            admit="any",
            mode="on",
            prices={},
            clock=clock.read,
            policy=config.policy,
        )
        self.lookup = self.cache.engine.reader.lookup
        self._put = self.cache.engine.writer.put

    def store(self, request: Request, seconds: float) -> None:
        """Store the answer to *request*, which missed and took *seconds*."""
        self._put(request, _PAYLOAD, seconds=seconds)

    def stats(self) -> CacheStats:
        """Return the statistics of the LLMCache."""
        return self.cache.stats()


class OverlappingCalls:
    """Calls that overlap others for the same key. They go through ``acall`` in an event loop, so
    that the real single-flight decides."""

    def __init__(self, clients: Iterable[ClientCache]) -> None:
        self._clients = list(clients)
        self._loop = TimelessLoop()  # type: ignore[abstract]  # without the methods for I/O
        self.in_progress: dict[str, int] = {}
        """How many calls of the model are in progress here, by key."""
        self._followers: dict[tuple[str, int], list[asyncio.Task[Any]]] = {}
        """Tasks that wait for another call's answer, by key and client."""

    def start(self, request: Request) -> "OverlappingCall":
        """Make the call in every client. Where it calls the model, ``finish`` must follow when the
        model answers."""
        call = OverlappingCall(request, self._loop.create_future())
        tasks = [
            self._loop.create_task(client.cache.engine.acall(request, call.model(place)))
            for place, client in enumerate(self._clients)
        ]
        # After this, each task has its answer, calls the model, or waits for a call in progress.
        self._loop.run_ready()
        for place, task in enumerate(tasks):
            call.hits.append(task.done())
            if place in call.leads:
                call.tasks.append(task)
            elif not task.done():
                self._followers.setdefault((request.key, place), []).append(task)
        if call.leads:
            self.in_progress[request.key] = self.in_progress.get(request.key, 0) + 1
        return call

    def finish(self, call: "OverlappingCall") -> None:
        """Let the model answer *call*, which also answers its followers."""
        key = call.request.key
        tasks = [
            *call.tasks,
            *(task for place in call.leads for task in self._followers.pop((key, place), ())),
        ]
        call.answer.set_result(_ANSWER)
        self._loop.run_ready()
        if not all(task.done() for task in tasks):
            raise RuntimeError("a simulated call did not finish")
        self.in_progress[key] -= 1
        if not self.in_progress[key]:
            del self.in_progress[key]

    def close(self) -> None:
        """Cancel the calls still in progress, as when a program stops."""
        self._loop.close()


class OverlappingCall:
    """One call, made in every client. *hits* says for each client whether it had the answer;
    *leads* are the clients that call the model; in the others the call follows an earlier one."""

    def __init__(self, request: Request, answer: "asyncio.Future[None]") -> None:
        self.request, self.answer = request, answer
        self.leads: set[int] = set()
        self.hits: list[bool] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def model(self, place: int) -> Callable[[], Awaitable[None]]:
        """Return the model as the client at *place* calls it."""

        async def create() -> None:
            self.leads.add(place)
            await self.answer

        return create


class TimelessLoop(asyncio.AbstractEventLoop):
    """An event loop in which no time passes, for coroutines that wait only for each other.

    It has no I/O and no clock, which are most of the cost of a turn of another loop; timers never
    fire. ``run_ready`` returns when every task waits, and raises what a callback raises.
    """

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Context]] = deque()
        self._handle = asyncio.Handle(self.close, (), self)  # for every call_soon: never cancelled
        self._closed = False

    def run_ready(self) -> None:
        """Run ready callbacks, including those that they schedule, until none is left."""
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
        """Cancel the tasks that still wait, as when a program stops."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.run_ready()
        self._closed = True

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: no timer is kept."""
