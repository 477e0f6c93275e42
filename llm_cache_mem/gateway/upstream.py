"""Send requests on to a provider, and stream its answers back, in constant memory."""

from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.request import getproxies, proxy_bypass

from llm_cache_mem.gateway.config import Upstream
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.decoding import inflated
from llm_cache_mem.http.exchange import Live

try:
    import aiohttp
    from yarl import URL
except ModuleNotFoundError as exc:
    if exc.name not in ("aiohttp", "yarl"):  # installed but broken: let that error speak
        raise
    raise ImportError(
        "the gateway needs aiohttp: pip install 'llm-cache-mem[gateway]'", name="aiohttp"
    ) from None

__all__ = ["Client", "UpstreamError", "end_to_end"]

_CONNECT_SECONDS: Final = 30.0
# Headers of one connection, which a gateway does not pass on (RFC 9110, section 7.6.1).
_HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class UpstreamError(Exception):
    """The provider could not be reached, or broke off its answer."""


class Client:
    """Connections to providers. Made and used inside one event loop."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def send(
        self,
        upstream: Upstream,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: "bytes | AsyncIterator[bytes] | None",
    ) -> Live:
        """The answer of *upstream*, whose body is still to be read. UpstreamError if there is none.

        *target* is path and query as on the wire, *headers* those of the request from end to end.
        """
        proxy = _proxy_of(upstream.scheme, upstream.host)
        try:
            response = await self._session.request(
                method,
                URL(upstream.origin + target, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=proxy.url,
                proxy_auth=proxy.auth,
            )
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise UpstreamError(f"{upstream.name}: {_reason(exc)}") from None
        raw = [
            (name, value)
            for name, value in response.raw_headers
            if name.decode("latin-1").lower() not in _HOP_BY_HOP
        ]
        decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
        encoding = response.headers.get("content-encoding", "")
        return Live(
            Head(response.status, raw, {}),
            decoded,
            _Source(upstream.name, response),
            _decoder(encoding.strip().lower()),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


class _Source:
    """The body of an answer, as it comes."""

    def __init__(self, name: str, response: Any) -> None:
        self._name = name
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamError(f"{self._name}: {_reason(exc)}") from None

    async def aclose(self) -> None:
        self._response.close()


class _Proxy(NamedTuple):
    url: URL | None = None
    auth: aiohttp.BasicAuth | None = None


@lru_cache(maxsize=64)
def _proxy_of(scheme: str, host: str) -> _Proxy:
    """The proxy that the environment names for *host*.

    aiohttp's ``trust_env`` would read it in a thread for each request, and send the credentials of
    a netrc file too.
    """
    named = getproxies().get(scheme)
    if not named or proxy_bypass(host):
        return _Proxy()
    url = URL(named if "://" in named else f"http://{named}")
    auth = None if url.user is None else aiohttp.BasicAuth(url.user, url.password or "")
    return _Proxy(url.with_user(None), auth)


def end_to_end(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of *headers* that a gateway passes on."""
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }
    dropped = _HOP_BY_HOP | named | {"host", "content-length", "expect"}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _reason(exc: Exception) -> str:
    """What went wrong, without a URL, in which a credential may be."""
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"cannot connect ({type(exc.os_error).__name__})"
    return f"the connection failed ({type(exc).__name__})"


def _decoder(encoding: str) -> Callable[[bytes], bytes]:
    """What undoes *encoding*; it raises where the encoding is unknown here."""

    def decompress(body: bytes) -> bytes:
        if encoding in ("", "identity"):
            return body
        if encoding in ("gzip", "x-gzip", "deflate"):
            return inflated(body, 15 if encoding == "deflate" else 47)
        raise ValueError("the content encoding is unknown here")

    return decompress
