"""httpx and httpx2: the transports that meet the network.

Only these are replaced, not clients: a client that was made before, one with a proxy, and one with
a transport of its own over these are all covered, and whatever stands above, such as an event hook
or an instrumentor, sees each call. A request that never gets to the network, as with a
MockTransport, is none of ours.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Final

from llm_cache_mem.http.drive import adrive, drive
from llm_cache_mem.http.httpx_exchange import AsyncHttpxExchange, HttpxExchange
from llm_cache_mem.http.library import library_of
from llm_cache_mem.installation.active import Installation, active
from llm_cache_mem.installation.patching import Method, is_mock

__all__ = ["METHODS"]


def _sync(original: Any, *, mock: bool = False) -> Callable[..., Any]:
    @wraps(original)
    def handle_request(self: Any, request: Any) -> Any:
        installation = active()
        if installation is None or not _takes(installation, request):
            return original(self, request)
        if not installation.mocks and (mock or _is_mocked(self, original, "handle_request")):
            return original(self, request)
        send = partial(original, self)
        return drive(installation, HttpxExchange(library_of(request), request, self, send))

    return handle_request


def _async(original: Any, *, mock: bool = False) -> Callable[..., Any]:
    @wraps(original)
    async def handle_async_request(self: Any, request: Any) -> Any:
        installation = active()
        if installation is None or not _takes(installation, request):
            return await original(self, request)
        if not installation.mocks and (mock or _is_mocked(self, original, "handle_async_request")):
            return await original(self, request)
        send = partial(original, self)
        exchange = AsyncHttpxExchange(library_of(request), request, self, send)
        return await adrive(installation, exchange)

    return handle_async_request


def _takes(installation: Installation, request: Any) -> bool:
    url = request.url
    return installation.takes(request.method, url.host, url.port, url.path)


def _is_mocked(transport: Any, original: Any, name: str) -> bool:
    """Whether a test has replaced the method itself, or, as respx does, that of the connection
    pool."""
    pool = type(getattr(transport, "_pool", None))
    return is_mock(original) or is_mock(getattr(pool, name, None))


def _methods(library: str) -> tuple[Method, ...]:
    return (
        Method(library, "HTTPTransport", "handle_request", _sync),
        Method(library, "AsyncHTTPTransport", "handle_async_request", _async),
        Method(library, "MockTransport", "handle_request", partial(_sync, mock=True)),
        Method(library, "MockTransport", "handle_async_request", partial(_async, mock=True)),
    )


# Where the SDKs keep httpx-aiohttp, which is behind their DefaultAioHttpClient.
_AIOHTTP: Final = (
    "httpx_aiohttp.transport",
    "openai._vendor.httpx_aiohttp.transport",
    "anthropic._vendor.httpx_aiohttp.transport",
)

METHODS: Final = (
    *_methods("httpx"),
    *_methods("httpx2"),
    *(Method(module, "AiohttpTransport", "handle_async_request", _async) for module in _AIOHTTP),
)
"""The methods in which both meet the network."""
