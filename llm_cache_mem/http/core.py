"""The part that both cache transports share: what to do before a request is sent and after."""

import threading
from collections.abc import Callable, Hashable
from hashlib import sha256
from typing import Any

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.calls import Hit
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.http import request as requests
from llm_cache_mem.http.answer import Head, Recording
from llm_cache_mem.http.headers import AGE, MARK, credentials_of
from llm_cache_mem.http.library import HttpLibrary
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import current

__all__ = ["TransportCore", "head_of", "hit_headers", "live_headers"]

_KIND = "http"


class TransportCore:
    """A cache and the transport under it. Thread-safe."""

    def __init__(self, cache: LLMCache, transport: Any) -> None:
        if not isinstance(cache, LLMCache):
            raise TypeError(f"a cache transport takes an LLMCache, not {type(cache).__name__}")
        self.cache = cache
        self.engine = cache.engine
        self.transport = transport
        self._making = threading.Lock()

    def transport_of(self, make: Callable[[], Any]) -> Any:
        """The transport underneath, made with *make* at the first request if none was given."""
        if self.transport is None:
            with self._making:
                if self.transport is None:
                    self.transport = make()
        return self.transport

    def cacheable(self, http_request: Any) -> Request | None:
        """The request with its key, or None to pass it on untouched.

        Raises LLMCacheError in mode ``replay``, where nothing may be passed on.
        """
        url, headers = http_request.url, http_request.headers
        path, _, query = url.raw_path.decode("ascii", "replace").partition("?")
        method = http_request.method
        if self.engine.is_off:
            return None
        if not requests.is_generation(method, path, headers.get("content-type", "")):
            if self.engine.is_replay:
                raise RequestNotCacheable(
                    f"{method} {path}",
                    "in mode replay nothing is sent, and only generation requests are stored",
                )
            return None
        try:
            read = requests.read(
                _base_url(url, headers.get("host", "")),
                path,
                query,
                headers.multi_items(),
                _body(http_request),
            )
            if read.state is not None and not current().stateful:
                self._skip_stateful(read.state)
                return None
            return self.engine.request(read.messages, read.params, kind=_KIND)
        except RequestNotCacheable as exc:
            if self.engine.is_replay:
                raise
            self.engine.skip("request", "a call goes uncached: %s", exc)
            return None

    def _skip_stateful(self, field: str) -> None:
        """Count a request as skipped whose answer depends on what the provider holds."""
        why = "it names what the provider holds; options(stateful=True) caches it all the same"
        if self.engine.is_replay:
            raise RequestNotCacheable(field, why)
        self.engine.skip("stateful", "a call goes uncached because of %s: %s", field, why)

    def circumstances(self, http_request: Any) -> Hashable:
        """A digest of what outside the key can make *http_request* fail: credentials, timeout,
        transport."""
        query = http_request.url.query.decode("ascii", "replace")
        credentials = credentials_of(http_request.headers.multi_items(), query)
        facts = (id(self.transport), credentials, http_request.extensions.get("timeout"))
        return sha256(repr(facts).encode("utf-8", "surrogatepass")).digest()

    def timeout(self, http_request: Any) -> float | None:
        """The seconds after which the caller gives *http_request* up; None for never."""
        timeouts = http_request.extensions.get("timeout") or {}
        return timeout_of({"timeout": timeouts.get("read")})

    def should_store(self, recording: Recording, at_end: bool) -> bool:
        """Whether the response is whole; if not although it was read to its end, count it as
        skipped."""
        if recording.whole or recording.status != 200:
            return recording.whole
        if at_end or recording.fault is not None:
            self.engine.skip(recording.fault or "incomplete", "an answer was not stored: %s")
        return False

    def recording(self, library: HttpLibrary, response: Any) -> Recording:
        """A recording of *response*, still empty."""
        headers = response.headers
        return Recording(
            response.status_code,
            headers.multi_items(),
            library.decoder(headers.get("content-encoding", "")),
        )


def _base_url(url: Any, asked_host: str) -> str:
    """The server's URL, and the Host header where it names another: gateways tell models apart by
    it."""
    host = url.raw_host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    other = "" if asked_host.encode() in (b"", url.netloc) else f" as {asked_host}"
    return f"{url.scheme}://{host}" + ("" if url.port is None else f":{url.port}") + other


def _body(http_request: Any) -> bytes:
    if http_request.headers.get("content-encoding", "identity") != "identity":
        raise RequestNotCacheable("body", "it is compressed")
    try:
        body: bytes = http_request.content
        return body
    # RequestNotRead, of either library: reading it here would leave nothing to send
    except Exception:  # noqa: BLE001
        raise RequestNotCacheable("body", "it is sent piece by piece") from None


def head_of(response: Any) -> Head:
    """Status, headers and extensions of *response*."""
    return Head(response.status_code, list(response.headers.raw), dict(response.extensions))


def live_headers(head: Head, coalesced: bool) -> list[tuple[bytes, bytes]]:
    """The headers of a response from the provider, marked; an error's as they came."""
    if head.status != 200:
        return head.headers
    ours = MARK.encode()
    return [pair for pair in head.headers if pair[0].lower() != ours] + [
        (ours, b"coalesced" if coalesced else b"miss")
    ]


def hit_headers(hit: Hit, mark: str) -> list[tuple[str, str]]:
    """The headers of a stored response: its own, *mark* and its age."""
    return [*hit.value.headers, (MARK, mark), (AGE, str(max(0, int(hit.age))))]
