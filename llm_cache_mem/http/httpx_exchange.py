"""Exchanges of httpx and httpx2."""

from collections.abc import Callable
from typing import Any, Final, Self

from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.errors import raise_through
from llm_cache_mem.http.exchange import Live, Wire, base_url_of
from llm_cache_mem.http.library import HttpLibrary

__all__ = ["AsyncHttpxExchange", "HttpxExchange"]

_OF_THE_BODY: Final = (b"content-length", b"transfer-encoding")


class _Base:
    """*request* on its way to *send*, a method of *transport*."""

    __slots__ = ("_library", "_request", "_send", "_transport", "lane")

    def __init__(
        self, library: HttpLibrary, request: Any, transport: Any, send: Callable[[Any], Any]
    ) -> None:
        self._library = library
        self._request = request
        self._transport = transport
        self._send = send
        self.lane: str = library.module.__name__

    def wire(self) -> Wire:
        request = self._request
        url, headers = request.url, request.headers
        path, _, query = url.raw_path.decode("ascii", "replace").partition("?")
        timeouts = request.extensions.get("timeout")
        host = url.raw_host.decode("ascii")
        return Wire(
            request.method,
            host,
            base_url_of(url.scheme, host, url.port, headers.get("host", "")),
            path,
            query,
            headers.multi_items(),
            headers.get("content-type", ""),
            self._body,
            _read_timeout(timeouts),
            (id(self._transport), repr(timeouts)),
        )

    def _body(self) -> bytes:
        if self._request.headers.get("content-encoding", "identity") != "identity":
            raise RequestNotCacheable("body", "it is compressed")
        try:
            body: bytes = self._request.content
            return body
        # RequestNotRead, of either library: reading it here would leave nothing to send
        except Exception:  # noqa: BLE001
            raise RequestNotCacheable("body", "it is sent piece by piece") from None

    def untouched(self) -> Any:
        return self._send(self._request)

    def with_body(self, body: bytes) -> Self:
        asked = self._request
        headers = [pair for pair in asked.headers.raw if pair[0].lower() not in _OF_THE_BODY]
        request = self._library.module.Request(
            asked.method, asked.url, headers=headers, content=body, extensions=asked.extensions
        )
        return type(self)(self._library, request, self._transport, self._send)

    def respond(self, head: Head, source: Any) -> Any:
        return self._library.response(head.status, head.headers, source, head.extensions)

    def fail(self, error: LLMCacheError) -> Any:
        return raise_through(self._library, self._request, error)

    def lost(self) -> Exception:
        return self._library.lost()

    def timed_out(self, text: str) -> Exception:
        error: Exception = self._library.module.ReadTimeout(text, request=self._request)
        return error

    def _live(self, response: Any) -> Live:
        headers = response.headers
        return Live(
            Head(response.status_code, list(headers.raw), dict(response.extensions)),
            headers.multi_items(),
            response.stream,
            self._library.decoder(headers.get("content-encoding", "")),
        )


class HttpxExchange(_Base):
    """A request of a ``Client``."""

    __slots__ = ()

    def send(self) -> Live:
        return self._live(self._send(self._request))


class AsyncHttpxExchange(_Base):
    """A request of an ``AsyncClient``."""

    __slots__ = ()

    async def send(self) -> Live:
        return self._live(await self._send(self._request))


def _read_timeout(timeouts: Any) -> float | None:
    return timeout_of({"timeout": (timeouts or {}).get("read")})
