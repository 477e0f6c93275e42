"""Exchanges of aiohttp."""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from inspect import BoundArguments, signature
from types import SimpleNamespace
from typing import Any

from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.engine.streams import AsyncReplay
from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.decoding import inflated
from llm_cache_mem.http.exchange import Live, Wire, base_url_of

__all__ = ["AiohttpExchange", "url_of"]

_LIMIT = 2**16


def url_of(session: Any, url: Any, params: Any = None) -> Any:
    """The whole URL, a yarl.URL, of a request of *session*."""
    build = getattr(session, "_build_url", None)
    whole = _library().client.URL(url) if build is None else build(url)
    return whole.extend_query(params) if params else whole


class AiohttpExchange:
    """A call of ``ClientSession._request``, the *original* method, with *bound* arguments."""

    lane = "aiohttp"

    def __init__(self, original: Callable[..., Any], bound: BoundArguments) -> None:
        self._original = original
        self._bound = bound
        given = bound.arguments
        self._session = given["self"]
        self._url = url_of(self._session, given["str_or_url"], given.get("params"))

    def wire(self) -> Wire:
        given, session, url = self._bound.arguments, self._session, self._url
        prepare = getattr(session, "_prepare_headers", lambda headers: headers or {})
        headers = [(str(name), str(value)) for name, value in prepare(given.get("headers")).items()]
        by_name = {name.lower(): value for name, value in headers}
        if given.get("json") is not None:
            by_name.setdefault("content-type", "application/json")
        timeout = given.get("timeout", getattr(session, "_timeout", None))
        seconds = getattr(timeout, "sock_read", None) or getattr(timeout, "total", None)
        port = None if url.is_default_port() else url.port
        return Wire(
            given["method"].upper(),
            url.host or "",
            base_url_of(url.scheme, url.host or "", port, by_name.get("host", "")),
            url.raw_path,
            url.raw_query_string,
            headers,
            by_name.get("content-type", ""),
            self._body,
            timeout_of({"timeout": seconds}),
            (id(session), repr(timeout), repr(given.get("proxy"))),
        )

    def _body(self) -> bytes:
        given = self._bound.arguments
        if given.get("compress"):
            raise RequestNotCacheable("body", "it is compressed")
        body = given.get("data")
        if body is None and given.get("json") is not None:
            body = self._session._json_serialize(given["json"])
        if isinstance(body, str):
            return body.encode()
        if isinstance(body, bytes | bytearray):
            return bytes(body)
        raise RequestNotCacheable("body", "it is sent piece by piece")

    async def untouched(self) -> Any:
        return await self._original(*self._bound.args, **self._bound.kwargs)

    async def send(self) -> Live:
        response = await self.untouched()
        decompressed = self._bound.arguments.get("auto_decompress")
        if decompressed is None:
            decompressed = getattr(self._session, "_auto_decompress", True)
        encoding = response.headers.get("content-encoding", "")
        head = Head(response.status, list(response.raw_headers), {"response": response})
        headers = [
            (str(name), str(value))
            for name, value in response.headers.items()
            if not (decompressed and name.lower() in ("content-encoding", "content-length"))
        ]
        return Live(
            head,
            headers,
            _Source(response),
            _same if decompressed else lambda body: _decompressed(encoding, body),
        )

    def with_body(self, body: bytes) -> "AiohttpExchange":
        given = self._bound.arguments
        headers = _library().client_reqrep.CIMultiDict(given.get("headers") or ())
        headers.popall("content-length", None)
        if given.get("json") is not None:
            headers.setdefault("content-type", "application/json")
        changed = {**given, "data": body, "json": None, "headers": headers}
        return AiohttpExchange(self._original, BoundArguments(self._bound.signature, changed))

    def respond(self, head: Head, source: Any) -> Any:
        made = _response_class()(**_arguments(self._bound.arguments, self._session, self._url))
        made.begin(head, source)
        return made

    def fail(self, error: LLMCacheError) -> Any:
        raise error

    def lost(self) -> Exception:
        error: Exception = _library().ClientPayloadError(
            "the call that this request was coalesced with was interrupted; try again"
        )
        return error

    def timed_out(self, text: str) -> Exception:
        error: Exception = _library().ServerTimeoutError(text)
        return error


class _Source:
    """The bytes of a response as they come."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        pieces: AsyncIterator[bytes] = self._response.content.iter_any()
        return aiter(pieces)

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._response.close()


def _same(body: bytes) -> bytes:
    return body


def _decompressed(encoding: str, body: bytes) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise ValueError(f"unknown content encoding {encoding!r}")
    return inflated(body, zlib.MAX_WBITS | 32)


def _library() -> Any:
    return sys.modules["aiohttp"]  # a request of it exists, so it is imported


def _arguments(given: Mapping[str, Any], session: Any, url: Any) -> dict[str, Any]:
    """What this version of aiohttp makes a response of."""
    library, loop = _library(), asyncio.get_running_loop()
    headers = library.client_reqrep.CIMultiDictProxy(library.client_reqrep.CIMultiDict())
    made = {
        "method": given["method"].upper(),
        "url": url,
        "writer": None,
        "continue100": None,
        "timer": library.helpers.TimerNoop(),
        "request_info": library.RequestInfo(url, given["method"].upper(), headers, url),
        "traces": [],
        "loop": loop,
        "session": session,
        "stream_writer": SimpleNamespace(output_size=0),
    }
    wanted = signature(library.ClientResponse.__init__).parameters
    return {name: value for name, value in made.items() if name in wanted}


@cache
def _response_class() -> Any:
    library = _library()
    base = library.ClientResponse

    class Response(base):  # type: ignore[misc,valid-type]  # aiohttp is imported by others
        """A response whose body comes from the cache, or from a call that others share."""

        def begin(self, head: Head, source: Any) -> None:
            parts = library.client_reqrep
            pairs = [
                (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
                for name, value in head.headers
            ]
            live = head.extensions.get("response")
            self.status = head.status
            self.reason = "OK" if live is None else live.reason
            self.version = library.HttpVersion11 if live is None else live.version
            self._headers = parts.CIMultiDictProxy(parts.CIMultiDict(pairs))
            self._raw_headers = tuple(head.headers)
            self._closed = False
            loop = asyncio.get_running_loop()
            self.content = library.StreamReader(_Protocol(), _LIMIT, loop=loop)
            self._pump = None
            if isinstance(source, AsyncReplay):
                for chunk in source.rest():
                    self.content.feed_data(chunk)
                self.content.feed_eof()
            else:
                self._pump = loop.create_task(_feed(self.content, source))

        def close(self) -> None:
            super().close()
            self._stop()

        def release(self) -> Any:
            self._stop()
            return super().release()

        def _stop(self) -> None:
            pump, self._pump = self._pump, None
            if pump is not None and not pump.done():
                pump.cancel()

    Response.__name__ = Response.__qualname__ = base.__name__
    return Response


class _Protocol:
    """What a StreamReader expects to be fed by."""

    connected = True
    _reading_paused = False

    def pause_reading(self, *args: object, **kwargs: object) -> None: ...

    def resume_reading(self, *args: object, **kwargs: object) -> None: ...


async def _feed(reader: Any, source: Any) -> None:
    """Read *source* into *reader* to its end."""
    try:
        async for chunk in source:
            if chunk:
                reader.feed_data(chunk)
        reader.feed_eof()
    except Exception as exc:  # noqa: BLE001  # the reader's caller is the one to hear of it
        reader.set_exception(exc)
    finally:
        await source.aclose()
