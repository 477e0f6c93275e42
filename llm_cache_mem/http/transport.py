"""Transports for httpx and httpx2 that answer generation requests from the cache."""

from contextlib import ExitStack
from contextvars import copy_context
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.async_broadcast import AsyncBroadcast
from llm_cache_mem.engine.broadcast import Broadcast
from llm_cache_mem.engine.calls import Hit
from llm_cache_mem.engine.single_flight import Flight, is_nested
from llm_cache_mem.engine.streams import AsyncReplay, Replay
from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.http.answer import decode
from llm_cache_mem.http.core import TransportCore, head_of, hit_headers, live_headers
from llm_cache_mem.http.errors import raise_through
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

# How often a caller may find the call it wanted to join just ended, before it makes its own.
_ROUNDS = 8
_WRONG_CLIENT = "a Client takes a CacheTransport, an AsyncClient an AsyncCacheTransport"


class _Transport:
    """A cache, and a transport under it."""

    _handles = ""

    def __init__(self, cache: LLMCache, transport: Any = None) -> None:
        if transport is not None and not hasattr(transport, self._handles):
            raise TypeError(
                f"{type(self).__name__} goes over a transport with {self._handles}(), which"
                f" {type(transport).__name__} has not"
            )
        self._core = TransportCore(cache, transport)

    @property
    def cache(self) -> LLMCache:
        """The cache that answers."""
        return self._core.cache

    @property
    def wrapped(self) -> Any:
        """The transport underneath; None as long as it was not needed."""
        return self._core.transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core.cache!r})"


