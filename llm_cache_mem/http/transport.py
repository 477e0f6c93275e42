"""Transports for httpx and httpx2 that answer from the cache, and pass everything that is no
generation request."""

from contextvars import copy_context
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.calls import Hit
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.engine.single_flight import Flight, is_nested
from llm_cache_mem.engine.streams import AsyncReplay, Replay
from llm_cache_mem.engine.waiters import running_loop
from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.http.answer import load
from llm_cache_mem.http.broadcast import AsyncRelay, Relay
from llm_cache_mem.http.core import Desk, head_of, hit_headers, live_headers, released
from llm_cache_mem.http.errors import refuse
from llm_cache_mem.http.library import HttpLibrary, library_of
from llm_cache_mem.keys.request import Request

if TYPE_CHECKING:
    import httpx
    import httpx2

    from llm_cache_mem.engine.leases import Lease

    class _Sync(httpx.BaseTransport, httpx2.BaseTransport):
        """For type checkers: a transport of either library."""

        def handle_request(self, request: Any) -> Any: ...

    class _Async(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        """The same for async."""

        async def handle_async_request(self, request: Any) -> Any: ...

else:
    _Sync = _Async = object

__all__ = ["AsyncCacheTransport", "CacheTransport"]

# how often a caller may find a call just ended that it wanted to join, before it makes its own
_ROUNDS = 8
_WRONG_CLIENT = "a Client takes a CacheTransport, an AsyncClient an AsyncCacheTransport"


class _Transport:
    """Either kind: a cache, and a transport under it."""

    _handles = ""

    def __init__(self, cache: LLMCache, transport: Any = None) -> None:
        if transport is not None and not hasattr(transport, self._handles):
            raise TypeError(
                f"{type(self).__name__} goes over a transport with {self._handles}(), which"
                f" {type(transport).__name__} has not"
            )
        self._desk = Desk(cache, transport)

    @property
    def cache(self) -> LLMCache:
        """The cache that answers."""
        return self._desk.cache

    @property
    def wrapped(self) -> Any:
        """The transport underneath; None as long as it was not needed."""
        return self._desk.transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._desk.cache!r})"


class CacheTransport(_Transport, _Sync):
    """Answers generation requests from *cache*, and sends the others, and those that it cannot
    answer, through *transport*.

    For httpx and for httpx2: *transport* is a transport of the library whose clients this one
    serves; by default that library's ``HTTPTransport()``, made at the first request. Thread-safe if
    *transport* is. Closing it closes *transport*.
    """

    _handles = "handle_request"

    def handle_request(self, request: Any) -> Any:
        """The response to *request*: stored, on its way to another caller, or fetched. Raises what
        the transport raises."""
        desk, library = self._desk, library_of(request)
        transport = desk.transport_of(library.module.HTTPTransport)
        try:
            asked = desk.read(request)
            if asked is None:
                return transport.handle_request(request)
            hit = desk.cache.engine.lookup(asked, load)
        except LLMCacheError as exc:
            return refuse(library, request, exc)
        return (
            _replay(library, hit, "hit")
            if hit is not None
            else self._fetch(library, request, asked)
        )

    def _fetch(self, library: HttpLibrary, request: Any, asked: Request) -> Any:
        cache, lane, began = self._desk.cache, ("threads", library.module.__name__), monotonic()
        circumstances = self._desk.circumstances(request)
        timeout = timeout_of({"timeout": (request.extensions.get("timeout") or {}).get("read")})
        lease = cache.engine.lease(asked, timeout)

        def count(relay: Relay) -> None:
            cache.engine.count_coalesced(asked, relay.entry, monotonic() - began)

        for _ in range(_ROUNDS):
            try:
                found, joined = cache.engine.share(
                    asked,
                    lambda flight: self._open(library, request, asked, flight, lease),
                    lane,
                    circumstances=circumstances,
                    timeout=timeout,
                )
            except TimeoutError as exc:
                raise library.module.ReadTimeout(str(exc), request=request) from None
            if isinstance(found, Hit):
                cache.engine.count_coalesced(asked, found.entry, monotonic() - began)
                return _replay(library, found, "joined")
            tap = found.attach(count if joined and found.head.status == 200 else None, joins=joined)
            if tap is not None:
                return library.response(
                    found.head.status, live_headers(found.head, joined), tap, found.head.extensions
                )
            found.retire()
        return self._desk.transport.handle_request(request)

    def _open(
        self,
        library: HttpLibrary,
        request: Any,
        asked: Request,
        flight: Flight,
        lease: "Lease | None",
    ) -> "Hit | Relay":
        """Send *request*; its answer from the first byte on, for all who join *flight*."""
        desk, began, context = self._desk, monotonic(), copy_context()
        with released(lease) as kept:
            alone = lease is None or is_nested(flight)
            late = (
                desk.cache.engine.recheck(asked, load)
                if alone or lease is None
                else lease.acquire(lambda: desk.cache.engine.recheck(asked, load))
            )
            if late is not None:
                return late
            response = desk.transport.handle_request(request)
            recording = desk.recording(library, response)

            def finish(relay: Relay, at_end: bool) -> None:
                try:
                    if desk.keep(relay, recording, at_end):
                        facts = {
                            "response": recording.response(),
                            "seconds": monotonic() - began,
                            "flight": flight,
                        }
                        relay.entry = context.copy().run(
                            lambda: desk.cache.engine.store(asked, recording.value(), **facts)
                        )
                finally:
                    flight.end()
                    kept.close()

            relay = Relay(
                head_of(response), response.stream, recording, finish, library.lost, flight.end
            )
            if response.status_code == 200:
                flight.outlast()
            else:
                flight.only_alike()
            kept.hold()
        return relay

    def close(self) -> None:
        """Close the transport underneath. The cache stays open: who opened it closes it."""
        if self._desk.transport is not None:
            self._desk.transport.close()

    def __enter__(self) -> Self:
        if self._desk.transport is not None:
            self._desk.transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        exc: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self._desk.transport is not None:
            self._desk.transport.__exit__(kind, exc, trace)

    async def handle_async_request(self, request: Any) -> Any:
        """TypeError: this one is for ``Client``."""
        raise TypeError(_WRONG_CLIENT)

    async def __aenter__(self) -> Self:
        raise TypeError(_WRONG_CLIENT)

    async def __aexit__(self, *exc: object) -> None: ...

    async def aclose(self) -> None:
        self.close()


