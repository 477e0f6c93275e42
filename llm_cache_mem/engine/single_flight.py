"""Single-flight: of the callers that miss the same key at once, one calls the model.

A caller that finds no flight for its key lists one and leads it; later callers take a waiter and
wait. What ends a flight decides what the waiters are told: an answer, the leader's exception, or,
when the leader was interrupted or cancelled, that one of them leads now.
"""

from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from threading import TIMEOUT_MAX, RLock
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.engine.waiters import TaskWaiter, ThreadWaiter, Waiter, ended, post

if TYPE_CHECKING:
    import asyncio

__all__ = ["Flight", "SingleFlight", "is_nested", "keep_lead"]

_CHAINS = 8
"""How many calls in different circumstances may follow at once when a call has failed: enough that
tenants do not queue one after the other, few enough that an outage is no stampede."""

_LOOK_SECONDS = 0.5
"""How often threads that wait look whether their leader is still there."""

T = TypeVar("T")
R = TypeVar("R")
_S = TypeVar("_S", ThreadWaiter, TaskWaiter)

# The flights that the code running here works for: to wait for one of them would be to wait for
# oneself.
_leading: "ContextVar[tuple[Flight, ...]]" = ContextVar("llm_cache_mem_leading", default=())


class Flight:
    """One run of the work for a key. It may store its answer as long as no caller has forgotten
    the key. Thread-safe."""

    __slots__ = (
        "__weakref__",
        "_chains",
        "_circumstances",
        "_finished",
        "_forgotten",
        "_key",
        "_led_by",
        "_only_alike",
        "_outlasts",
        "_result",
        "_slot",
        "_storing",
        "_table",
        "_task",
        "_waiters",
    )

    def __init__(
        self,
        table: "SingleFlight",
        key: str,
        lane: object = None,
        circumstances: Hashable = None,
        chains: "_Chains | None" = None,
    ) -> None:
        self._table = table
        self._key = key
        self._slot: object = key if lane is None else (key, lane)
        self._circumstances = circumstances  # of its leader
        self._chains = _Chains() if chains is None else chains
        self._outlasts = False
        self._only_alike = False
        self._result: ref[Any] | None = None
        self._storing = RLock()  # re-entrant: what stores may forget
        self._forgotten = False
        self._finished = False
        self._waiters: dict[Waiter, None] = {}  # in the order of arrival
        self._task: asyncio.Task[None] | None = None
        self._led_by: ref[Any] | None = None  # what lives as long as the call of its leader
        table._remember(self)

    def commit(self, store: Callable[[], R]) -> R | None:
        """Run *store* and return its result, or None without running it when the key was forgotten
        since the flight began.

        A ``forget`` that comes meanwhile waits until *store* is done.
        """
        with self._storing:
            return None if self._forgotten else store()

    def outlast(self) -> None:
        """Let later callers join what the work returns, though it has returned: until ``end``, or
        until no caller holds it.

        For work that returns something still going on, such as a stream; to be called by the work
        itself.
        """
        self._outlasts = True

    def only_alike(self) -> None:
        """Share what the work returns only with callers in the same circumstances, as an exception:
        for a response that reports an error. To be called by the work itself."""
        self._only_alike = True

    @property
    def circumstances(self) -> Hashable:
        """Those of its leader."""
        return self._circumstances

    @property
    def _goes_on(self) -> bool:
        return self._outlasts or not self._finished

    def end(self) -> None:
        """Accept no more followers."""
        with self._table._lock:
            self._outlasts = False
            self._table._unlist(self)

    @property
    def _is_deserted(self) -> bool:
        return self._task is None and self._led_by is not None and self._led_by() is None

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._chains.live -= 1

    def _forget(self) -> None:
        with self._storing:
            self._forgotten = True


