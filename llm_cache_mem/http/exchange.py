"""The seam between the cache and an HTTP library: one request, how to send it, and how to make the
library's own response.

Each library has a module that makes an exchange for a request, such as ``httpx_exchange``. ``core``
decides without I/O what to do with it, and ``drive`` does it, in one way for all libraries.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, NamedTuple, Protocol

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.answer import Head

__all__ = ["AsyncExchange", "Exchange", "Live", "Wire", "base_url_of"]


class Wire(NamedTuple):
    """A request as it goes on the wire.

    *base_url* is the server's, as ``base_url_of`` gives it. *body* returns the bytes, and raises
    RequestNotCacheable where they cannot be had before they are sent. *timeout*: after how many
    seconds the caller gives up reading; None for never. *connection*: what else can make the call
    fail, such as the transport and all its timeouts.
    """

    method: str
    host: str
    base_url: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    content_type: str
    body: Callable[[], bytes]
    timeout: float | None
    connection: Hashable

    def __repr__(self) -> str:
        return f"Wire({self.method} {self.path})"


class Live(NamedTuple):
    """A response from the network whose body is still to be read.

    *source* iterates over the bytes as they came, and has ``close`` (``aclose``). *decoder* undoes
    the content encoding of a whole body.
    """

    head: Head
    headers: list[tuple[str, str]]
    source: Any
    decoder: Callable[[bytes], bytes]


class Exchange(Protocol):
    """One request of a library that blocks, and the library's own response to it."""

    lane: str
    """Callers of the same lane can share a response in progress."""

    def wire(self) -> Wire:
        """The request."""
        ...

    def untouched(self) -> Any:
        """Send the request as if there were no cache; the library's own response."""
        ...

    def send(self) -> Live:
        """Send the request. Raises what the library raises."""
        ...

    def with_body(self, body: bytes) -> "Exchange":
        """The same request with another body."""
        ...

    def respond(self, head: Head, source: Any) -> Any:
        """The library's own response, with the bytes of *source*."""
        ...

    def fail(self, error: LLMCacheError) -> Any:
        """Raise *error*, or return a response that raises it where the SDK would retry."""
        ...

    def lost(self) -> Exception:
        """The error for subscribers of a call whose connection another caller lost."""
        ...

    def timed_out(self, text: str) -> Exception:
        """The library's error for a response that takes too long."""
        ...


class AsyncExchange(Protocol):
    """``Exchange`` for asyncio."""

    lane: str

    def wire(self) -> Wire: ...
    def untouched(self) -> Awaitable[Any]: ...
    def send(self) -> Awaitable[Live]: ...
    def with_body(self, body: bytes) -> "AsyncExchange": ...
    def respond(self, head: Head, source: Any) -> Any: ...
    def fail(self, error: LLMCacheError) -> Any: ...
    def lost(self) -> Exception: ...
    def timed_out(self, text: str) -> Exception: ...


def base_url_of(scheme: str, host: str, port: int | None, asked_host: str = "") -> str:
    """The server's URL, and the Host header where it names another: gateways tell models apart by
    it. *port* is None where it is the scheme's own."""
    netloc = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    other = "" if asked_host in ("", netloc) else f" as {asked_host}"
    return f"{scheme}://{netloc}{other}"