class CacheTransport(_Transport, _Sync):
    """Answer generation requests from *cache*, and send the others through *transport*.

    For httpx and for httpx2: *transport* is a transport of the library whose clients this one
    serves; by default that library's ``HTTPTransport()``, made at the first request. Thread-safe if
    *transport* is. Closing it closes *transport*.
    """

    _handles = "handle_request"

    def handle_request(self, request: Any) -> Any:
        """The response to *request*: stored, shared with another caller, or from the provider.

        Raises what the transport raises.
        """
        core, library = self._core, library_of(request)
        transport = core.transport_of(library.module.HTTPTransport)
        try:
            cacheable = core.cacheable(request)
            if cacheable is None:
                return transport.handle_request(request)
            hit = core.engine.lookup(cacheable, decode)
        except LLMCacheError as exc:
            return raise_through(library, request, exc)
        if hit is not None:
            return _replay(library, hit, "hit")
        return self._share(library, request, cacheable)

    def _share(self, library: HttpLibrary, http_request: Any, request: Request) -> Any:
        """Send *http_request*, or join the call of another that has."""
        engine, lane, began = self._core.engine, ("threads", library.module.__name__), monotonic()
        timeout = self._core.timeout(http_request)
        lease = engine.lease(request, timeout)

        def count(broadcast: Broadcast[bytes]) -> None:
            engine.count_coalesced(request, broadcast.entry, monotonic() - began)

        for _ in range(_ROUNDS):
            try:
                found, coalesced = engine.share(
                    request,
                    lambda flight: self._send(library, http_request, request, flight, lease),
                    lane,
                    circumstances=self._core.circumstances(http_request),
                    timeout=timeout,
                )
            except TimeoutError as exc:
                raise library.module.ReadTimeout(str(exc), request=http_request) from None
            if isinstance(found, Hit):
                engine.count_coalesced(request, found.entry, monotonic() - began)
                return _replay(library, found, "coalesced")
            head, counts = found.head, coalesced and found.head.status == 200
            subscriber = found.attach(count if counts else None, joins=coalesced)
            if subscriber is not None:
                headers = live_headers(head, coalesced)
                return library.response(head.status, headers, subscriber, head.extensions)
            found.retire()
        return self._core.transport.handle_request(http_request)

    def _send(
        self,
        library: HttpLibrary,
        http_request: Any,
        request: Request,
        flight: Flight,
        lease: "Lease | None",
    ) -> "Hit | Broadcast[bytes]":
        """Send *http_request*; its response from the first byte on, for all who join *flight*."""
        core, began, context = self._core, monotonic(), copy_context()
        with ExitStack() as stack:
            if lease is not None:
                stack.callback(lease.release)
            alone = lease is None or is_nested(flight)
            stored = (
                core.engine.recheck(request, decode)
                if alone or lease is None
                else lease.acquire(lambda: core.engine.recheck(request, decode))
            )
            if stored is not None:
                return stored
            response = core.transport.handle_request(http_request)
            recording = core.recording(library, response)

            def finish(broadcast: Broadcast[bytes], at_end: bool) -> None:
                try:
                    if core.should_store(recording, at_end):
                        facts = {
                            "response": recording.response(),
                            "seconds": monotonic() - began,
                            "flight": flight,
                        }
                        broadcast.entry = context.copy().run(
                            lambda: core.engine.store(request, recording.encode(), **facts)
                        )
                finally:
                    flight.end()
                    release()

            broadcast = Broadcast(
                head_of(response), response.stream, recording, finish, library.lost, flight.end
            )
            if response.status_code == 200:
                flight.outlast()
            else:
                flight.only_alike()
            release = stack.pop_all().close  # by finish, when the body has ended
        return broadcast

    def close(self) -> None:
        """Close the transport underneath. The cache stays open: who opened it closes it."""
        if self._core.transport is not None:
            self._core.transport.close()

    def __enter__(self) -> Self:
        if self._core.transport is not None:
            self._core.transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        exc: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self._core.transport is not None:
            self._core.transport.__exit__(kind, exc, trace)

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
        core, library = self._core, library_of(request)
        transport = core.transport_of(library.module.AsyncHTTPTransport)
        try:
            cacheable = core.cacheable(request)
            if cacheable is not None and running_loop() is None:
                self._skip_event_loop()
                cacheable = None
            if cacheable is None:
                return await transport.handle_async_request(request)
            hit = await core.engine.alookup(cacheable, decode)
        except LLMCacheError as exc:
            return raise_through(library, request, exc)
        if hit is not None:
            return _areplay(library, hit, "hit")
        return await self._share(library, request, cacheable)

    def _skip_event_loop(self) -> None:
        """Count a request under an event loop other than asyncio's as skipped."""
        engine = self._core.engine
        if engine.is_replay:
            raise RequestNotCacheable(
                "event loop",
                "in mode replay nothing is sent, and only under asyncio can it be answered",
            )
        engine.skip("event loop", "a call goes uncached: its event loop is not asyncio's")

    async def _share(self, library: HttpLibrary, http_request: Any, request: Request) -> Any:
        engine, lane, began = (
            self._core.engine,
            (running_loop(), library.module.__name__),
            monotonic(),
        )
        timeout = self._core.timeout(http_request)
        lease = engine.lease(request, timeout)

        def count(broadcast: AsyncBroadcast[bytes]) -> None:
            engine.count_coalesced(request, broadcast.entry, monotonic() - began)

        for _ in range(_ROUNDS):
            try:
                found, coalesced = await engine.ashare(
                    request,
                    lambda flight: self._send(library, http_request, request, flight, lease),
                    lane,
                    circumstances=self._core.circumstances(http_request),
                    timeout=timeout,
                )
            except TimeoutError as exc:
                raise library.module.ReadTimeout(str(exc), request=http_request) from None
            if isinstance(found, Hit):
                engine.count_coalesced(request, found.entry, monotonic() - began)
                return _areplay(library, found, "coalesced")
            head, counts = found.head, coalesced and found.head.status == 200
            subscriber = found.attach(count if counts else None, joins=coalesced)
            if subscriber is not None:
                headers = live_headers(head, coalesced)
                return library.response(head.status, headers, subscriber, head.extensions)
            found.retire()
        return await self._core.transport.handle_async_request(http_request)

    async def _send(
        self,
        library: HttpLibrary,
        http_request: Any,
        request: Request,
        flight: Flight,
        lease: "Lease | None",
    ) -> "Hit | AsyncBroadcast[bytes]":
        core, began, context = self._core, monotonic(), copy_context()
        with ExitStack() as stack:
            if lease is not None:
                stack.callback(lease.release)
            alone = lease is None or is_nested(flight)
            stored = await (
                core.engine.arecheck(request, decode)
                if alone or lease is None
                else lease.aacquire(lambda: core.engine.recheck(request, decode))
            )
            if stored is not None:
                return stored
            response = await core.transport.handle_async_request(http_request)
            recording = core.recording(library, response)

            async def finish(broadcast: AsyncBroadcast[bytes], at_end: bool) -> None:
                try:
                    if core.should_store(recording, at_end):
                        facts = {
                            "response": recording.response(),
                            "seconds": monotonic() - began,
                            "flight": flight,
                        }
                        broadcast.entry = await core.engine.astore(
                            request, recording.encode(), **facts
                        )
                finally:
                    flight.end()
                    release()

            broadcast = AsyncBroadcast(
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
            release = stack.pop_all().close  # by finish, when the body has ended
        return broadcast

    async def aclose(self) -> None:
        """As ``CacheTransport.close``."""
        if self._core.transport is not None:
            await self._core.transport.aclose()

    async def __aenter__(self) -> Self:
        if self._core.transport is not None:
            await self._core.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        exc: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self._core.transport is not None:
            await self._core.transport.__aexit__(kind, exc, trace)

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
