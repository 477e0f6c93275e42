"""The flights of a cache: which of them a caller joins, who leads, and who is told what."""

from collections.abc import Hashable, Iterable
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.engine.flight import Chains, Flight
from llm_cache_mem.engine.waiters import TaskWaiter, ThreadWaiter, Waiter, post

if TYPE_CHECKING:
    import asyncio

__all__ = ["FlightTable"]

_CHAINS = 8
"""How many calls in different circumstances may follow at once when a call has failed: enough that
tenants do not queue one after the other, few enough that an outage is no stampede."""

_W = TypeVar("_W", ThreadWaiter, TaskWaiter)


class _Known(ref[Flight]):
    """A flight in the index of its table."""

    __slots__ = ("key",)

    key: str


class FlightTable:
    """Lists flights, and hands them from a leader to a successor. It makes no call and waits for
    none. Thread-safe; a forked child starts anew."""

    def __init__(self) -> None:
        self._listed: dict[object, Flight] = {}  # those that can be joined, by key and lane
        self._known: dict[str, set[_Known]] = {}  # all that may yet store, by key
        self._lock = (
            RLock()
        )  # re-entrant: the garbage collector may close a coroutine of ours while it is held
        reset_after_fork(self)

    def new(self, key: str, lane: object = None, circumstances: Hashable = None) -> Flight:
        """A flight that is not listed yet."""
        slot: object = key if lane is None else (key, lane)
        return self._remember(Flight(self, key, slot, circumstances, Chains()))

    def join(self, own: Flight, kind: type[_W]) -> _W | None:
        """A waiter in the flight for the key of *own*, or None: this caller leads *own*."""
        with self._lock:
            flight = self._listed.setdefault(own.slot, own)
            if flight is own:
                return None
            if flight.result is not None:
                return self._join_finished(flight, own, kind)
            if flight.is_deserted:
                self._listed[own.slot] = own
                return None
            if (
                flight.task is not None
                and kind is ThreadWaiter
                and flight.task.get_loop() is running_loop()
            ):  # to wait here would stop the loop that is to wake us
                return None
            return self.add_waiter(flight, own, kind)

    def add_waiter(self, flight: Flight, own: Flight, kind: type[_W]) -> _W:
        """A waiter in *flight*, in the circumstances of *own*."""
        waiter = kind(flight, own.circumstances)
        with self._lock:
            flight.waiters[waiter] = None
        return waiter

    def take_lead(self, waiter: Waiter, own: Flight, timeout: float | None) -> bool:
        """After the wait, whether *waiter* leads its flight: it was promoted, or it has waited long
        enough and now leads *own*. TimeoutError if it was its own *timeout* that has passed."""
        with self._lock:
            if waiter.told or waiter.leads:
                return waiter.leads
            flight = waiter.flight
            self.leave(waiter)
            if timeout is not None:
                raise TimeoutError(f"an identical call in progress took longer than {timeout:g} s")
            if self._listed.get(own.slot) in (flight, None):
                self._listed[own.slot] = own  # a call that hangs keeps no other caller waiting
            waiter.flight, waiter.leads = own, True
            return True

    def leave(self, waiter: Waiter) -> "asyncio.Task[None] | None":
        """Give up *waiter*: hand its lead on, and cancel work without waiters, which
        is returned."""
        flight, task = waiter.flight, None
        with self._lock:
            leads, waiter.leads = waiter.leads, False
            if (
                flight.waiters.pop(waiter, waiter) is None
                and not flight.waiters
                and (task := flight.task)
            ):
                self._unlist(flight)
        if leads:
            self.promote(flight)
        if task is not None and not task.cancelling():
            post(task.get_loop(), task.cancel)
        return task

    def finish(self, flight: Flight, value: Any = None, error: Exception | None = None) -> None:
        """Tell those who wait for *flight* how its work has ended; a failure that does not concern
        them has successors."""
        with self._lock:
            if flight.outlasts and error is None:
                flight.result = ref(value, lambda _: flight.end())
            else:
                self._unlist(flight)
            flight.task = None
            flight.finish()
            waiters, flight.waiters = flight.waiters, {}
            told = [
                waiter
                for waiter in waiters
                if (error is None and not flight.only_followers_alike)
                or waiter.circumstances == flight.circumstances
            ]
            for waiter in told:
                waiter.tell(value, error)
                del waiters[waiter]
            successors = self._successors(flight, waiters)
        for waiter in told:
            waiter.wake()
        for successor in successors:
            self.promote(successor)

    def interrupt(self, flight: Flight, leader: Waiter, exc: BaseException) -> bool:
        """The task of *flight* was killed: its caller gets *exc*, the others a new leader. Whether
        the caller is still there."""
        with self._lock:
            present = flight.waiters.pop(leader, leader) is None
            if present:
                leader.tell(None, exc)
            flight.task = None
        self.promote(flight)
        return present and leader.wake()

    def promote(self, flight: Flight) -> None:
        """Let the first of those who wait lead *flight*; without any it is over."""
        successor = None
        while True:
            with self._lock:
                if successor is not None:
                    successor.leads = False
                successor = next(iter(flight.waiters), None)
                if successor is None:
                    flight.finish()
                    self._unlist(flight)
                    return
                del flight.waiters[successor]
                successor.leads = True
                flight.led_by = ref(successor)
                flight.circumstances = successor.circumstances
            if successor.wake():
                return

    def end(self, flight: Flight) -> None:
        with self._lock:
            flight.outlasts = False
            self._unlist(flight)

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
            flight.forget()

    def _join_finished(self, flight: Flight, own: Flight, kind: type[_W]) -> _W | None:
        """A waiter in a flight that has finished but can still be joined; None when its result is
        gone."""
        result = flight.result() if flight.result is not None else None
        if result is None:
            self._listed[own.slot] = own
            return None
        waiter = kind(flight, own.circumstances)
        waiter.tell(result, None)
        waiter.wake()
        return waiter

    def _successors(self, flight: Flight, waiters: Iterable[Waiter]) -> list[Flight]:
        """Flights for the *waiters* that the failure of *flight* does not concern.

        Those in the same circumstances wait for one another; different ones call side by side, in
        as many chains as there may be beside those that go on.
        """
        groups: dict[Hashable, list[Waiter]] = {}
        for waiter in waiters:
            groups.setdefault(waiter.circumstances, []).append(waiter)
        most = max(1, _CHAINS - flight.chains.live)
        chains: list[Flight] = []
        for number, group in enumerate(groups.values()):
            if number < most:
                chains.append(
                    self._remember(Flight(self, flight.key, flight.slot, None, flight.chains))
                )
            successor = chains[number % most]
            for waiter in group:
                waiter.flight = successor
                successor.waiters[waiter] = None
        flight.chains.live += len(chains)
        if chains:
            self._listed.setdefault(flight.slot, chains[0])
        return chains

    def _unlist(self, flight: Flight) -> None:
        if self._listed.get(flight.slot) is flight:
            del self._listed[flight.slot]

    # -- All that may yet store

    def _remember(self, flight: Flight) -> Flight:
        known = _Known(flight, self._drop)
        known.key = flight.key
        with self._lock:
            self._known.setdefault(known.key, set()).add(known)
        return flight

    def _drop(self, known: _Known) -> None:
        with self._lock:
            same = self._known.get(known.key, set())
            same.discard(known)
            if not same:
                self._known.pop(known.key, None)

    def _flights_of(self, key: str | None) -> list[Flight]:
        """All flights for *key*; None: for any."""
        found = [self._known.get(key, set())] if key is not None else list(self._known.values())
        return [flight for same in found for known in list(same) if (flight := known()) is not None]

    def _after_fork(self) -> None:  # the threads that lead and store are not in this process
        self._lock = RLock()
        self._listed = {}
        for flight in self._flights_of(None):
            flight.after_fork()
