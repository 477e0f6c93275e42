"""Exchanges of urllib3, on which requests and botocore stand."""

import io
import sys
from collections.abc import Callable, Iterator
from functools import cache
from http.client import responses
from inspect import BoundArguments
from typing import Any
from urllib.parse import urlsplit

from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.decoding import collected
from llm_cache_mem.http.exchange import Live, Wire, base_url_of

__all__ = ["Urllib3Exchange", "address_of"]

_PIECE = 65536
_OF_THE_BODY = ("content-length", "transfer-encoding")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def address_of(pool: Any, url: str) -> tuple[str, str, int | None, str, str]:
    """The scheme, host, port, path and query of a request of *pool*; the port is None where it is
    the scheme's own. A proxy for plain HTTP is asked for the whole URL."""
    parts = urlsplit(url)
    scheme, host, port = pool.scheme, str(pool.host), pool.port
    if parts.netloc:
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    if port == _DEFAULT_PORTS.get(scheme):
        port = None
    return scheme, host.strip("[]").lower(), port, parts.path, parts.query


class Urllib3Exchange:
    """A call of ``urlopen``, the *original* method, with *bound* arguments."""

    lane = "urllib3"

    def __init__(self, original: Callable[..., Any], bound: BoundArguments) -> None:
        self._original = original
        self._bound = bound

    def wire(self) -> Wire:
        arguments = self._bound.arguments
        pool = arguments["self"]
        scheme, host, port, path, query = address_of(pool, arguments["url"])
        headers = [
            (_text(name), _text(value))
            for name, value in (arguments.get("headers") or pool.headers or {}).items()
        ]
        by_name = {name.lower(): value for name, value in headers}
        timeout = arguments.get("timeout", pool.timeout)
        seconds = getattr(timeout, "_read", timeout)
        return Wire(
            arguments["method"],
            host,
            base_url_of(scheme, host, port, by_name.get("host", "")),
            path,
            query,
            headers,
            by_name.get("content-type", ""),
            lambda: self._body(by_name.get("content-encoding", "identity")),
            timeout_of({"timeout": seconds}),
            (id(pool), repr(timeout)),
        )

    def _body(self, encoding: str) -> bytes:
        if encoding != "identity":
            raise RequestNotCacheable("body", "it is compressed")
        body = self._bound.arguments.get("body")
        if isinstance(body, str):
            return body.encode()
        if isinstance(body, bytes | bytearray):
            return bytes(body)
        if isinstance(body, io.BytesIO):
            return body.getvalue()[body.tell() :]
        raise RequestNotCacheable("body", "it is sent piece by piece")

    def untouched(self) -> Any:
        return self._original(*self._bound.args, **self._bound.kwargs)

    def send(self) -> Live:
        given = self._bound.arguments
        streaming = {"preload_content": False, "decode_content": False, "release_conn": None}
        changed = BoundArguments(self._bound.signature, {**given, **streaming})
        response = self._original(*changed.args, **changed.kwargs)
        headers = [(str(name), str(value)) for name, value in response.headers.items()]
        raw = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in headers]
        encoding = response.headers.get("content-encoding", "")
        head = Head(response.status, raw, {"reason": response.reason})
        return Live(head, headers, _Source(response), lambda body: _decoded(encoding, body))

    def with_body(self, body: bytes) -> "Urllib3Exchange":
        given = self._bound.arguments
        headers = dict(given.get("headers") or given["self"].headers or {})
        for name in [name for name in headers if _text(name).lower() in _OF_THE_BODY]:
            del headers[name]
        changed = {**given, "body": body, "headers": {**headers, "Content-Length": str(len(body))}}
        return Urllib3Exchange(self._original, BoundArguments(self._bound.signature, changed))

    def respond(self, head: Head, source: Any) -> Any:
        given = self._bound.arguments
        made = _library().HTTPHeaderDict()
        for name, value in head.headers:
            if name.lower() != b"transfer-encoding":  # the body has been taken out of its chunks
                made.add(name.decode("latin-1"), value.decode("utf-8", "replace"))
        return _response_class()(
            body=_Body(source, made.get("content-length")),
            headers=made,
            status=head.status,
            reason=head.extensions.get("reason") or responses.get(head.status),
            preload_content=given.get("preload_content", True),
            decode_content=given.get("decode_content", True),
            request_method=given["method"],
            request_url=given["url"],
        )

    def fail(self, error: LLMCacheError) -> Any:
        raise error

    def lost(self) -> Exception:
        error: Exception = _library().exceptions.ProtocolError(
            "the call that this request was coalesced with was interrupted; try again"
        )
        return error

    def timed_out(self, text: str) -> Exception:
        arguments = self._bound.arguments
        error: Exception = _library().exceptions.ReadTimeoutError(
            arguments["self"], arguments["url"], text
        )
        return error


class _Source:
    """The bytes of a response as they come."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        response = self._response
        if getattr(response, "chunked", False) or not hasattr(response, "read1"):
            yield from response.stream(_PIECE, decode_content=False)
            return
        while piece := response.read1(_PIECE, decode_content=False):
            yield piece

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._response.close()
        self._response.release_conn()


class _Body(io.RawIOBase):
    """The file that a response reads from; each read gives what is there."""

    def __init__(self, source: Any, length: str | None) -> None:
        super().__init__()
        self._source = source
        self._pieces = iter(source)
        self._rest = b""
        self._left = int(length) if length is not None and length.isdecimal() else None

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            whole = self._rest + b"".join(self._pieces)
            self._rest = b""
            return whole
        if not self._rest:
            self._rest = next(self._pieces, b"")
            if self._left is not None:
                self._left -= len(self._rest)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    read1 = read

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._left == 0:  # its reader stops there, where the end of the source is next
                next(self._pieces, None)
            close = getattr(self._source, "close", None)
            if close is not None:
                close()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _decoded(encoding: str, body: bytes) -> bytes:
    response = _library().HTTPResponse(
        body=io.BytesIO(body),
        headers={"content-encoding": encoding},
        preload_content=False,
    )
    return collected(response.stream(_PIECE, decode_content=True))


def _library() -> Any:
    return sys.modules["urllib3"]  # a request of it exists, so it is imported


@cache
def _response_class() -> Any:
    base = _library().HTTPResponse

    class Response(base):  # type: ignore[misc,valid-type]  # of whichever urllib3
        def stream(self, amt: int = _PIECE, decode_content: bool | None = None) -> Iterator[bytes]:
            """Each piece as it comes, as for a chunked response from the network."""
            if not hasattr(base, "read1"):
                yield from super().stream(amt, decode_content)
                return
            while piece := self.read1(amt, decode_content=decode_content):
                yield piece

    Response.__name__ = Response.__qualname__ = base.__name__
    return Response
