"""Single-flight: of the callers that miss the same key at once, one calls the model.

A caller that finds no flight for its key lists one and leads it; later callers take a waiter and
wait. What ends a flight decides what the waiters are told: an answer, the leader's exception, or,
when the leader was interrupted or cancelled, that one of them leads now.
"""

from collections.abc import Awaitable, Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from threading import TIMEOUT_MAX, RLock
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, TypeVar
from weakref import ref

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.engine.flight import Flight, leading, leads_here
from llm_cache_mem.engine.flight_table import FlightTable
from llm_cache_mem.engine.waiters import TaskWaiter, ThreadWaiter, Waiter, ended

if TYPE_CHECKING:
    import asyncio

__all__ = ["SingleFlight"]

_LOOK_SECONDS = 0.5
"""How often threads that wait look whether their leader is still there."""

T = TypeVar("T")


class _Here:
    """Lives in the frame of a call."""


class SingleFlight:
    """The calls of one cache, shared by its threads and by the tasks of any event loop.
    Thread-safe; a forked child starts anew.

    A caller waits for another's flight at most *wait_seconds*, then makes its own call.
    """

    def __init__(self, wait_seconds: float) -> None:
        if not wait_seconds >= 0:
            raise ValueError(f"wait_seconds must be 0 or more, not {wait_seconds!r}")
        self._wait_seconds = min(wait_seconds, TIMEOUT_MAX)
        self._table = FlightTable()
        self.forget = self._table.forget
        self._tasks: set[asyncio.Task[None]] = set()  # an event loop holds its tasks only weakly
        self.waiting = 0
        """How many callers wait for the calls of others."""
        self.watchers: tuple[Callable[[int], object], ...] = ()
        """Called with ``waiting`` whenever it changes; they must not raise, nor take long."""
        self._counting = RLock()
        reset_after_fork(self)

    def run(
        self,
        key: str,
        work: Callable[[Flight], T],
        lane: object = None,
        *,
        circumstances: Hashable = None,
        timeout: float | None = None,
    ) -> tuple[T, bool]:
        """The result of ``work(flight)``, and whether it was another caller's work.

        A caller that *work* itself makes for the same key does not wait.

        Args:
            key: What is asked for.
            work: Makes the call. What it raises is raised.
            lane: Only callers of the same lane share a flight: those who can use the same result.
            circumstances: Everything outside the key that can make the call fail, such as the
                credentials. Waiters in the same circumstances get a copy of what *work* raises;
                the others make their own calls, at most eight of them at once.
            timeout: For how many seconds this caller may wait for another's call; after that
                TimeoutError is raised. None: for *wait_seconds*, after which it calls itself.
        """
        flight, here = self._table.new(key, lane, circumstances), _Here()
        flight.led_by = ref(here)
        limit = self._own_limit(timeout)
        if leads_here(flight):
            return work(flight), False
        waiter = None
        try:
            waiter = self._table.join(flight, ThreadWaiter)
            if waiter is not None:
                with self._counted():
                    deserted = self._wait(waiter, self._wait_seconds if limit is None else limit)
                if not self._table.take_lead(waiter, flight, None if deserted else limit):
                    return waiter.answer(coalesced=True), True
                flight = waiter.flight
            return self._lead(flight, work), False
        except BaseException:
            self._table.promote(flight) if waiter is None else self._table.leave(waiter)
            raise

    async def arun(
        self,
        key: str,
        work: Callable[[Flight], Awaitable[T]],
        lane: object = None,
        *,
        circumstances: Hashable = None,
        timeout: float | None = None,
    ) -> tuple[T, bool]:
        """``run`` for tasks. *work* runs in a task of its own, which is cancelled with the last
        task that waits for it; that one goes on when the work has cleaned up."""
        flight, here = self._table.new(key, lane, circumstances), _Here()
        flight.led_by = ref(here)
        limit = self._own_limit(timeout)
        if leads_here(flight):
            return await work(flight), False
        waiter = None
        try:
            waiter = self._table.join(flight, TaskWaiter)
            if waiter is not None:
                with self._counted():
                    await waiter.wait(self._wait_seconds if limit is None else limit)
                deserted = waiter.flight.is_deserted
                if not self._table.take_lead(waiter, flight, None if deserted else limit):
                    return waiter.answer(coalesced=True), True
                flight = waiter.flight
            waiter = self._start_task(flight, work)
            await waiter.wait(None)
            return waiter.answer(coalesced=False), False
        except BaseException as exc:
            if waiter is None:
                self._table.promote(flight)
            elif (task := self._table.leave(waiter)) is not None and not isinstance(
                exc, GeneratorExit
            ):
                await ended(task)
            raise

    def solo(self, key: str) -> Flight:
        """A flight without followers."""
        return self._table.new(key)

    # -- Waiting

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count this caller among those who wait."""
        self._count_waiting(1)
        try:
            yield
        finally:
            self._count_waiting(-1)

    def _count_waiting(self, change: int) -> None:
        with self._counting:
            self.waiting += change
            for tell in self.watchers:
                tell(self.waiting)

    @staticmethod
    def _wait(waiter: ThreadWaiter, seconds: float) -> bool:
        """Wait until *waiter* is woken, or for so many seconds; whether it was given up, since the
        leader is gone: an interrupt can end a thread before it tells the others, or wakes them."""
        deadline = monotonic() + seconds
        while not waiter.wait(max(0.0, min(_LOOK_SECONDS, deadline - monotonic()))):
            if waiter.told or waiter.leads or monotonic() >= deadline:
                return False
            if waiter.flight.is_deserted:
                return True
        return False

    def _own_limit(self, timeout: float | None) -> float | None:
        """*timeout*, if that ends before this caller would make its own call."""
        return None if timeout is None or timeout >= self._wait_seconds else timeout

    # -- Leading

    def _lead(self, flight: Flight, work: Callable[[Flight], T]) -> T:
        token = leading.set((*leading.get(), flight))
        try:
            value = work(flight)
        except Exception as exc:
            self._table.finish(flight, error=exc)
            raise
        finally:
            leading.reset(token)
        self._table.finish(flight, value)
        return value

    def _start_task(self, flight: Flight, work: Callable[[Flight], Awaitable[T]]) -> TaskWaiter:
        """Hand the lead of *flight* to a task; the waiter of its leader, this caller, who waits for
        it like the rest."""
        import asyncio

        leader = self._table.add_waiter(flight, flight, TaskWaiter)
        running = self._run_task(flight, leader, work)
        # To its pause: a task cancelled before its first step, in a loop that may end there, must
        # not miss its except.
        running.send(None)
        task = asyncio.get_running_loop().create_task(running)
        if not task.done():  # an eager task factory may have run it to its end
            flight.task = task
            self._tasks.add(task)
            task.add_done_callback(_retrieved)
        return leader

    async def _run_task(
        self, flight: Flight, leader: Waiter, work: Callable[[Flight], Awaitable[T]]
    ) -> None:
        try:
            await _pause()
            leading.set((*leading.get(), flight))  # the context is this task's own
            value = await work(flight)
        except Exception as exc:  # noqa: BLE001  # raised where it is waited for
            self._let_go(flight.task)
            self._table.finish(flight, error=exc)
        except BaseException as exc:
            self._let_go(flight.task)
            if not self._table.interrupt(flight, leader, exc):
                raise
        else:
            self._let_go(flight.task)
            self._table.finish(flight, value)

    def _let_go(self, task: "asyncio.Task[None] | None") -> None:
        if task is not None:
            self._tasks.discard(task)

    def _after_fork(self) -> None:
        # The tasks of the parent stay referenced: to collect them would run their cleanup on
        # connections that the parent uses.
        self._counting = RLock()
        self.waiting = 0


@coroutine
def _pause() -> Generator[None, None, None]:
    yield


def _retrieved(task: "asyncio.Task[None]") -> None:
    """What a task ends with when its caller has gone too is a kill, which has stopped the loop:
    asyncio need not log it as lost."""
    if not task.cancelled():
        task.exception()
