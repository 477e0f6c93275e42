"""Calls through a cache: answer from the store, or call once for all who ask at the same time.

``cache.engine`` is the seam on which integrations stand; LLMCache has the calls that users make.
"""

import logging
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from llm_cache_mem._util.fork import finished_before_fork
from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.pricing import Pricer
from llm_cache_mem.accounting.stats import CacheStats
from llm_cache_mem.diagnostics.misses import Misses
from llm_cache_mem.engine.circumstances import circumstances_of
from llm_cache_mem.engine.claims import Claims
from llm_cache_mem.engine.fail_open import FailOpen
from llm_cache_mem.engine.flight import Flight, is_nested
from llm_cache_mem.engine.generations import Generations
from llm_cache_mem.engine.layers import Above, Layers, in_hand
from llm_cache_mem.engine.reader import Hit, Other, Reader, decoded, same
from llm_cache_mem.engine.samples import SampleWarning
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.engine.shared_streams import open_stream
from llm_cache_mem.engine.single_flight import SingleFlight
from llm_cache_mem.engine.stream_calls import StreamCall
from llm_cache_mem.engine.streams import AsyncReplay, ChunkRecording, Replay
from llm_cache_mem.engine.writer import Answered, Listener, Writer
from llm_cache_mem.errors import EntryUnreadable, RequestNotCacheable
from llm_cache_mem.keys.identity import as_sent, is_of_sdk
from llm_cache_mem.keys.request import FUNCTION, Keyer, Request, View
from llm_cache_mem.keys.state import provider_state, refuse_stateful
from llm_cache_mem.stores import MemoryStore, Store
from llm_cache_mem.stores.circuit_breaker import FailOpenStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:  # loaded by caches that share calls across processes
    from llm_cache_mem.engine.explainer import Explainer
    from llm_cache_mem.engine.leases import Lease, Leases
    from llm_cache_mem.engine.verification import Verifier

