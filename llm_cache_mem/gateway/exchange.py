"""A request that reached the gateway, as an exchange of the HTTP layer."""

from typing import Any, NamedTuple

from llm_cache_mem.errors import LLMCacheError, RequestNotCacheable
from llm_cache_mem.gateway.asgi import Body
from llm_cache_mem.gateway.config import Upstream
from llm_cache_mem.gateway.upstream import Client, UpstreamError
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.exchange import Live, Wire, base_url_of

__all__ = ["Answer", "GatewayExchange"]


class Answer(NamedTuple):
    """What to send to the client: a head, and a source that iterates over bytes and has
    ``aclose``."""

    head: Head
    source: Any


class GatewayExchange:
    """One request on its way to *upstream*. *path* and *query* are those of the upstream, as on the
    wire; *headers* are the client's from end to end."""

    lane = "gateway"

    def __init__(
        self,
        client: Client,
        upstream: Upstream,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[str, str]],
        body: Body,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._method = method
        self._path = path
        self._query = query
        self._headers = headers
        self.body = body

    def wire(self) -> Wire:
        up = self._upstream
        return Wire(
            method=self._method,
            host=up.host,
            base_url=base_url_of(up.scheme, up.host, up.port),
            path=self._path,
            query=self._query,
            headers=self._headers,
            content_type=_value(self._headers, "content-type"),
            body=self._plain_body,
            timeout=None,
            connection=up.origin,
        )

    def _plain_body(self) -> bytes:
        encoding = _value(self._headers, "content-encoding")
        if encoding.strip().lower() not in ("", "identity"):
            raise RequestNotCacheable("body", "it is compressed")
        return self.body.start

    async def untouched(self) -> Answer:
        live = await self._send(self._headers)
        return Answer(live.head, live.source)

    async def send(self) -> Live:
        # Callers that accept other encodings may share the answer.
        plain = [pair for pair in self._headers if pair[0].lower() != "accept-encoding"]
        return await self._send([*plain, ("accept-encoding", "identity")])

    async def _send(self, headers: list[tuple[str, str]]) -> Live:
        target = self._path + (f"?{self._query}" if self._query else "")
        body = self.body.start if self.body.is_whole else self.body.stream()
        return await self._client.send(self._upstream, self._method, target, headers, body or None)

    def respond(self, head: Head, source: Any) -> Answer:
        return Answer(head, source)

    def fail(self, error: LLMCacheError) -> Answer:
        raise error

    def lost(self) -> Exception:
        return UpstreamError(f"{self._upstream.name}: the shared call was interrupted; try again")

    def timed_out(self, text: str) -> Exception:
        return UpstreamError(f"{self._upstream.name}: {text}")


def _value(headers: list[tuple[str, str]], wanted: str) -> str:
    return next((value for name, value in headers if name.lower() == wanted), "")
