"""A request that reached the gateway, as an exchange of the HTTP layer."""

from typing import Any, Final, NamedTuple

from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.gateway.asgi import Body
from llm_cache_mem.gateway.call import Caller
from llm_cache_mem.gateway.config import Upstream
from llm_cache_mem.gateway.upstream import Client, UpstreamError
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.exchange import Live, Wire

__all__ = ["Answer", "GatewayExchange"]

_ACCEPTED: Final = "accept-encoding"
_PLAIN: Final = (_ACCEPTED, "identity")


class Answer(NamedTuple):
    """What to send to the client: a head, and a source that iterates over bytes and has
    ``aclose``."""

    head: Head
    source: Any


class GatewayExchange:
    """One request of *caller* on its way to *upstream*. *path* and *query* are those of the
    upstream, as on the wire; *length* is the client's Content-Length."""

    lane = "gateway"

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        method: str,
        path: str,
        query: str,
        caller: Caller,
        length: str,
        body: Body,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._method = method
        self._path = path
        self._query = query
        self._caller = caller
        self._length = length
        self.body = body

    def wire(self) -> Wire:
        upstream = self._upstream
        return Wire(
            method=self._method,
            host=upstream.host,
            base_url=upstream.origin,
            path=self._path,
            query=self._query,
            headers=self._caller.passed,
            content_type=self._caller.content_type,
            body=self._plain_body,
            timeout=None,
            connection=upstream.origin,
        )

    def _plain_body(self) -> bytes:
        if self._caller.encoding not in ("", "identity"):
            raise RequestNotCacheable("body", "it is compressed")
        return self.body.start

    async def untouched(self) -> Answer:
        live = await self._send(self._caller.passed)
        return Answer(live.head, live.source)

    async def send(self) -> Live:
        # Callers that accept other encodings may share the answer.
        passed = self._caller.passed
        return await self._send([*(pair for pair in passed if pair[0] != _ACCEPTED), _PLAIN])

    async def _send(self, headers: list[tuple[str, str]]) -> Live:
        target = self._path + (f"?{self._query}" if self._query else "")
        if self.body.is_whole:
            body: Any = self.body.start or None
        else:
            body = self.body.stream()
            if self._length:
                headers = [*headers, ("content-length", self._length)]
        return await self._client.send(self._upstream, self._method, target, headers, body)

    def with_body(self, body: bytes) -> "GatewayExchange":
        where = (self._client, self._upstream, self._method, self._path, self._query)
        return GatewayExchange(*where, self._caller, "", Body(body, None))

    def respond(self, head: Head, source: Any) -> Answer:
        return Answer(head, source)

    def fail(self, error: LLMCacheError) -> Answer:
        raise error

    def lost(self) -> Exception:
        return UpstreamError(f"{self._upstream.name}: the shared call was interrupted; try again")

    def timed_out(self, text: str) -> Exception:
        return UpstreamError(f"{self._upstream.name}: {text}")
