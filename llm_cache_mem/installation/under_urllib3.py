"""urllib3, and with it requests, botocore and libraries built on them: the method that sends a
request on a connection of a pool."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.drive import drive
from llm_cache_mem.http.urllib3_exchange import Urllib3Exchange, address_of
from llm_cache_mem.installation.active import active
from llm_cache_mem.installation.patching import Method, is_mock

__all__ = ["METHODS"]


def _urlopen(original: Any) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @wraps(original)
    def urlopen(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        installation = active()
        if installation is None:
            return original(self, method, url, *args, **kwargs)
        _, host, port, path, _ = address_of(self, url)
        mocked = not installation.mocks and (is_mock(original) or is_mock(self.ConnectionCls))
        if mocked or not installation.takes(method, host, port, path):
            return original(self, method, url, *args, **kwargs)
        bound = signature.bind(self, method, url, *args, **kwargs)
        return drive(installation, Urllib3Exchange(original, bound))

    return urlopen


def _send(original: Any) -> Callable[..., Any]:
    """Hand on the cache's own errors, which botocore would take for those of a connection."""

    @wraps(original)
    def send(self: Any, request: Any) -> Any:
        try:
            return original(self, request)
        except Exception as exc:
            error = getattr(exc, "kwargs", {}).get("error")
            if isinstance(error, LLMCacheError):
                raise error from None
            raise

    return send


METHODS: Final = (
    Method("urllib3.connectionpool", "HTTPConnectionPool", "urlopen", _urlopen),
    Method("botocore.httpsession", "URLLib3Session", "send", _send),
)
"""The method in which urllib3 meets the network, and botocore's around it."""
