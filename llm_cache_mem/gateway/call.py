"""What the headers of a request ask of the gateway itself: options of the call, and its token."""

import hmac
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

from llm_cache_mem._util.strict_json import parse
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.gateway.config import LOOPBACK, GatewayConfig
from llm_cache_mem.gateway.credentials import is_signed, namespace_of
from llm_cache_mem.gateway.upstream import end_to_end
from llm_cache_mem.http.headers import credentials_of
from llm_cache_mem.options import options

__all__ = [
    "TOKEN",
    "CallRefused",
    "Caller",
    "RawHeaders",
    "caller_of",
    "is_rebound",
    "is_token",
    "without_port",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

_PREFIX: Final = "x-llm-cache-"
TOKEN: Final = "x-llm-cache-token"
_NAMESPACE: Final = "x-llm-cache-namespace"


class CallRefused(LLMCacheError):
    """The gateway does not make this call; *status* is that of its answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Caller(NamedTuple):
    """Who asks: the headers for the provider (*passed*, from end to end), the *options* that hold
    for the call, and whether its credential is a signature, which stands for no caller
    (*is_signed*). Shared by requests with equal headers: not to be changed."""

    passed: list[tuple[str, str]]
    content_type: str
    encoding: str
    options: options
    is_signed: bool


def caller_of(
    config: GatewayConfig, key: bytes, raw: RawHeaders, query: str, address: str | None
) -> Caller:
    """The caller at *address* with these headers, whose names are in lower case, as ASGI has them.

    *key* is that of credential namespaces. CallRefused for headers that cannot be followed.
    """
    headers = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in raw]
    own = _own(raw)
    passed = end_to_end([pair for pair in headers if not pair[0].startswith(_PREFIX)])
    if is_rebound(config, _value(headers, "host")):
        raise CallRefused(
            403, "this gateway is not called by that host name: name it as one of page_hosts"
        )
    if not is_token(config, own.pop(TOKEN, "")):
        raise CallRefused(401, f"this gateway needs its token in the header {TOKEN}")
    if _value(headers, "upgrade").lower() == "websocket":
        raise CallRefused(
            501, "websockets do not pass this gateway; connect to the provider itself"
        )
    asked: dict[str, Any] = {}
    signed = False
    if config.share == "credential":
        asked["namespace"] = namespace_of(tuple(credentials_of(passed, query)), key)
        signed = is_signed(passed)
    if (namespace := own.pop(_NAMESPACE, None)) is not None:
        if not _is_trusted(config, address):
            raise CallRefused(
                403, f"{_NAMESPACE} is accepted only from networks that --trust names"
            )
        asked["namespace"] = namespace
    kind = _value(passed, "content-type")
    encoding = _value(passed, "content-encoding").strip().lower()
    return Caller(passed, kind, encoding, _options(own, asked), signed)


def _own(raw: RawHeaders) -> dict[str, str]:
    """The headers for the gateway itself. One that is sent several times is one list."""
    found: dict[str, str] = {}
    for name, value in raw:
        header = name.decode("latin-1")
        if header.startswith(_PREFIX):
            text = _decoded(value).strip()
            found[header] = f"{found[header]}, {text}" if found.get(header) else text
    return found


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def is_rebound(config: GatewayConfig, host: str) -> bool:
    """Whether a Host header names a gateway that needs no token by a name that a web page may have
    pointed at this machine (DNS rebinding): any but loopback's, an address, or page_hosts."""
    name = without_port(host).lower().strip("[]")
    if config.token or not name or name in (*LOOPBACK, *map(str.lower, config.page_hosts)):
        return False
    try:
        ip_address(name)
    except ValueError:
        return not config.i_know
    return False


def _value(headers: list[tuple[str, str]], wanted: str) -> str:
    return next((text for name, text in headers if name == wanted), "")


def without_port(host: str) -> str:
    """The name or address in a Host header."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def is_token(config: GatewayConfig, given: str) -> bool:
    """Whether *given* is the token of *config*, or it has none."""
    return not config.token or hmac.compare_digest(config.token.encode(), given.encode())


def _options(own: Mapping[str, str], asked: dict[str, Any]) -> options:
    """The options that the headers of the call name, with those *asked* for already."""
    for header in own:
        if header not in _OPTIONS:
            known = ", ".join(sorted([*_OPTIONS, _NAMESPACE, TOKEN]))
            raise CallRefused(400, f"no header is called {header[:60]}; known are {known}")
    try:
        for header, text in own.items():
            name, read = _OPTIONS[header]
            asked[name] = read(text)
        return options(**asked)
    except (TypeError, ValueError) as exc:
        raise CallRefused(400, f"{_PREFIX}*: {exc}") from None


def _is_trusted(config: GatewayConfig, address: str | None) -> bool:
    try:
        client = ip_address(address or "")
    except ValueError:
        return False
    return any(client in ip_network(network, strict=False) for network in config.trust)


def _seconds(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # options says what is wrong with it


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text


def _pairs(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if not separator:
            raise ValueError(f"tags are NAME=VALUE, with commas between them, not {part[:32]!r}")
        found[name.strip()] = value.strip()
    return found


def _names(text: str) -> Any:
    """The names with commas between them, or in a JSON list, where they may have commas."""
    if text.startswith("["):
        return parse(text.encode())
    return [name.strip() for name in text.split(",") if name.strip()]


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "x-llm-cache-mode": ("mode", str),
    "x-llm-cache-ttl": ("ttl_seconds", _seconds),
    "x-llm-cache-sample": ("sample", _whole),
    "x-llm-cache-tags": ("tags", _pairs),
    "x-llm-cache-depends-on": ("depends_on", _names),
}
"""The headers of a call that are options of it, with what reads their text."""
