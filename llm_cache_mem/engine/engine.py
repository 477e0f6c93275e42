"""The engine of a cache, on which LLMCache and integrations stand: lookups, calls, accounting."""

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
from contextvars import Context
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from llm_cache_mem._util.fork import finished_before_fork
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.stats import CacheStats
from llm_cache_mem.diagnostics.misses import Misses
from llm_cache_mem.engine.calls import Calls, Codec
from llm_cache_mem.engine.circumstances import circumstances_of
from llm_cache_mem.engine.fail_open import FailOpen
from llm_cache_mem.engine.layers import Above, Layers
from llm_cache_mem.engine.reader import Hit, Other, Reader, same
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.engine.shared_parts import SharedParts
from llm_cache_mem.engine.sharing import Sharing
from llm_cache_mem.engine.writer import Writer
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.clients import is_of_sdk
from llm_cache_mem.keys.names import as_sent
from llm_cache_mem.keys.request import FUNCTION, Keyer, Request, View
from llm_cache_mem.keys.state import provider_state, refuse_stateful
from llm_cache_mem.stores import Store
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:  # loaded by caches that explain misses, share streams, keep totals or verify hits
    from llm_cache_mem.accounting.totals import StoreTotals
    from llm_cache_mem.engine.explainer import Explainer
    from llm_cache_mem.engine.streaming import Streaming
    from llm_cache_mem.engine.verification import Verifier