class AsyncCacheTransport(_Transport, _Async):
    """``CacheTransport`` for async clients under asyncio; under another event loop requests pass
    uncached."""

    _handles = "handle_async_request"

    async def handle_async_request(self, request: Any) -> Any:
        """As ``CacheTransport.handle_request``."""
        desk, library = self._desk, library_of(request)
        transport = desk.transport_of(library.module.AsyncHTTPTransport)
        try:
            asked = desk.read(request)
            if asked is not None and running_loop() is None:
                if desk.cache.engine.is_replay:
                    raise RequestNotCacheable(
                        "event loop",
                        "in mode replay nothing is sent, and only under asyncio can it be answered",
                    )
                desk.cache.engine.skip(
                    "event loop", "a call goes uncached: its event loop is not asyncio's"
                )
                asked = None
            if asked is None:
                return await transport.handle_async_request(request)
            hit = await desk.cache.engine.alookup(asked, load)
        except LLMCacheError as exc:
            return refuse(library, request, exc)
        return (
            _areplay(library, hit, "hit")
            if hit is not None
            else await self._fetch(library, request, asked)
        )

    async def _fetch(self, library: HttpLibrary, request: Any, asked: Request) -> Any:
        cache, lane, began = (
            self._desk.cache,
            (running_loop(), library.module.__name__),
            monotonic(),
        )
        circumstances = self._desk.circumstances(request)
        timeout = timeout_of({"timeout": (request.extensions.get("timeout") or {}).get("read")})
        lease = cache.engine.lease(asked, timeout)

        def count(relay: AsyncRelay) -> None:
            cache.engine.count_coalesced(asked, relay.entry, monotonic() - began)

        for _ in range(_ROUNDS):
            try:
                found, joined = await cache.engine.ashare(
                    asked,
                    lambda flight: self._open(library, request, asked, flight, lease),
                    lane,
                    circumstances=circumstances,
                    timeout=timeout,
                )
            except TimeoutError as exc:
                raise library.module.ReadTimeout(str(exc), request=request) from None
            if isinstance(found, Hit):
                cache.engine.count_coalesced(asked, found.entry, monotonic() - began)
                return _areplay(library, found, "joined")
            tap = found.attach(count if joined and found.head.status == 200 else None, joins=joined)
            if tap is not None:
                return library.response(
                    found.head.status, live_headers(found.head, joined), tap, found.head.extensions
                )
            found.retire()
        return await self._desk.transport.handle_async_request(request)

    async def _open(
        self,
        library: HttpLibrary,
        request: Any,
        asked: Request,
        flight: Flight,
        lease: "Lease | None",
    ) -> "Hit | AsyncRelay":
        desk, began, context = self._desk, monotonic(), copy_context()
        with released(lease) as kept:
            alone = lease is None or is_nested(flight)
            late = await (
                desk.cache.engine.arecheck(asked, load)
                if alone or lease is None
                else lease.aacquire(lambda: desk.cache.engine.recheck(asked, load))
            )
            if late is not None:
                return late
            response = await desk.transport.handle_async_request(request)
            recording = desk.recording(library, response)

            async def finish(relay: AsyncRelay, at_end: bool) -> None:
                try:
                    if desk.keep(relay, recording, at_end):
                        facts = {
                            "response": recording.response(),
                            "seconds": monotonic() - began,
                            "flight": flight,
                        }
                        relay.entry = await desk.cache.engine.astore(
                            asked, recording.value(), **facts
                        )
                finally:
                    flight.end()
                    kept.close()

            relay = AsyncRelay(
                head_of(response),
                response.stream,
                recording,
                finish,
                library.lost,
                flight.end,
                context,
            )
            if response.status_code == 200:
                flight.outlast()
            else:
                flight.only_alike()
            kept.hold()
        return relay

    async def aclose(self) -> None:
        """As ``CacheTransport.close``."""
        if self._desk.transport is not None:
            await self._desk.transport.aclose()

    async def __aenter__(self) -> Self:
        if self._desk.transport is not None:
            await self._desk.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        exc: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self._desk.transport is not None:
            await self._desk.transport.__aexit__(kind, exc, trace)

    def handle_request(self, request: Any) -> Any:
        """TypeError: this one is for ``AsyncClient``."""
        raise TypeError(_WRONG_CLIENT)

    def __enter__(self) -> Self:
        raise TypeError(_WRONG_CLIENT)

    def __exit__(self, *exc: object) -> None: ...

    def close(self) -> None:
        """Nothing to do: an AsyncClient calls ``aclose``."""


def _replay(library: HttpLibrary, hit: Hit, mark: str) -> Any:
    return library.response(hit.value.status, hit_headers(hit, mark), Replay(hit.value.chunks))


def _areplay(library: HttpLibrary, hit: Hit, mark: str) -> Any:
    return library.response(hit.value.status, hit_headers(hit, mark), AsyncReplay(hit.value.chunks))
