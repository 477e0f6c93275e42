"""What the headers of a request ask of the gateway itself: options of the call, and its token."""

import hmac
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.gateway.config import GatewayConfig
from llm_cache_mem.gateway.credentials import is_signed, namespace_of
from llm_cache_mem.gateway.upstream import end_to_end
from llm_cache_mem.http.headers import credentials_of
from llm_cache_mem.options import options

__all__ = ["TOKEN", "CallRefused", "Caller", "caller_of", "is_token", "options_of"]

PREFIX: Final = "x-llm-cache-"
TOKEN: Final = "x-llm-cache-token"
_NAMESPACE: Final = "x-llm-cache-namespace"


class CallRefused(LLMCacheError):
    """The gateway does not make this call; *status* is that of its answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Caller(NamedTuple):
    """Who asks: the *own* headers for the gateway, those for the provider (*passed*, from end to
    end), and the *credentials* among these. Shared by requests with equal headers: not to be
    changed."""

    own: Mapping[str, str]
    passed: list[tuple[str, str]]
    credentials: tuple[tuple[str, str], ...]
    content_type: str


@lru_cache(maxsize=512)
def caller_of(raw: tuple[tuple[bytes, bytes], ...]) -> Caller:
    """The caller with these headers, whose names are in lower case, as ASGI has them."""
    headers = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in raw]
    own = {name: text for name, text in headers if name.startswith(PREFIX)}
    passed = end_to_end([pair for pair in headers if not pair[0].startswith(PREFIX)])
    kind = next((text for name, text in passed if name == "content-type"), "")
    return Caller(own, passed, tuple(credentials_of(passed, "")), kind)


def is_token(config: GatewayConfig, given: str) -> bool:
    """Whether *given* is the token of *config*, or it has none."""
    return not config.token or hmac.compare_digest(config.token.encode(), given.encode())


def options_of(
    config: GatewayConfig, key: bytes, caller: Caller, query: str, address: str | None
) -> options:
    """The options that hold for a call of *caller* from *address*. CallRefused for headers that
    cannot be followed."""
    if not is_token(config, caller.own.get(TOKEN, "")):
        raise CallRefused(401, f"this gateway needs its token in the header {TOKEN}")
    asked: dict[str, Any] = {}
    for header, name, read in (
        ("mode", "mode", str),
        ("ttl", "ttl_seconds", _ttl),
        ("sample", "sample", _whole),
    ):
        if (text := caller.own.get(PREFIX + header)) is not None:
            asked[name] = read(text.strip())
    if config.share == "credential":
        found = tuple(credentials_of(caller.passed, query)) if query else caller.credentials
        asked["namespace"] = namespace_of(found, key)
        if is_signed(caller.passed):  # no two requests have the same signature
            asked["mode"] = "off"
    if (namespace := caller.own.get(_NAMESPACE)) is not None:
        if not _is_trusted(config, address):
            raise CallRefused(
                403, f"{_NAMESPACE} is accepted only from networks that --trust names"
            )
        asked["namespace"] = namespace
    try:
        return options(**asked)
    except (TypeError, ValueError) as exc:
        raise CallRefused(400, f"{PREFIX}*: {exc}") from None


def _is_trusted(config: GatewayConfig, address: str | None) -> bool:
    try:
        client = ip_address(address or "")
    except ValueError:
        return False
    return any(client in ip_network(network, strict=False) for network in config.trust)


def _ttl(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # options says what is wrong with it


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
