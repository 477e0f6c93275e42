"""Transports for httpx and httpx2 that answer generation requests from the cache."""

import threading
from typing import TYPE_CHECKING, Any, Self

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.http.core import Core, Usage
from llm_cache_mem.http.drive import adrive, drive
from llm_cache_mem.http.httpx_exchange import AsyncHttpxExchange, HttpxExchange
from llm_cache_mem.http.library import library_of

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Sync(httpx.BaseTransport, httpx2.BaseTransport):
        """For type checkers: a transport of either library."""

        def handle_request(self, request: Any) -> Any: ...

    class _Async(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        """The same for async."""

        async def handle_async_request(self, request: Any) -> Any: ...

else:
    _Sync = _Async = object

__all__ = ["AsyncCacheTransport", "CacheTransport"]

_WRONG_CLIENT = "a Client takes a CacheTransport, an AsyncClient an AsyncCacheTransport"


class _Transport:
    """A cache, and a transport under it."""

    _handles = ""

    def __init__(
        self, cache: LLMCache, transport: Any = None, *, usage: Usage | None = None
    ) -> None:
        if transport is not None and not hasattr(transport, self._handles):
            raise TypeError(
                f"{type(self).__name__} goes over a transport with {self._handles}(), which"
                f" {type(transport).__name__} has not"
            )
        self._core = Core(cache, usage)
        self._transport = transport
        self._making = threading.Lock()

    def _under(self, make: Any) -> Any:
        """The transport underneath, made with *make* at the first request if none was given."""
        if self._transport is None:
            with self._making:
                if self._transport is None:
                    self._transport = make()
        return self._transport

    @property
    def cache(self) -> LLMCache:
        """The cache that answers."""
        return self._core.cache

    @property
    def wrapped(self) -> Any:
        """The transport underneath; None as long as it was not needed."""
        return self._transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core.cache!r})"


class CacheTransport(_Transport, _Sync):
    """Answer generation requests from *cache*, and send the others through *transport*.

    For httpx and for httpx2: *transport* is a transport of the library whose clients this one
    serves; by default that library's ``HTTPTransport()``, made at the first request. Thread-safe if
    *transport* is. Closing it closes *transport*. *usage* is as in ``cache_client``.
    """

    _handles = "handle_request"

    def handle_request(self, request: Any) -> Any:
        """The response to *request*: stored, shared with another caller, or from the provider.

        Raises what the transport raises.
        """
        library = library_of(request)
        transport = self._under(library.module.HTTPTransport)
        exchange = HttpxExchange(library, request, transport, transport.handle_request)
        return drive(self._core, exchange)

    def close(self) -> None:
        """Close the transport underneath. The cache stays open: who opened it closes it."""
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> Self:
        if self._transport is not None:
            self._transport.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._transport is not None:
            self._transport.__exit__(*exc)

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
        library = library_of(request)
        transport = self._under(library.module.AsyncHTTPTransport)
        exchange = AsyncHttpxExchange(library, request, transport, transport.handle_async_request)
        return await adrive(self._core, exchange)

    async def aclose(self) -> None:
        """As ``CacheTransport.close``."""
        if self._transport is not None:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self._transport is not None:
            await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if self._transport is not None:
            await self._transport.__aexit__(*exc)

    def handle_request(self, request: Any) -> Any:
        """TypeError: this one is for ``AsyncClient``."""
        raise TypeError(_WRONG_CLIENT)

    def __enter__(self) -> Self:
        raise TypeError(_WRONG_CLIENT)

    def __exit__(self, *exc: object) -> None: ...

    def close(self) -> None:
        """Nothing to do: an AsyncClient calls ``aclose``."""
