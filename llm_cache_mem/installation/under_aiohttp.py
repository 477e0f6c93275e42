"""aiohttp: the method in which every request of a session is made."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from llm_cache_mem.http.aiohttp_exchange import AiohttpExchange, url_of
from llm_cache_mem.http.drive import adrive
from llm_cache_mem.installation.active import active
from llm_cache_mem.installation.patching import Method, is_mock

__all__ = ["METHODS"]


def _request(original: Any) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @wraps(original)
    async def _request(self: Any, method: str, str_or_url: Any, **kwargs: Any) -> Any:
        installation = active()
        if installation is None or (is_mock(original) and not installation.mocks):
            return await original(self, method, str_or_url, **kwargs)
        url = url_of(self, str_or_url)
        port = None if url.is_default_port() else url.port
        if not installation.takes(method.upper(), url.host or "", port, url.path):
            return await original(self, method, str_or_url, **kwargs)
        bound = signature.bind(self, method, str_or_url, **kwargs)
        return await adrive(installation, AiohttpExchange(original, bound))

    return _request


METHODS: Final = (Method("aiohttp.client", "ClientSession", "_request", _request),)
"""The method in which aiohttp meets the network."""
