"""Exchanges of lm15, the HTTP transports that DSPy brings along."""

import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, Self
from urllib.parse import urlsplit

from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.exchange import Live, Wire, base_url_of

__all__ = ["AsyncLm15Exchange", "Lm15Exchange"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Base:
    """*request* on its way to *send*, which is *transport*'s."""

    lane = "lm15"

    def __init__(self, transport: Any, request: Any, send: Callable[[Any], Any]) -> None:
        self._transport = transport
        self._request = request
        self._send = send

    def wire(self) -> Wire:
        request = self._request
        url = urlsplit(request.url)
        port = None if url.port == _DEFAULT_PORTS.get(url.scheme) else url.port
        headers = {name.lower(): value for name, value in request.headers}
        seconds = request.read_timeout or getattr(self._transport, "_read_timeout", None)
        host = url.hostname or ""
        return Wire(
            request.method.upper(),
            host,
            base_url_of(url.scheme, host, port, headers.get("host", "")),
            url.path,
            url.query,
            list(request.headers),
            headers.get("content-type", ""),
            lambda: bytes(request.body),
            timeout_of({"timeout": seconds}),
            (id(self._transport), repr((seconds, request.connect_timeout))),
        )

    def untouched(self) -> Any:
        return self._send(self._request)

    def with_body(self, body: bytes) -> Self:
        kept = [pair for pair in self._request.headers if pair[0].lower() != "content-length"]
        request = replace(self._request, body=body, headers=kept)
        return type(self)(self._transport, request, self._send)

    def fail(self, error: LLMCacheError) -> Any:
        raise error

    def lost(self) -> Exception:
        error: Exception = self._library().ReadError(
            "the call that this request was coalesced with was interrupted; try again"
        )
        return error

    def timed_out(self, text: str) -> Exception:
        error: Exception = self._library().ReadTimeout(text)
        return error

    def _library(self) -> Any:
        return sys.modules[type(self._request).__module__.rpartition(".")[0]]

    def _live(self, response: Any) -> Live:
        headers = [(str(name), str(value)) for name, value in response.headers]
        raw = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in headers]
        by_name = {name.lower(): value for name, value in headers}
        about = {"reason": response.reason, "http_version": response.http_version}
        return Live(
            Head(response.status, raw, about),
            headers,
            _Source(response),
            lambda body: _decoded(by_name.get("content-encoding", ""), body),
        )

    def _response(self, kind: str, head: Head, chunks: Any, release: Any) -> Any:
        headers = [
            (name.decode("latin-1"), value.decode("utf-8", "replace"))
            for name, value in head.headers
            if name.lower() != b"transfer-encoding"  # the body has been taken out of its chunks
        ]
        return getattr(self._library(), kind)(
            status=head.status,
            reason=head.extensions.get("reason", "OK"),
            headers=headers,
            http_version=head.extensions.get("http_version", "HTTP/1.1"),
            chunks=chunks,
            release=release,
        )


class Lm15Exchange(_Base):
    """A request of ``StdlibTransport.stream``."""

    def send(self) -> Live:
        return self._live(self._send(self._request))

    def respond(self, head: Head, source: Any) -> Any:
        return self._response("TransportResponse", head, iter(source), lambda _: source.close())


class AsyncLm15Exchange(_Base):
    """A request of ``StdlibAsyncTransport``."""

    async def send(self) -> Live:
        return self._live(await self._send(self._request))

    def respond(self, head: Head, source: Any) -> Any:
        async def release(consumed: bool) -> None:
            await source.aclose()

        return self._response("AsyncTransportResponse", head, aiter(source), release)


class _Source:
    """The bytes of a response as they come."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._response)

    def close(self) -> None:
        self._response.close()

    async def aclose(self) -> None:
        await self._response.aclose()


def _decoded(encoding: str, body: bytes) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise ValueError(f"unknown content encoding {encoding!r}")
    return zlib.decompress(body, zlib.MAX_WBITS | 32)