__all__ = ["Engine"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


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
        self.keyer = keyer
        self.ledger = ledger
        self.settings = settings
        self.layers = Layers()
        self.closed = False
        """Whether the cache has closed its store: calls go uncached."""
        self.verifier: Verifier | None = None
        """Asks a sample of the hits again, where the cache was told to."""
        self.fail_open = FailOpen(ledger, settings)
        self._misses = misses = Misses()
        if beside is not None and beside.backend.inner is store:
            self.backend: FailOpenStore = beside.backend
        else:
            self.backend = FailOpenStore(store, strict=settings.strict, on_error=ledger.error)
        self.shared: SharedParts = (
            SharedParts(self.backend, keyer, ledger, settings) if beside is None else beside.shared
        )
        self.flights = self.shared.flights
        self.claims = self.shared.claims
        self.totals = self.shared.totals
        self.generations = self.shared.generations
        self.reader = Reader(
            self.backend,
            ledger,
            settings,
            misses,
            lambda asked: self.explainer.explain(asked),
            self.generations,
        )
        self.writer = Writer(self.backend, self.flights, ledger, settings, misses, self.generations)
        self.sharing: Sharing = Sharing(
            self.backend,
            keyer,
            ledger,
            settings,
            self.flights,
            self.shared.leases,
            self.layers,
            self.reader,
            self.writer,
        )
        self.calls = Calls(self.sharing)

    @cached_property
    def explainer(self) -> "Explainer":
        """Explains misses; loaded at first use."""
        with finished_before_fork():
            from llm_cache_mem.engine.explainer import Explainer

        return Explainer(self.backend, self.keyer, self.settings, self._misses, self.generations)

    @cached_property
    def _streaming(self) -> "Streaming":
        """Replays and shares streams; loaded at first use."""
        with finished_before_fork():
            from llm_cache_mem.engine.streaming import Streaming

        return Streaming(self.sharing)

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
        if self.settings.current_mode() == "off":
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
        missed: list[Callable[[], None]] = []
        hit = self.reader.lookup(request, decode, other, defer=missed.append)
        self.layers.after_lookup(request, missed, zero_usage=zero_usage)
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
        missed: list[Callable[[], None]] = []
        hit = await self.reader.alookup(request, decode, other, defer=missed.append)
        self.layers.after_lookup(request, missed, zero_usage=zero_usage)
        return hit

    def answered_below(self, request: Request) -> Above | None:
        """How an installed HTTP layer answered *request*, which missed here: the answer is then
        stored and counted. None if it did not, and ``store`` is to be called.

        To be called once, when the answer is there; ``store`` and ``call`` do it themselves.
        """
        return self.sharing.answered_below(request)

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
        self.sharing.count_coalesced(request, entry, seconds)

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
        seen: Callable[[Payload], Any] = Payload.as_tree,
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
            seen: Makes of a stored value the JSON by which answers are compared then.
        """
        if self.settings.current_mode() == "off":
            return fn()
        hit = self.lookup(request, decode, other, zero_usage=zero_usage)
        if hit is not None:
            verifier = self.verifier
            if verifier is not None and verifier.due(request):
                if hit.other is None:
                    verifier.verify_call(request, hit.entry, again or fn, encode, report, seen)
                else:
                    hit.other.verify(hit.entry)
            return hit.value
        codec = Codec(encode, decode, report)
        made = circumstances_of(fn, {}) if circumstances is None else circumstances()
        return self.calls.make(request, fn, codec, circumstances=made, timeout=timeout).value

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
        seen: Callable[[Payload], Any] = Payload.as_tree,
    ) -> Any:
        """``call`` for a coroutine function. Tasks share calls under asyncio, by itself or through
        anyio; under trio each makes its own."""
        if self.is_off:
            return await fn()
        hit = await self.alookup(request, decode, other, zero_usage=zero_usage)
        if hit is not None:
            verifier = self.verifier
            if verifier is not None and verifier.due(request):
                if hit.other is None:
                    verifier.averify_call(request, hit.entry, again or fn, encode, report, seen)
                else:
                    hit.other.verify(hit.entry)
            return hit.value
        codec = Codec(encode, decode, report)
        made_in = circumstances_of(fn, {}) if circumstances is None else circumstances()
        made = await self.calls.amake(request, fn, codec, circumstances=made_in, timeout=timeout)
        return made.value

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
        if hit is None:
            return self.share_stream(  # type: ignore[no-any-return]  # a SharedStream, or what fn gave
                request, fn, circumstances=circumstances, timeout=timeout
            )
        verifier = self.verifier_for(request)
        if verifier is not None:
            verifier.verify_stream(request, hit.entry, fn)
        return self._streaming.replay(hit.value)

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
        if hit is None:
            return await self.ashare_stream(  # type: ignore[no-any-return]  # as above
                request, fn, circumstances=circumstances, timeout=timeout, context=context
            )
        verifier = self.verifier_for(request)
        if verifier is not None:
            verifier.averify_stream(request, hit.entry, fn)
        return self._streaming.areplay(hit.value)

    def share_stream(self, request: Request, fn: Callable[[], Iterable[Any]], **call: Any) -> Any:
        """The stream of ``fn()``, for callers that missed. See ``Streaming.share``."""
        return self._streaming.share(request, fn, **call)

    async def ashare_stream(
        self, request: Request, fn: Callable[[], Awaitable[AsyncIterable[Any]]], **call: Any
    ) -> Any:
        """``share_stream`` for tasks."""
        return await self._streaming.ashare(request, fn, **call)

    def verifier_for(self, request: Request) -> "Verifier | None":
        """The verifier, where a hit on *request* is one of those to verify."""
        verifier = self.verifier
        return verifier if verifier is not None and verifier.due(request) else None

    # -- Maintenance

    def stats(self) -> CacheStats:
        """The counters since the cache was made, and the number of entries in its namespace."""
        store = self.backend
        total = store.size() if store.counts_at_once else None
        stats = self.ledger.snapshot(store.size(self.keyer.prefix()), total)
        return stats if self.verifier is None else stats._replace(verified=self.verifier.stats())

    def store_totals(self) -> "StoreTotals":
        """What all processes have counted that share the store. ValueError if it keeps no
        totals."""
        if self.totals is None:
            raise ValueError(
                f"{self.backend.name} keeps no totals: stats() has the counters of this process"
            )
        return self.totals.read()

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
