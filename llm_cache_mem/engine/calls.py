"""The engine under LLMCache: from a key to a fresh answer, and from an answer to an entry.

LLMCache is this with the calls that users make; the layers for frameworks and SDKs stand on what is
here. What it reads by is in engine_reading.py, what it stores by in engine_storing.py; here are the
calls in between.
"""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.reader import Hit, Settings, same
from llm_cache_mem.engine.single_flight import Flight, SingleFlight, is_nested
from llm_cache_mem.engine.writer import Answered, Writer
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.keys.request import Keyer, Request
from llm_cache_mem.stores import MemoryStore, Store
from llm_cache_mem.stores.circuit_breaker import FailOpenStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:  # loaded by those who share calls
    from llm_cache_mem.engine.leases import Fleet, Turn
    from llm_cache_mem.engine.streams import Recording

__all__ = ["Answered", "Engine", "Hit", "Settings"]

T = TypeVar("T")


class _Answer(NamedTuple):
    """What a flight ends with: the leader's *response*, and what followers make their own copies
    from."""

    response: Any
    payload: Payload | None
    entry: Entry | None
    late: bool = False  # found by the second look: another leader had just stored it


class Engine(Writer):
    """Freshness, admission, single-flight and accounting around one store. Thread-safe.

    *beside*: an engine on the same store with other rules; what clears the one reaches the calls
      under way in the other.
    """

    def __init__(
        self,
        store: Store,
        keyer: Keyer,
        ledger: Ledger,
        settings: Settings,
        *,
        beside: "Engine | None" = None,
    ) -> None:
        flights = SingleFlight(settings.wait_seconds) if beside is None else beside._flights
        if beside is not None and beside._store.inner is store:
            fail_open = beside._store
        else:
            fail_open = FailOpenStore(store, strict=settings.strict, on_error=ledger.error)
        super().__init__(fail_open, flights, keyer, ledger, settings)
        self._fleet = (
            self._join_fleet(beside)
            if settings.coalesce == "fleet" and not isinstance(store, MemoryStore)
            else None
        )

    @property
    def patience(self) -> float:
        """How many seconds a call may wait for another to answer it; 0.0 where calls are not
        coalesced."""
        return (
            self._settings.wait_seconds if self._settings.coalesce and self._mode() == "on" else 0.0
        )

    # -- Calls

    def turn(self, request: Request) -> "Turn | None":
        """With ``coalesce="fleet"``, a turn to call for *request* that no other process has
        meanwhile; None: there is nobody to ask."""
        return (
            self._fleet.turn(request.key)
            if self._fleet is not None and self._mode() == "on"
            else None
        )

    def call(
        self,
        request: Request,
        fn: Callable[[], Any],
        *,
        dump: Callable[[Any], Any] = same,
        load: Callable[[Any], Any] = same,
    ) -> Any:
        """The stored answer to *request*, or that of ``fn()``, of which concurrent callers make
        one.

        *dump* makes the stored value from a response and *load* a response from a stored value.
          What *fn* raises is raised.
        """
        if self._mode() == "off":
            return fn()
        hit = self.lookup(request, load)
        if hit is not None:
            return hit.value
        if not self._settings.coalesce:
            return self._make(request, fn, dump, None).response
        turn, began = self.turn(request), self._clock()
        answer, joined = self._flights.run(
            request.key, lambda flight: self._lead(request, fn, dump, flight, turn)
        )
        if not joined and not answer.late:
            return answer.response
        try:
            return self._share(request, answer, load, began)
        except Exception:  # noqa: BLE001  # no copy can be made: this caller makes its own call
            return fn()

    async def acall(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        *,
        dump: Callable[[Any], Any] = same,
        load: Callable[[Any], Any] = same,
    ) -> Any:
        """``call`` for a coroutine function."""
        if self._mode() == "off":
            return await fn()
        hit = await self.alookup(request, load)
        if hit is not None:
            return hit.value
        if not self._settings.coalesce:
            return (await self._amake(request, fn, dump, None)).response
        turn, began = self.turn(request), self._clock()
        answer, joined = await self._flights.arun(
            request.key, lambda flight: self._alead(request, fn, dump, flight, turn)
        )
        if not joined and not answer.late:
            return answer.response
        try:
            return self._share(request, answer, load, began)
        except Exception:  # noqa: BLE001  # as in call
            return await fn()

    def stream(self, request: Request, fn: Callable[[], Iterable[T]]) -> Iterator[T]:
        """The stored stream, or that of ``fn()``, which is stored when it has passed through to its
        clean end.

        Each caller that misses makes a call of its own: no one waits for another's consumer.
        """
        from llm_cache_mem.engine.streams import Replay, Tee  # loaded by those who stream

        hit = self.lookup(request, list)
        if hit is not None:
            return Replay(hit.value)
        began, epoch, asked = self._clock(), self._epoch, copy_context()
        source = fn()
        if not _is_stream(source, "__iter__"):
            # whatever fn gave
            return self._no_stream(request, source)  # type: ignore[no-any-return]
        return Tee(
            source, lambda recording: asked.run(self._finish, request, recording, began, epoch)
        )

    async def astream(
        self,
        request: Request,
        fn: Callable[[], Awaitable[AsyncIterable[T]]],
        asked: Context | None = None,
    ) -> AsyncIterator[T]:
        """``stream`` for an async iterable; *asked* is the context whose options count, if it is
        not this one."""
        from llm_cache_mem.engine.streams import AsyncReplay, AsyncTee

        asked = asked or copy_context()
        hit = await self._off_loop(lambda: asked.run(self.lookup, request, list))
        if hit is not None:
            return AsyncReplay(hit.value)
        began, epoch = self._clock(), self._epoch
        source = await fn()
        if not _is_stream(source, "__aiter__"):
            # whatever fn gave
            return self._no_stream(request, source)  # type: ignore[no-any-return]

        async def finish(recording: "Recording") -> None:
            await self._prices_loaded()
            await self._off_loop(lambda: asked.run(self._finish, request, recording, began, epoch))

        return AsyncTee(source, finish)

    # -- Calls whose answer goes on after they have returned

    def share(self, request: Request, work: Callable[[Flight], T], lane: object) -> tuple[T, bool]:
        """What ``work(flight)`` returns, and whether it was another caller's of the same *lane*;
        see ``Flight.outlast``.

        For callers that missed. *work* takes a second look first (``late``), and what it returns
        sees to it that the answer is kept (``keep``), and that who joined it is counted
        (``count_joined``).
        """
        if not self._settings.coalesce:
            return work(self._flights.solo(request.key)), False
        return self._flights.run(request.key, work, lane)

    async def ashare(
        self, request: Request, work: Callable[[Flight], Awaitable[T]], lane: object
    ) -> tuple[T, bool]:
        """``share`` for a coroutine function."""
        if not self._settings.coalesce:
            return await work(self._flights.solo(request.key)), False
        return await self._flights.arun(request.key, work, lane)

    def late(self, request: Request, load: Callable[[Any], Any]) -> Hit | None:
        """The answer that another caller stored between this one's miss and its winning the lead;
        not counted."""
        answer = self._second_look(request)
        if answer is None or answer.entry is None:
            return None
        return self._read(request, answer.entry, load, replay=False)

    async def alate(self, request: Request, load: Callable[[Any], Any]) -> Hit | None:
        """As ``late``, in a thread where it would wait."""
        return await self._off_loop(lambda: self.late(request, load))

    def count_joined(self, request: Request, entry: Entry | None, seconds: float) -> None:
        """Count a caller that was answered by another's call after *seconds*; *entry* is what that
        call stored, if it did."""
        self._ledger.joined(request.key, entry, request.model, seconds)

    # -- Inside

    def _join_fleet(self, beside: "Engine | None") -> "Fleet":
        if beside is not None and beside._fleet is not None:
            return beside._fleet
        if self._store.leasing is None:
            name = type(self._store.inner).__name__
            raise ValueError(
                "coalesce='fleet' needs a store through which processes can agree (SQLite, Redis,"
                f" Memcached); {name} cannot"
            )
        from llm_cache_mem.engine.leases import Fleet  # loaded by those who share calls

        return Fleet(self._store, self._settings.wait_seconds)

    def _second_look(self, request: Request) -> _Answer | None:
        """Whether another leader stored the answer between this caller's miss and its winning the
        lead."""
        if self._mode() != "on":
            return None
        entry = self._fetch(request.key)
        if entry is None or not self._is_fresh(entry, self._clock()):
            return None
        return _Answer(None, entry.payload, entry, late=True)

    def _share(
        self, request: Request, answer: _Answer, load: Callable[[Any], Any], began: float
    ) -> Any:
        """A follower's own copy of the leader's answer. Raises if none can be made."""
        if (
            answer.payload is None
        ):  # nothing but the object that the leader's caller may be changing by now
            raise EntryUnreadable("the answer has no stored form")
        shared = load(answer.payload.thaw())
        self.count_joined(request, answer.entry, self._clock() - began)
        return shared

    def _lead(
        self,
        request: Request,
        fn: Callable[[], Any],
        dump: Callable[[Any], Any],
        flight: Flight,
        turn: "Turn | None",
    ) -> _Answer:
        if turn is None or is_nested(flight):
            return self._second_look(request) or self._make(request, fn, dump, flight)
        try:
            return turn.take(lambda: self._second_look(request)) or self._make(
                request, fn, dump, flight
            )
        finally:
            turn.release()

    async def _alead(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        dump: Callable[[Any], Any],
        flight: Flight,
        turn: "Turn | None",
    ) -> _Answer:
        if turn is None or is_nested(flight):
            found = await self._off_loop(lambda: self._second_look(request))
            return found or await self._amake(request, fn, dump, flight)
        try:
            return await turn.atake(lambda: self._second_look(request)) or await self._amake(
                request, fn, dump, flight
            )
        finally:
            turn.release()

    def _make(
        self,
        request: Request,
        fn: Callable[[], Any],
        dump: Callable[[Any], Any],
        flight: Flight | None,
    ) -> _Answer:
        """Call, and store the answer."""
        began = self._clock()
        response = fn()
        seconds = max(0.0, self._clock() - began)
        payload = self._pack(request, response, dump)
        return _Answer(
            response,
            payload,
            self._keep(request, payload, self._paid(request, response, seconds), flight),
        )

    async def _amake(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        dump: Callable[[Any], Any],
        flight: Flight | None,
    ) -> _Answer:
        began = self._clock()
        response = await fn()
        seconds = max(0.0, self._clock() - began)
        payload = self._pack(request, response, dump)
        await self._prices_loaded()
        entry = await self._off_loop(
            lambda: self._keep(request, payload, self._paid(request, response, seconds), flight)
        )
        return _Answer(response, payload, entry)

    def _no_stream(self, request: Request, answer: Any) -> Any:
        self._skip(
            request, "value", "an answer was not stored: a stream was asked for, and it is none"
        )
        return answer

    def _finish(self, request: Request, recording: "Recording", began: float, epoch: int) -> None:
        """Store a stream that has ended cleanly, unless something was deleted while it ran."""
        if recording.fault is not None:
            self._skip(request, "value", "a stream was not stored: %s", recording.fault)
            return
        chunks = recording.chunks()
        self.keep(
            request, chunks, response=chunks, seconds=max(0.0, self._clock() - began), epoch=epoch
        )


def _is_stream(source: Any, protocol: str) -> bool:
    return hasattr(source, protocol) and not isinstance(source, (str, bytes, Mapping))