__all__ = ["PLAIN", "Answer", "Answered", "Codec", "Engine", "Hit", "Made", "Other", "Settings"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


@without_content
class Answer(NamedTuple):
    """What a flight ends with: the leader's *response*, and what followers copy theirs from."""

    response: Any
    payload: Payload | None
    entry: Entry | None
    rechecked: bool = False  # another leader had just stored it
    below: Above | None = None  # how the HTTP layer answered it


@without_content
class Made(NamedTuple):
    """What ``call_missed`` gives: the *value* for this caller, the *answer* that it is of, and
    whether it was *free*, since another caller's call or the HTTP layer's store gave it. *answer*
    is None where no copy could be made and this caller made a call of its own."""

    value: Any
    answer: Answer | None
    free: bool = False


class Codec(NamedTuple):
    """How an integration's responses are stored, read back, and judged."""

    encode: Callable[[Any], Any] = same
    decode: Callable[[Any], Any] = same
    report: Callable[[Any], Any] = same


PLAIN: Final = Codec()


class Engine:
    """Lookups, calls and accounting of a cache in one store. Thread-safe.

    *beside*: an engine on the same store with other rules; calls under way are shared with it.
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
        self.backend: FailOpenStore = (
            beside.backend
            if beside is not None and beside.backend.inner is store
            else FailOpenStore(store, strict=settings.strict, on_error=ledger.error)
        )
        self.keyer = keyer
        self.ledger = ledger
        self.settings = settings
        self.flights: SingleFlight = (
            SingleFlight(settings.wait_seconds) if beside is None else beside.flights
        )
        self.claims: Claims = Claims() if beside is None else beside.claims
        self.layers = Layers()
        self._samples = SampleWarning()
        self.closed = False
        """Whether the cache has closed its store: calls go uncached."""
        misses = Misses()
        self._misses = misses
        self.leases = self._open_leases(beside)
        self.generations: Generations = (
            self._open_generations() if beside is None else beside.generations
        )
        self.reader = Reader(
            self.backend,
            ledger,
            settings,
            misses,
            lambda asked: self.explainer.explain(asked),
            self.generations,
        )
        self.writer = Writer(self.backend, self.flights, ledger, settings, misses, self.generations)
        self.fail_open = FailOpen(ledger, settings)
        self.verifier: Verifier | None = None
        """Asks a sample of the hits again, where the cache was told to."""

    @cached_property
    def explainer(self) -> "Explainer":
        """Explains misses; loaded at first use."""
        with finished_before_fork():
            from llm_cache_mem.engine.explainer import Explainer

        return Explainer(self.backend, self.keyer, self.settings, self._misses, self.generations)

    # -- The state of calls in this context

    @property
    def is_off(self) -> bool:
        """Whether calls in this context go past the cache."""
        return self.settings.current_mode() == "off"

    @property
    def is_replay(self) -> bool:
        """Whether calls in this context may only be answered from the cache, and else raise."""
        return self.settings.current_mode() == "replay"

    @property
    def wait_timeout(self) -> float:
        """For how many seconds a call may wait for another to answer it; 0.0 where calls are not
        coalesced."""
        coalesces = self.settings.coalesce and self.settings.current_mode() == "on"
        return self.settings.wait_seconds if coalesces else 0.0

    @property
    def price(self) -> Pricer:
        """What a call costs, by the prices that this cache was given."""
        return self.settings.price

    @property
    def epoch(self) -> int:
        """A number that moves on with every delete and clear: an answer whose call began in another
        epoch is not to be stored."""
        return self.writer.epoch

    # -- Requests and lookups

    def request(
        self,
        messages: Any,
        params: Mapping[str, Any],
        *,
        kind: str = "value",
        view: View | None = None,
        exact: bool = False,
        state: str | None = None,
    ) -> Request | None:
        """The request, with the key of its entry among those of *kind*; None to call uncached.

        None where the cache is off, and, counted as skipped, where the request has no single wire
        form. In mode ``replay``, where no model may be called, that raises RequestNotCacheable.

        Args:
            messages: The messages of the request.
            params: Its other parameters.
            kind: The form in which answers are stored: requests of two kinds share none.
            view: Where the messages and params are not those of the Chat Completions API.
            exact: Whether they are the arguments of a program's own function, which nothing sends.
            state: The path by which the request leans on state held by its provider.
        """
        if self.is_off:
            return None
        try:
            if state is not None:
                refuse_stateful(state)
            return self.keyer.request(messages, params, kind, view, exact=exact, draws=True)
        except RequestNotCacheable as exc:
            if self.is_replay:
                raise
            self.skip(exc.skipped_as, "a call goes uncached: %s", exc)
            return None

    def request_of(
        self, fn: Callable[..., Any], messages: Any, params: Mapping[str, Any], kind: str = "value"
    ) -> Request | None:
        """``request`` for the call ``fn(messages=messages, **params)``: what a provider is sent if
        *fn* is a method of an SDK, else the arguments of a function."""
        owner = getattr(fn, "__self__", None)
        if owner is None or not is_of_sdk(owner):
            return self.request(messages, params, kind=kind, exact=True)
        state = provider_state(params)
        return self.request(messages, as_sent(params), kind=kind, state=state)

    def circumstances(
        self, fn: Callable[..., Any], request: Request, params: Mapping[str, Any]
    ) -> Hashable:
        """Everything outside the key of *request*, what ``request_of`` gave for these arguments,
        that can make its call fail."""
        dropped = {name: value for name, value in params.items() if name not in request.params}
        return circumstances_of(fn, dropped | self.keyer.ignored(params))

    def lookup(
        self,
        request: Request,
        decode: Callable[[Any], Any] = same,
        other: Other | None = None,
        *,
        zero_usage: bool = False,
    ) -> Hit | None:
        """The fresh answer to *request*, or else to *other*, counted; None for a miss. See
        ``Reader.lookup``.

        While the cache is installed for the whole process, the HTTP layer may still answer the call
        that follows a miss: see ``answered_below``. *zero_usage*: whether a hit there is to report
        no tokens.
        """
        if not self.layers.active or FUNCTION in request.params:
            return self.reader.lookup(request, decode, other)
        if self.layers.above_answers:
            hit = self.reader.lookup(request, decode, other)
            if hit is None:
                self.layers.pass_next()
            return hit
        missed: list[Callable[[], None]] = []
        hit = self.reader.lookup(request, decode, other, defer=missed.append)
        if missed:
            needs = () if request.depends_on is None else request.depends_on.names
            self.layers.expect(request.key, missed[0], zero_usage=zero_usage, depends_on=needs)
        return hit

    async def alookup(
        self,
        request: Request,
        decode: Callable[[Any], Any] = same,
        other: Other | None = None,
        *,
        zero_usage: bool = False,
    ) -> Hit | None:
        """``lookup``, in a thread where the store would block the event loop."""
        if not self.layers.active or FUNCTION in request.params:
            return await self.reader.alookup(request, decode, other)
        if self.layers.above_answers:
            hit = await self.reader.alookup(request, decode, other)
            if hit is None:
                self.layers.pass_next()
            return hit
        missed: list[Callable[[], None]] = []
        hit = await self.reader.alookup(request, decode, other, defer=missed.append)
        if missed:
            needs = () if request.depends_on is None else request.depends_on.names
            self.layers.expect(request.key, missed[0], zero_usage=zero_usage, depends_on=needs)
        return hit

    def answered_below(self, request: Request) -> Above | None:
        """How an installed HTTP layer answered *request*, which missed here: the answer is then
        stored and counted. None if it did not, and ``store`` is to be called.

        To be called once, when the answer is there; ``store`` and ``call`` do it themselves.
        """
        return self.layers.settle(request.key)

    def recheck(self, request: Request, decode: Callable[[Any], Any] = same) -> Hit | None:
        """The answer that another caller stored since this one missed; not counted."""
        entry = self.reader.recheck(request)
        return None if entry is None else self.reader.read(request, entry, decode)

    async def arecheck(self, request: Request, decode: Callable[[Any], Any] = same) -> Hit | None:
        """``recheck``, in a thread where the store would block the event loop."""
        return await self.off_loop(lambda: self.recheck(request, decode))

    # -- Storing and counting, for layers that make their calls themselves

    def store(self, request: Request, value: Any, **call: Any) -> Entry | None:
        """Count a call, and store *value* if its *response* is worth it. See ``Writer.store``."""
        if self.answered_below(request) is not None:
            return None
        return self.writer.store(request, value, **call)

    async def astore(self, request: Request, value: Any, **call: Any) -> Entry | None:
        """``store``, in a thread where the store would block the event loop."""
        if self.answered_below(request) is not None:
            return None
        return await self.writer.astore(request, value, **call)

    def skip(self, reason: str, text: str = "a call goes uncached: %s", *args: object) -> None:
        """Count a call that goes uncached as skipped for *reason*, and log the first of each."""
        if self.ledger.skip(reason):
            _log.warning(text, *(args or (reason,)))

    def count_coalesced(self, request: Request, entry: Entry | None, seconds: float) -> None:
        """Count a caller that another's call answered after *seconds*; *entry* is what that call
        stored, if it did."""
        self.layers.settle(request.key)
        self._samples.coalesced(request)
        self.ledger.coalesced_with(request.key, entry, request.model, seconds, request.tags)

    def listen(self, listener: Listener) -> None:
        """Call *listener* for each call that is paid for from now on."""
        self.writer.listen(listener)

    # -- Calls

    def call(
        self,
        request: Request,
        fn: Callable[[], Any],
        *,
        encode: Callable[[Any], Any] = same,
        decode: Callable[[Any], Any] = same,
        report: Callable[[Any], Any] = same,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
        other: Other | None = None,
        zero_usage: bool = False,
        again: Callable[[], Any] | None = None,
    ) -> Any:
        """The stored answer to *request*, or that of ``fn()``, which concurrent callers share.

        Args:
            request: What ``request`` returned.
            fn: Calls the model. What it raises is raised.
            encode: Makes the stored value from a response.
            decode: Makes a response from a stored value.
            report: Makes of a response what admission, usage and prices are read from: a Report,
                or anything that they know, as a provider's JSON.
            circumstances: Returns, after a miss, everything outside the key that can make the call
                fail: the client, its credentials, timeouts and proxies. Callers in the same
                circumstances share an exception; the others make their own calls. By default,
                what *fn* calls, and the context variables.
            timeout: For how many seconds the caller may wait for another's call; TimeoutError after
                that. None: for as long as the cache says.
            other: Another request whose stored answer may do.
            zero_usage: As in ``lookup``.
            again: Makes the same call to verify a hit, where *fn* does more than that.
        """
        if self.is_off:
            return fn()
        hit = self.lookup(request, decode, other, zero_usage=zero_usage)
        if hit is not None:
            verifier = self.verifier
            if verifier is not None and verifier.due(request, hit):
                verifier.verify_call(request, hit.entry, again or fn, encode, report)
            return hit.value
        codec = Codec(encode, decode, report)
        made = circumstances_of(fn, {}) if circumstances is None else circumstances()
        return self.call_missed(request, fn, codec, circumstances=made, timeout=timeout).value

    def call_missed(
        self,
        request: Request,
        fn: Callable[[], Any],
        codec: Codec = PLAIN,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> Made:
        """The rest of ``call`` for a caller whose ``lookup`` has missed. *circumstances*, here a
        value, and *timeout* are as there."""
        if not self.settings.coalesce:
            return self._own(request, self._make(request, fn, codec, None), codec)
        lease, began = self.lease(request, timeout), self.settings.clock()
        answer, coalesced = self.flights.run(
            request.key,
            lambda flight: self._lead(request, fn, codec, flight, lease),
            _lane(request),
            circumstances=(circumstances, self.keyer.unkeyed(request)),
            timeout=timeout,
        )
        if not coalesced and not answer.rechecked:
            return self._own(request, answer, codec)
        try:
            return Made(self.copy(request, answer, codec, began=began), answer, free=True)
        except Exception:  # noqa: BLE001  # no copy can be made: this caller makes its own call
            return Made(fn(), None)

    async def acall(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        *,
        encode: Callable[[Any], Any] = same,
        decode: Callable[[Any], Any] = same,
        report: Callable[[Any], Any] = same,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
        other: Other | None = None,
        zero_usage: bool = False,
        again: Callable[[], Awaitable[Any]] | None = None,
    ) -> Any:
        """``call`` for a coroutine function. Tasks share calls under asyncio, by itself or through
        anyio; under trio each makes its own."""
        if self.is_off:
            return await fn()
        hit = await self.alookup(request, decode, other, zero_usage=zero_usage)
        if hit is not None:
            verifier = self.verifier
            if verifier is not None and verifier.due(request, hit):
                verifier.averify_call(request, hit.entry, again or fn, encode, report)
            return hit.value
        codec = Codec(encode, decode, report)
        made_in = circumstances_of(fn, {}) if circumstances is None else circumstances()
        made = await self.acall_missed(request, fn, codec, circumstances=made_in, timeout=timeout)
        return made.value

    async def acall_missed(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        codec: Codec = PLAIN,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> Made:
        """``call_missed`` for a coroutine function."""
        if not self._tasks_coalesce():
            return self._own(request, await self._amake(request, fn, codec, None), codec)
        lease, began = self.lease(request, timeout), self.settings.clock()
        answer, coalesced = await self.flights.arun(
            request.key,
            lambda flight: self._alead(request, fn, codec, flight, lease),
            _lane(request),
            circumstances=(circumstances, self.keyer.unkeyed(request)),
            timeout=timeout,
        )
        if not coalesced and not answer.rechecked:
            return self._own(request, answer, codec)
        try:
            return Made(self.copy(request, answer, codec, began=began), answer, free=True)
        except Exception:  # noqa: BLE001  # as in call_missed
            return Made(await fn(), None)

    def stream(
        self,
        request: Request,
        fn: Callable[[], Iterable[T]],
        *,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
    ) -> Iterator[T]:
        """The stored stream, or that of ``fn()``, which concurrent callers share and which is
        stored when it has ended cleanly. *circumstances* and *timeout* are as in ``call``."""
        hit = self.lookup(request, list)
        if hit is not None:
            verifier = self.verifier
            if verifier is not None and verifier.due(request, hit):
                verifier.verify_stream(request, hit.entry, fn)
            return Replay(hit.value)
        return self.share_stream(  # type: ignore[no-any-return]  # a SharedStream, or what fn gave
            request, fn, circumstances=circumstances, timeout=timeout
        )

    async def astream(
        self,
        request: Request,
        fn: Callable[[], Awaitable[AsyncIterable[T]]],
        context: Context | None = None,
        *,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[T]:
        """``stream`` for an async iterable; *context* is the one whose options count, if it is not
        this one."""
        if context is None:
            hit = await self.alookup(request, list)
        elif (entry := context.run(self.reader.glance, request)) is not None:
            hit = context.run(self.reader.lookup_in, entry, request, list)
        else:
            hit = await self.off_loop(lambda: context.run(self.reader.lookup, request, list))
        if hit is not None:
            verifier = self.verifier
            if verifier is not None and verifier.due(request, hit):
                verifier.averify_stream(request, hit.entry, fn)
            return AsyncReplay(hit.value)
        return await self.ashare_stream(  # type: ignore[no-any-return]  # as above
            request, fn, circumstances=circumstances, timeout=timeout, context=context
        )

    def share_stream(
        self,
        request: Request,
        fn: Callable[[], Iterable[Any]],
        *,
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        decode: Callable[[Any], Iterable[Any]] = list,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The stream of ``fn()``, a SharedStream, for callers that missed; or what *fn* returned,
        if that is none.

        Args:
            request: What ``request`` returned.
            fn: Makes the call. What it raises is raised.
            recording: Makes the recording of a stream: how its chunks are stored.
            decode: Makes the chunks of a stored stream.
            circumstances: As in ``call``.
            timeout: As in ``call``.
        """
        made = circumstances_of(fn, {}) if circumstances is None else circumstances()
        made = made, self.keyer.unkeyed(request)
        with self._passing():
            return open_stream(StreamCall(self, request, fn, recording, decode, made, timeout))

    async def ashare_stream(
        self,
        request: Request,
        fn: Callable[[], Awaitable[AsyncIterable[Any]]],
        *,
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        decode: Callable[[Any], Iterable[Any]] = list,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
        context: Context | None = None,
    ) -> Any:
        """``share_stream`` for tasks; *context* as in ``astream``."""
        from llm_cache_mem.engine.async_streams import aopen_stream  # imports asyncio

        made = circumstances_of(fn, {}) if circumstances is None else circumstances()
        made = made, self.keyer.unkeyed(request)
        call = StreamCall(self, request, fn, recording, decode, made, timeout, context)
        with self._passing():
            return await aopen_stream(call)

    # -- Calls whose answer goes on after they have returned

    def share(
        self,
        request: Request,
        work: Callable[[Flight], T],
        lane: object,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> tuple[T, bool]:
        """What ``work(flight)`` returns, and whether that was another caller's of the same *lane*.

        For callers that missed, and whose answer goes on after the call has returned: see
        ``Flight.outlast``. *work* rechecks first, stores the answer, and counts those who share it.
        *circumstances*, here a value, and *timeout* are as in ``call``.
        """
        if not self.settings.coalesce:
            return work(self.flights.solo(request.key)), False
        return self.flights.run(
            request.key, work, _lane(request, lane), circumstances=circumstances, timeout=timeout
        )

    async def ashare(
        self,
        request: Request,
        work: Callable[[Flight], Awaitable[T]],
        lane: object,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> tuple[T, bool]:
        """``share`` for a coroutine function."""
        if not self._tasks_coalesce():
            return await work(self.flights.solo(request.key)), False
        return await self.flights.arun(
            request.key, work, _lane(request, lane), circumstances=circumstances, timeout=timeout
        )

    def lease(self, request: Request, timeout: float | None = None) -> "Lease | None":
        """With ``coalesce="fleet"``, a lease to make the call for *request* that no other process
        has; None if there is no other process to ask. *timeout* is as in ``call``."""
        if self.leases is None or self.settings.current_mode() != "on":
            return None
        return self.leases.new(request.key, timeout)

    # -- Maintenance

    def stats(self) -> CacheStats:
        """The counters since the cache was made, and the number of entries in its namespace."""
        store = self.backend
        total = store.size() if store.counts_at_once else None
        stats = self.ledger.snapshot(store.size(self.keyer.prefix()), total)
        return stats if self.verifier is None else stats._replace(verified=self.verifier.stats())

    def delete(self, request: Request) -> bool:
        """Delete the answer to *request*, the HTTP layer's too; whether there was one. See
        ``Writer.delete``."""
        below = self.layers.key_below(request.key)
        found = below is not None and self.writer.delete(request._replace(key=below, older=()))
        return self.writer.delete(request) or found

    def reject(self, request: Request) -> None:
        """Discard the answer to *request*, which its caller's own validation rejected, so that the
        next call goes to the model."""
        with self.fail_open:
            if self.delete(request):
                self.skip("rejected", "an answer was discarded: its caller's validation %s it")

    async def areject(self, request: Request) -> None:
        """``reject``, in a thread where the store would block the event loop."""
        await self.off_loop(lambda: self.reject(request))

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """The keys and entries of this namespace, least recently used first. StoreError if they
        cannot be listed."""
        return self.backend.entries(self.keyer.prefix())

    async def off_loop(self, call: Callable[[], T]) -> T:
        """Run *call*, in a thread if the store would block the event loop. Where no thread can be
        had, *call* finds that the store fails."""
        return await self.backend.off_loop(call)

    # -- Inside

    def _passing(self) -> AbstractContextManager[None]:
        """A block in which an HTTP layer that leaves calls to the layers above lets them pass."""
        return in_hand(self) if self.layers.above_answers else nullcontext()

    def _tasks_coalesce(self) -> bool:
        return bool(self.settings.coalesce) and running_loop() is not None

    def _open_leases(self, beside: "Engine | None") -> "Leases | None":
        if self.settings.coalesce != "fleet" or isinstance(self.backend.inner, MemoryStore):
            return None
        if beside is not None and beside.leases is not None:
            return beside.leases
        if self.backend.leasing is None:
            name = type(self.backend.inner).__name__
            raise ValueError(
                "coalesce='fleet' needs a store through which processes can agree (SQLite, Redis,"
                f" Memcached); {name} cannot"
            )
        from llm_cache_mem.engine.leases import Leases

        return Leases(self.backend, self.settings.wait_seconds)

    def _open_generations(self) -> Generations:
        # a front in memory would show old generations for some seconds
        exact: Store = getattr(self.backend.inner, "exact", self.backend.inner)
        store = (
            self.backend
            if exact is self.backend.inner
            else FailOpenStore(exact, strict=self.settings.strict, on_error=self.ledger.error)
        )
        return Generations(store, self.keyer, self.settings.clock, self.leases)

    def _recheck(self, request: Request) -> Answer | None:
        entry = self.reader.recheck(request)
        return None if entry is None else Answer(None, entry.payload, entry, rechecked=True)

    def copy(self, request: Request, answer: Answer, codec: Codec = PLAIN, *, began: float) -> Any:
        """A copy of *answer* for a caller that has waited for it since *began*, counted as
        coalesced. Raises if none can be made."""
        if answer.payload is None:  # only the object that the leader's caller may be changing
            raise EntryUnreadable("the answer has no stored form")
        copy = codec.decode(decoded(answer.payload, request))
        if answer.below is not None and answer.below.outcome == "hit" and answer.entry is not None:
            self.layers.drop(request.key)
            key = answer.below.key or request.key
            self.ledger.hit(key, answer.entry, request.tags)
        else:
            self.count_coalesced(request, answer.entry, self.settings.clock() - began)
        return copy

    def _own(self, request: Request, answer: Answer, codec: Codec) -> Made:
        """What the caller gets that has made the call: the response, or as a hit reads in its layer
        if the HTTP layer has answered without a call."""
        free = answer.below is not None and answer.below.is_hit
        if not free or answer.payload is None:
            return Made(answer.response, answer, free)
        try:
            return Made(codec.decode(decoded(answer.payload, request)), answer, free)
        except Exception:  # noqa: BLE001  # the response is there
            return Made(answer.response, answer, free)

    def _lead(
        self,
        request: Request,
        fn: Callable[[], Any],
        codec: Codec,
        flight: Flight,
        lease: "Lease | None",
    ) -> Answer:
        if lease is None or is_nested(flight):
            return self._recheck(request) or self._make(request, fn, codec, flight)
        try:
            found = lease.acquire(lambda: self._recheck(request))
            return found or self._make(request, fn, codec, flight)
        finally:
            lease.release()

    async def _alead(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        codec: Codec,
        flight: Flight,
        lease: "Lease | None",
    ) -> Answer:
        if lease is None or is_nested(flight):
            found = await self.off_loop(lambda: self._recheck(request))
            return found or await self._amake(request, fn, codec, flight)
        try:
            found = await lease.aacquire(lambda: self._recheck(request))
            return found or await self._amake(request, fn, codec, flight)
        finally:
            lease.release()

    def _make(
        self, request: Request, fn: Callable[[], Any], codec: Codec, flight: Flight | None
    ) -> Answer:
        """Call the model, and store the answer."""
        began = self.settings.clock()
        with self._passing():
            response = fn()
        seconds = max(0.0, self.settings.clock() - began)
        payload = self.writer.encode(request, response, codec.encode)
        below = self.answered_below(request)
        if below is not None:
            return Answer(response, payload, below.entry, below=below)
        entry = self.writer.store_encoded(request, payload, response, codec.report, seconds, flight)
        return Answer(response, payload, entry)

    async def _amake(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        codec: Codec,
        flight: Flight | None,
    ) -> Answer:
        began = self.settings.clock()
        with self._passing():
            response = await fn()
        seconds = max(0.0, self.settings.clock() - began)
        payload = self.writer.encode(request, response, codec.encode)
        below = self.answered_below(request)
        if below is not None:
            return Answer(response, payload, below.entry, below=below)
        await self.writer.load_prices()
        entry = await self.off_loop(
            lambda: self.writer.store_encoded(
                request, payload, response, codec.report, seconds, flight
            )
        )
        return Answer(response, payload, entry)


def _lane(request: Request, lane: object = None) -> object:
    """*lane* for those whose answers depend on the same generations as that of *request*."""
    return lane if request.depends_on is None else (lane, request.depends_on.lane)
