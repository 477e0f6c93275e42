"""What both cache transports do with a request before any I/O, and with an answer after it."""

import threading
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.calls import Hit
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.http import request as requests
from llm_cache_mem.http.answer import Recording
from llm_cache_mem.http.broadcast import Head
from llm_cache_mem.http.headers import AGE, MARK, is_per_call
from llm_cache_mem.http.library import HttpLibrary
from llm_cache_mem.keys.request import Request

if TYPE_CHECKING:
    from llm_cache_mem.engine.leases import Lease

__all__ = ["Desk", "head_of", "hit_headers", "live_headers", "released"]

_KIND = "http"


class Desk:
    """A cache, and the transport under it: what is kept of what passes, and under which key."""

    def __init__(self, cache: LLMCache, transport: Any) -> None:
        if not isinstance(cache, LLMCache):
            raise TypeError(f"a cache transport takes an LLMCache, not {type(cache).__name__}")
        self.cache = cache
        self.transport = transport
        self._making = threading.Lock()

    def transport_of(self, kind: Callable[[], Any]) -> Any:
        """The transport underneath, by *kind* made at the first request if none was given."""
        if self.transport is None:
            with self._making:
                if self.transport is None:
                    self.transport = kind()
        return self.transport

    def read(self, request: Any) -> Request | None:
        """The request with its key; None if it is to be passed on untouched. Raises LLMCacheError
        in mode ``replay``."""
        url, headers = request.url, request.headers
        path, _, query = url.raw_path.decode("ascii", "replace").partition("?")
        generation = requests.is_generation(request.method, path, headers.get("content-type", ""))
        if self.cache.engine.is_off:
            return None
        if not generation:
            if self.cache.engine.is_replay:
                raise RequestNotCacheable(
                    f"{request.method} {path}",
                    "in mode replay nothing is sent, and only generation requests are kept",
                )
            return None
        try:
            asked = requests.read(
                _base_url(url, headers.get("host", "")),
                path,
                query,
                headers.multi_items(),
                _body(request),
            )
            return self.cache.engine.request(asked.messages, asked.params, kind=_KIND)
        except RequestNotCacheable as exc:
            if self.cache.engine.is_replay:
                raise
            self.cache.engine.skip("request", "a call goes uncached: %s", exc)
            return None

    def circumstances(self, request: Any) -> Hashable:
        """What outside the key can make *request* fail: credentials, timeout, transport."""
        headers = request.headers.multi_items()
        mine = tuple(sorted(pair for pair in headers if not is_per_call(pair[0])))
        return id(self.transport), mine, repr(request.extensions.get("timeout"))

    def keep(self, relay: Any, recording: Recording, at_end: bool) -> bool:
        """Whether the answer is one to keep; if it is not though it came to its end, that is
        counted."""
        if relay.head.status != 200:
            return False
        if recording.finish(at_end=at_end):
            return True
        if at_end or recording.fault is not None:
            self.cache.engine.skip(recording.fault or "incomplete", "an answer was not stored: %s")
        return False

    def recording(self, library: HttpLibrary, response: Any) -> Recording:
        headers = response.headers
        return Recording(
            response.status_code,
            headers.multi_items(),
            library.decoder(headers.get("content-encoding", "")),
        )


def _base_url(url: Any, asked_host: str) -> str:
    """Where it goes; and by which name, if the caller has set another, as gateways that tell models
    apart by it are asked."""
    host = url.raw_host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    other = "" if asked_host.encode() in (b"", url.netloc) else f" as {asked_host}"
    return f"{url.scheme}://{host}" + ("" if url.port is None else f":{url.port}") + other


def _body(request: Any) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestNotCacheable("body", "it is compressed")
    try:
        body: bytes = request.content
        return body
    # RequestNotRead, of either library: to read it here would leave nothing to send
    except Exception:  # noqa: BLE001
        raise RequestNotCacheable("body", "it is sent piece by piece") from None


def head_of(response: Any) -> Head:
    return Head(response.status_code, list(response.headers.raw), dict(response.extensions))


def live_headers(head: Head, joined: bool) -> list[tuple[bytes, bytes]]:
    if head.status != 200:  # errors pass as they came
        return head.headers
    ours = MARK.encode()
    return [pair for pair in head.headers if pair[0].lower() != ours] + [
        (ours, b"joined" if joined else b"miss")
    ]


def hit_headers(hit: Hit, mark: str) -> list[tuple[str, str]]:
    return [*hit.value.headers, (MARK, mark), (AGE, str(max(0, int(hit.age))))]


class released:  # reads as a verb: with released(lease) as kept: ...
    """A lease to call, released at the end of the block unless somebody ``hold``s it, who is to
    ``close`` it."""

    def __init__(self, lease: "Lease | None") -> None:
        self._lease = lease
        self._held = False

    def hold(self) -> None:
        self._held = True

    def close(self) -> None:
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._held:
            self.close()