class _Chains:
    """The flights that followed one another's failures: how many of them are *live*."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live = 1


class _Known(ref[Flight]):
    """A flight in the index of its table."""

    __slots__ = ("key",)

    key: str


class _Here:
    """Lives in the frame of a call."""


def is_nested(flight: Flight) -> bool:
    """Whether *flight* is led by the work of another for the same key, in whatever cache: it must
    not wait for that."""
    return any(
        other is not flight and other._key == flight._key and other._goes_on
        for other in _leading.get()
    )


def keep_lead(context: Context) -> None:
    """Let what runs in *context* be the work of the flights that the code running here works
    for."""
    context.run(_leading.set, _leading.get())


class SingleFlight:
    """The flights of one cache, shared by its threads and by the tasks of any event loop.
    Thread-safe; a forked child starts anew.

    A caller waits for another's flight at most *wait_seconds*, then makes its own call.
    """

    def __init__(self, wait_seconds: float) -> None:
        if not wait_seconds >= 0:
            raise ValueError(f"wait_seconds must be 0 or more, not {wait_seconds!r}")
        self._wait_seconds = min(wait_seconds, TIMEOUT_MAX)
        self._flights: dict[object, Flight] = {}  # those that can be joined, by key and lane
        self._known: dict[str, set[_Known]] = {}  # all that may yet store, by key
        self._tasks: set[asyncio.Task[None]] = set()  # an event loop holds its tasks only weakly
        self.waiting = 0
        """How many callers wait for the calls of others."""
        self.watchers: tuple[Callable[[int], object], ...] = ()
        """Called with ``waiting`` whenever it changes; they must not raise, nor take long."""
        self._lock = (
            RLock()
        )  # re-entrant: the garbage collector may close a coroutine of ours while it is held
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
        flight, here = Flight(self, key, lane, circumstances), _Here()
        flight._led_by = ref(here)
        if _leading.get() and self._leads_here(flight):
            return work(flight), False
        waiter = None
        try:
            waiter = self._join(flight, ThreadWaiter)
            if waiter is not None:
                with self._counted():
                    deserted = self._wait(waiter, self._longest_wait(timeout))
                if not self._take_lead(waiter, flight, None if deserted else timeout):
                    return waiter.answer(coalesced=True), True
                flight = waiter.flight
            return self._lead(flight, work), False
        except BaseException:
            self._promote(flight) if waiter is None else self._leave(waiter)
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
        flight, here = Flight(self, key, lane, circumstances), _Here()
        flight._led_by = ref(here)
        if _leading.get() and self._leads_here(flight):
            return await work(flight), False
        waiter = None
        try:
            waiter = self._join(flight, TaskWaiter)
            if waiter is not None:
                with self._counted():
                    await waiter.wait(self._longest_wait(timeout))
                if not self._take_lead(waiter, flight, timeout):
                    return waiter.answer(coalesced=True), True
                flight = waiter.flight
            waiter = self._start_task(flight, work)
            await waiter.wait(None)
            return waiter.answer(coalesced=False), False
        except BaseException as exc:
            if waiter is None:
                self._promote(flight)
            elif (task := self._leave(waiter)) is not None and not isinstance(exc, GeneratorExit):
                await ended(task)
            raise

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count this caller among those who wait."""
        self._count_waiting(1)
        try:
            yield
        finally:
            self._count_waiting(-1)

    def _count_waiting(self, change: int) -> None:
        with self._lock:
            self.waiting += change
            for tell in self.watchers:
                tell(self.waiting)

    def solo(self, key: str) -> Flight:
        """A flight without followers."""
        return Flight(self, key)

    def forget(self, key: str | None = None) -> None:
        """See to it that no flight for *key* (None: for any) that has begun will store, nor be
        joined by later callers.

        Waits for a store under way, so call it while holding no lock that storing takes.
        """
        if not self._known:  # nothing is under way
            return
        with self._lock:
            flights = self._flights_of(key)
            for flight in flights:
                self._unlist(flight)
        for flight in flights:
            flight._forget()

    def _remember(self, flight: Flight) -> None:
        known = _Known(flight, self._drop)
        known.key = flight._key
        with self._lock:
            self._known.setdefault(known.key, set()).add(known)

    def _drop(self, known: "_Known") -> None:
        with self._lock:
            same = self._known.get(known.key, set())
            same.discard(known)
            if not same:
                self._known.pop(known.key, None)

    def _flights_of(self, key: str | None) -> list[Flight]:
        """All flights for *key*; None: for any."""
        found = [self._known.get(key, set())] if key is not None else list(self._known.values())
        return [flight for same in found for known in list(same) if (flight := known()) is not None]

    # -- Seats

    def _longest_wait(self, timeout: float | None) -> float:
        return self._wait_seconds if timeout is None else min(timeout, self._wait_seconds)

    @staticmethod
    def _wait(waiter: ThreadWaiter, seconds: float) -> bool:
        """Wait until *waiter* is woken, or for so many seconds; whether it was given up, since the
        leader is gone: an interrupt can end a thread in the middle of telling the others."""
        deadline = monotonic() + seconds
        while not waiter.wait(max(0.0, min(_LOOK_SECONDS, deadline - monotonic()))):
            if monotonic() >= deadline:
                return False
            if waiter.flight._is_deserted and not waiter.told and not waiter.leads:
                return True
        return False

    def _leads_here(self, own: Flight) -> bool:
        return any(
            flight._slot == own._slot and flight._table is self and flight._goes_on
            for flight in _leading.get()
        )

    def _join(self, own: Flight, kind: type[_S]) -> _S | None:
        """A waiter in the flight for the key of *own*, or None: this caller leads *own*."""
        with self._lock:
            flight = self._flights.setdefault(own._slot, own)
            if flight is own:
                return None
            if flight._result is not None:
                return self._join_finished(flight, own, kind)
            if flight._is_deserted:
                self._flights[own._slot] = own
                return None
            if flight._task is not None:
                loop = flight._task.get_loop()
                if loop.is_closed():  # it will not land
                    self._flights[own._slot] = own
                    return None
                if (
                    kind is ThreadWaiter and loop is running_loop()
                ):  # to wait here would stop the loop that is to wake us
                    return None
            waiter = kind(flight, own._circumstances)
            flight._waiters[waiter] = None
            return waiter

    def _join_finished(self, flight: Flight, own: Flight, kind: type[_S]) -> _S | None:
        """A waiter in a flight that has finished but can still be joined; None when its result is
        gone."""
        result = flight._result() if flight._result is not None else None
        if result is None:
            self._flights[own._slot] = own
            return None
        waiter = kind(flight, own._circumstances)
        waiter.tell(result, None)
        waiter.wake()
        return waiter

    def _take_lead(self, waiter: Waiter, own: Flight, timeout: float | None) -> bool:
        """After the wait, whether *waiter* leads its flight: it was promoted, or has waited for
        *wait_seconds* and now leads *own*. TimeoutError if its own timeout has passed."""
        with self._lock:
            if waiter.told or waiter.leads:
                return waiter.leads
            flight = waiter.flight
            self._leave(waiter)
            if timeout is not None and timeout < self._wait_seconds:
                raise TimeoutError(f"an identical call in progress took longer than {timeout:g} s")
            if self._flights.get(own._slot) in (flight, None):
                self._flights[own._slot] = own  # a call that hangs keeps no other caller waiting
            waiter.flight, waiter.leads = own, True
            return True

    def _leave(self, waiter: Waiter) -> "asyncio.Task[None] | None":
        """Give up *waiter*: hand its lead on, and cancel work without waiters, which
        is returned."""
        flight, task = waiter.flight, None
        with self._lock:
            leads, waiter.leads = waiter.leads, False
            if (
                flight._waiters.pop(waiter, waiter) is None
                and not flight._waiters
                and (task := flight._task)
            ):
                self._unlist(flight)
        if leads:
            self._promote(flight)
        if task is not None and not task.cancelling():
            post(task.get_loop(), task.cancel)
        return task

    # -- Leading

    def _lead(self, flight: Flight, work: Callable[[Flight], T]) -> T:
        token = _leading.set((*_leading.get(), flight))
        try:
            value = work(flight)
        except Exception as exc:
            self._finish(flight, error=exc)
            raise
        finally:
            _leading.reset(token)
        self._finish(flight, value)
        return value

    def _start_task(self, flight: Flight, work: Callable[[Flight], Awaitable[T]]) -> TaskWaiter:
        """Hand the lead of *flight* to a task; the waiter of its leader, this caller, who waits for
        it like the rest."""
        import asyncio

        leader = TaskWaiter(flight, flight._circumstances)
        with self._lock:
            flight._waiters[leader] = None
        running = self._run_task(flight, leader, work)
        # To its pause: a task cancelled before its first step, in a loop that may end there, must
        # not miss its except.
        running.send(None)
        task = asyncio.get_running_loop().create_task(running)
        if not task.done():  # an eager task factory may have run it to its end
            flight._task = task
            self._tasks.add(task)
            task.add_done_callback(_retrieved)
        return leader

    async def _run_task(
        self, flight: Flight, leader: Waiter, work: Callable[[Flight], Awaitable[T]]
    ) -> None:
        try:
            await _pause()
            _leading.set((*_leading.get(), flight))  # the context is this task's own
            value = await work(flight)
        except Exception as exc:  # noqa: BLE001  # raised where it is waited for
            self._finish(flight, error=exc)
        except BaseException as exc:
            if not self._interrupt(flight, leader, exc):
                raise
        else:
            self._finish(flight, value)

    def _finish(self, flight: Flight, value: Any = None, error: Exception | None = None) -> None:
        with self._lock:
            if flight._outlasts and error is None:
                flight._result = ref(value, lambda _: flight.end())
            else:
                self._unlist(flight)
            if flight._task is not None:
                self._drop_task(flight)
            flight._finish()
            waiters, flight._waiters = flight._waiters, {}
            told = [
                waiter
                for waiter in waiters
                if (error is None and not flight._only_alike)
                or waiter.circumstances == flight._circumstances
            ]
            for waiter in told:
                waiter.tell(value, error)
                del waiters[waiter]
            successors = self._successors(flight, waiters)
        for waiter in told:
            waiter.wake()
        for successor in successors:
            self._promote(successor)

    def _successors(self, flight: Flight, waiters: Iterable[Waiter]) -> list[Flight]:
        """Flights for the *waiters* that the failure of *flight* does not concern.

        Those in the same circumstances wait for one another; different ones call side by side, in
        as many chains as there may be beside those that go on.
        """
        groups: dict[Hashable, list[Waiter]] = {}
        for waiter in waiters:
            groups.setdefault(waiter.circumstances, []).append(waiter)
        most = max(1, _CHAINS - flight._chains.live)
        chains: list[Flight] = []
        for number, group in enumerate(groups.values()):
            if number < most:
                successor = Flight(self, flight._key, chains=flight._chains)
                successor._slot = flight._slot
                chains.append(successor)
            successor = chains[number % most]
            for waiter in group:
                waiter.flight = successor
                successor._waiters[waiter] = None
        flight._chains.live += len(chains)
        if chains:
            self._flights.setdefault(flight._slot, chains[0])
        return chains

    def _interrupt(self, flight: Flight, leader: Waiter, exc: BaseException) -> bool:
        """The task was killed: its caller gets *exc*, the others a new leader. Whether the caller
        is still there."""
        with self._lock:
            present = flight._waiters.pop(leader, leader) is None
            if present:
                leader.tell(None, exc)
            self._drop_task(flight)
        self._promote(flight)
        return present and leader.wake()

    def _promote(self, flight: Flight) -> None:
        """Let the first of those who wait lead *flight*; without any it is over."""
        successor = None
        while True:
            with self._lock:
                if successor is not None:
                    successor.leads = False
                successor = next(iter(flight._waiters), None)
                if successor is None:
                    flight._finish()
                    self._unlist(flight)
                    return
                del flight._waiters[successor]
                successor.leads = True
                flight._led_by = ref(successor)
                flight._circumstances = successor.circumstances
            if successor.wake():
                return

    def _unlist(self, flight: Flight) -> None:
        if self._flights.get(flight._slot) is flight:
            del self._flights[flight._slot]

    def _drop_task(self, flight: Flight) -> None:
        if flight._task is not None:
            self._tasks.discard(flight._task)
            flight._task = None

    def _after_fork(self) -> None:
        # The threads that lead and store are not in this process. Their tasks stay referenced: to
        # collect them would run their cleanup on connections that the parent uses.
        self._lock = RLock()
        self._flights = {}
        self.waiting = 0
        for flight in self._flights_of(None):
            flight._storing = RLock()


@coroutine
def _pause() -> Generator[None, None, None]:
    yield


def _retrieved(task: "asyncio.Task[None]") -> None:
    """What a task ends with when its caller has gone too is a kill, which has stopped the loop:
    asyncio need not log it as lost."""
    if not task.cancelled():
        task.exception()
