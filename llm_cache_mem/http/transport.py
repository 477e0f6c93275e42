"""Transports for httpx and httpx2 that answer from the cache, and pass everything that is no generation request."""

import threading
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine import Hit
from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.flight import Flight, is_nested
from llm_cache_mem.http import exchange
from llm_cache_mem.http.answer import Recording, load
from llm_cache_mem.http.headers import AGE, MARK
from llm_cache_mem.http.library import HttpLibrary, library_of
from llm_cache_mem.http.refusal import refuse
from llm_cache_mem.http.relay import AsyncRelay, Head, Relay
from llm_cache_mem.http.replayed import AsyncReplayed, Replayed
from llm_cache_mem.request import Request
from llm_cache_mem.seats import running_loop

if TYPE_CHECKING:
    import httpx
    import httpx2

    from llm_cache_mem.fleet import Turn

    class _Sync(httpx.BaseTransport, httpx2.BaseTransport):
        """For type checkers: a transport of either library."""

        def handle_request(self, request: Any) -> Any: ...

    class _Async(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        """The same for async."""

        async def handle_async_request(self, request: Any) -> Any: ...
else:
    _Sync = _Async = object

__all__ = ["AsyncCacheTransport", "CacheTransport"]

_ROUNDS = 8  # how often a caller may find a call just ended that it wanted to join, before it makes its own
_KIND = "http"


class _Desk:
    """What both transports do with a request before any I/O, and with an answer after it."""

    def __init__(self, cache: LLMCache, transport: Any) -> None:
        if not isinstance(cache, LLMCache):
            raise TypeError(f"a cache transport takes an LLMCache, not {type(cache).__name__}")
        self.cache = cache
        self.transport = transport
        self._making = threading.Lock()

    def transport_of(self, kind: Callable[[], Any]) -> Any:
        """The transport underneath, by *kind* made at the first request if none was given."""
        if self.transport is None:
            with self._making:
                if self.transport is None:
                    self.transport = kind()
        return self.transport

    def read(self, request: Any) -> Request | None:
        """The request with its key; None if it is to be passed on untouched. Raises LLMCacheError in mode ``replay``."""
        url, headers = request.url, request.headers
        path, _, query = url.raw_path.decode("ascii", "replace").partition("?")
        generation = exchange.is_generation(request.method, path, headers.get("content-type", ""))
        if self.cache.is_off:
            return None
        if not generation:
            if self.cache.is_replay:
                raise RequestNotCacheable(
                    f"{request.method} {path}", "in mode replay nothing is sent, and only generation requests are kept"
                )
            return None
        try:
            asked = exchange.read(_base_url(url, headers.get("host", "")), path, query, headers.multi_items(), _body(request))
            return self.cache.request_or_none(asked.messages, asked.params, kind=_KIND)
        except RequestNotCacheable as exc:
            if self.cache.is_replay:
                raise
            self.cache.bypass("request", "a call goes uncached: %s", exc)
            return None

    def keep(self, relay: Any, recording: Recording, at_end: bool) -> bool:
        """Whether the answer is one to keep; if it is not though it came to its end, that is counted."""
        if relay.head.status != 200:
            return False
        if recording.finish(at_end=at_end):
            return True
        if at_end or recording.fault is not None:
            self.cache.bypass(recording.fault or "incomplete", "an answer was not stored: %s")
        return False

    def recording(self, library: HttpLibrary, response: Any) -> Recording:
        headers = response.headers
        return Recording(response.status_code, headers.multi_items(), library.decoder(headers.get("content-encoding", "")))


def _base_url(url: Any, asked_host: str) -> str:
    """Where it goes; and by which name, if the caller has set another, as gateways that tell models apart by it are asked."""
    host = url.raw_host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    other = "" if asked_host.encode() in (b"", url.netloc) else f" as {asked_host}"
    return f"{url.scheme}://{host}" + ("" if url.port is None else f":{url.port}") + other


def _body(request: Any) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestNotCacheable("body", "it is compressed")
    try:
        body: bytes = request.content
        return body
    except Exception:  # noqa: BLE001  # RequestNotRead, of either library: to read it here would leave nothing to send
        raise RequestNotCacheable("body", "it is sent piece by piece") from None


def _head(response: Any) -> Head:
    return Head(response.status_code, list(response.headers.raw), dict(response.extensions))


def _live_headers(head: Head, joined: bool) -> list[tuple[bytes, bytes]]:
    if head.status != 200:  # errors pass as they came
        return head.headers
    ours = MARK.encode()
    return [pair for pair in head.headers if pair[0].lower() != ours] + [(ours, b"joined" if joined else b"miss")]


class _released:  # reads as a verb: with _released(turn) as kept: ...
    """A turn to call, released at the end of the block unless somebody ``hold``s it, who is to ``close`` it."""

    def __init__(self, turn: "Turn | None") -> None:
        self._turn = turn
        self._held = False

    def hold(self) -> None:
        self._held = True

    def close(self) -> None:
        if self._turn is not None:
            self._turn.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if not self._held:
            self.close()


class CacheTransport(_Sync):
    """Answers generation requests from *cache*, and sends the others, and those that it cannot answer, through *transport*.

    For httpx and for httpx2: *transport* is a transport of the library whose clients this one serves; by default that library's
    ``HTTPTransport()``, made at the first request. Thread-safe if *transport* is. Closing it closes *transport*.
    """

    def __init__(self, cache: LLMCache, transport: Any = None) -> None:
        self._desk = _Desk(cache, transport)

    @property
    def cache(self) -> LLMCache:
        """The cache that answers."""
        return self._desk.cache

    @property
    def wrapped(self) -> Any:
        """The transport underneath; None as long as it was not needed."""
        return self._desk.transport

    def handle_request(self, request: Any) -> Any:
        """The response to *request*: stored, on its way to another caller, or fetched. Raises what the transport raises."""
        desk, library = self._desk, library_of(request)
        transport = desk.transport_of(library.module.HTTPTransport)
        try:
            asked = desk.read(request)
            if asked is None:
                return transport.handle_request(request)
            hit = desk.cache.lookup(asked, load)
        except LLMCacheError as exc:
            return refuse(library, request, exc)
        return _replay(library, hit, "hit") if hit is not None else self._fetch(library, request, asked)

    def _fetch(self, library: HttpLibrary, request: Any, asked: Request) -> Any:
        cache, lane, began = self._desk.cache, ("threads", library.module.__name__), monotonic()
        turn = cache.turn(asked)

        def count(relay: Relay) -> None:
            cache.count_joined(asked, relay.entry, monotonic() - began)

        for _ in range(_ROUNDS):
            found, joined = cache.share(asked, lambda flight: self._open(library, request, asked, flight, turn), lane)
            if isinstance(found, Hit):
                cache.count_joined(asked, found.entry, monotonic() - began)
                return _replay(library, found, "joined")
            tap = found.attach(count if joined and found.head.status == 200 else None, joins=joined)
            if tap is not None:
                return library.response(found.head.status, _live_headers(found.head, joined), tap, found.head.extensions)
            found.retire()
        return self._desk.transport.handle_request(request)

    def _open(self, library: HttpLibrary, request: Any, asked: Request, flight: Flight, turn: "Turn | None") -> "Hit | Relay":
        """Send *request*; its answer from the first byte on, for all who join *flight*."""
        desk, began, context = self._desk, monotonic(), copy_context()
        with _released(turn) as kept:
            alone = turn is None or is_nested(flight)
            late = desk.cache.late(asked, load) if alone or turn is None else turn.take(lambda: desk.cache.late(asked, load))
            if late is not None:
                return late
            response = desk.transport.handle_request(request)
            recording = desk.recording(library, response)

            def finish(relay: Relay, at_end: bool) -> None:
                try:
                    if desk.keep(relay, recording, at_end):
                        facts = {"response": recording.response(), "seconds": monotonic() - began, "flight": flight}
                        relay.entry = context.copy().run(lambda: desk.cache.keep(asked, recording.value(), **facts))
                finally:
                    flight.end()
                    kept.close()

            relay = Relay(_head(response), response.stream, recording, finish, library.lost, flight.end)
            if response.status_code == 200:
                flight.outlast()
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
        self, kind: type[BaseException] | None = None, exc: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        if self._desk.transport is not None:
            self._desk.transport.__exit__(kind, exc, trace)

    def __repr__(self) -> str:
        return f"CacheTransport({self._desk.cache!r})"


class AsyncCacheTransport(_Async):
    """``CacheTransport`` for async clients under asyncio; under another event loop requests pass uncached."""

    def __init__(self, cache: LLMCache, transport: Any = None) -> None:
        self._desk = _Desk(cache, transport)

    @property
    def cache(self) -> LLMCache:
        """The cache that answers."""
        return self._desk.cache

    @property
    def wrapped(self) -> Any:
        """The transport underneath; None as long as it was not needed."""
        return self._desk.transport

    async def handle_async_request(self, request: Any) -> Any:
        """As ``CacheTransport.handle_request``."""
        desk, library = self._desk, library_of(request)
        transport = desk.transport_of(library.module.AsyncHTTPTransport)
        try:
            asked = desk.read(request)
            if asked is not None and running_loop() is None:
                if desk.cache.is_replay:
                    raise RequestNotCacheable("event loop", "in mode replay nothing is sent, and only under asyncio can it be answered")
                desk.cache.bypass("event loop", "a call goes uncached: its event loop is not asyncio's")
                asked = None
            if asked is None:
                return await transport.handle_async_request(request)
            hit = await desk.cache.alookup(asked, load)
        except LLMCacheError as exc:
            return refuse(library, request, exc)
        return _areplay(library, hit, "hit") if hit is not None else await self._fetch(library, request, asked)

    async def _fetch(self, library: HttpLibrary, request: Any, asked: Request) -> Any:
        cache, lane, began = self._desk.cache, (running_loop(), library.module.__name__), monotonic()
        turn = cache.turn(asked)

        def count(relay: AsyncRelay) -> None:
            cache.count_joined(asked, relay.entry, monotonic() - began)

        for _ in range(_ROUNDS):
            found, joined = await cache.ashare(asked, lambda flight: self._open(library, request, asked, flight, turn), lane)
            if isinstance(found, Hit):
                cache.count_joined(asked, found.entry, monotonic() - began)
                return _areplay(library, found, "joined")
            tap = found.attach(count if joined and found.head.status == 200 else None, joins=joined)
            if tap is not None:
                return library.response(found.head.status, _live_headers(found.head, joined), tap, found.head.extensions)
            found.retire()
        return await self._desk.transport.handle_async_request(request)

    async def _open(self, library: HttpLibrary, request: Any, asked: Request, flight: Flight, turn: "Turn | None") -> "Hit | AsyncRelay":
        desk, began, context = self._desk, monotonic(), copy_context()
        with _released(turn) as kept:
            alone = turn is None or is_nested(flight)
            late = await (desk.cache.alate(asked, load) if alone or turn is None else turn.atake(lambda: desk.cache.late(asked, load)))
            if late is not None:
                return late
            response = await desk.transport.handle_async_request(request)
            recording = desk.recording(library, response)

            async def finish(relay: AsyncRelay, at_end: bool) -> None:
                try:
                    if desk.keep(relay, recording, at_end):
                        facts = {"response": recording.response(), "seconds": monotonic() - began, "flight": flight}
                        relay.entry = await desk.cache.akeep(asked, recording.value(), **facts)
                finally:
                    flight.end()
                    kept.close()

            relay = AsyncRelay(_head(response), response.stream, recording, finish, library.lost, flight.end, context)
            if response.status_code == 200:
                flight.outlast()
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
        self, kind: type[BaseException] | None = None, exc: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        if self._desk.transport is not None:
            await self._desk.transport.__aexit__(kind, exc, trace)

    def __repr__(self) -> str:
        return f"AsyncCacheTransport({self._desk.cache!r})"


def _hit_headers(hit: Hit, mark: str) -> list[tuple[str, str]]:
    return [*hit.value.headers, (MARK, mark), (AGE, str(max(0, int(hit.age))))]


def _replay(library: HttpLibrary, hit: Hit, mark: str) -> Any:
    return library.response(hit.value.status, _hit_headers(hit, mark), Replayed(hit.value.chunks))


def _areplay(library: HttpLibrary, hit: Hit, mark: str) -> Any:
    return library.response(hit.value.status, _hit_headers(hit, mark), AsyncReplayed(hit.value.chunks))
