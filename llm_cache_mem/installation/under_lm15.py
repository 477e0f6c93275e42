"""lm15, the HTTP transports that DSPy brings along: the methods that send a request."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Final
from urllib.parse import urlsplit

from llm_cache_mem.http.drive import adrive, drive
from llm_cache_mem.http.lm15_exchange import AsyncLm15Exchange, Lm15Exchange
from llm_cache_mem.installation.active import Installation, active
from llm_cache_mem.installation.patching import Method, is_mock

__all__ = ["METHODS"]


def _takes(installation: Installation, request: Any, original: Any) -> bool:
    url = urlsplit(request.url)
    mocked = is_mock(original) and not installation.mocks
    return not mocked and installation.takes(request.method, url.hostname or "", url.port, url.path)


def _sync(original: Any) -> Callable[..., Any]:
    @wraps(original)
    def stream(self: Any, request: Any) -> Any:
        installation = active()
        if installation is None or not _takes(installation, request, original):
            return original(self, request)
        return drive(installation, Lm15Exchange(self, request, partial(original, self)))

    return stream


def _async(original: Any) -> Callable[..., Any]:
    @wraps(original)
    async def do_stream(self: Any, request: Any) -> Any:
        installation = active()
        if installation is None or not _takes(installation, request, original):
            return await original(self, request)
        exchange = AsyncLm15Exchange(self, request, partial(original, self))
        return await adrive(installation, exchange)

    return do_stream


_PLACES: Final = ("lm15.transports", "dspy._vendor.lm15.transports")

METHODS: Final = tuple(
    method
    for place in _PLACES
    for method in (
        Method(f"{place}._sync", "StdlibTransport", "stream", _sync),
        Method(f"{place}._async", "StdlibAsyncTransport", "_do_stream", _async),
    )
)
"""The methods in which its transports meet the network."""
