"""Names: which settings, headers and fields of a URL hold credentials, and which say how a call is
made. The lists are exact; a name that is in none of them is part of a request."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal

__all__ = [
    "CREDENTIALS",
    "CREDENTIAL_HEADERS",
    "CREDENTIAL_QUERY",
    "ROUTING_HINTS",
    "TRANSPORT",
    "TRANSPORT_HEADERS",
    "TRANSPORT_HEADER_PREFIXES",
    "WORDS",
    "Kind",
    "as_sent",
    "header_kind",
    "is_credential",
    "plain_name",
]

Kind = Literal["credential", "transport", "identity", "opaque"]

_OF_A_PROVIDER: Final = frozenset(
    {
        "access_key_id", "access_token", "ad_token", "api_key", "api_secret", "api_token",
        "auth_token", "bearer_token", "client_secret", "secret_access_key", "session_token",
        "subscription_key",
    }
)  # fmt: skip
"""Credentials whose names often begin with that of a provider: ``openai_api_key``."""

CREDENTIALS: Final = _OF_A_PROVIDER | frozenset(
    {
        "api_keys", "apikey", "auth", "authorization", "authorization_token", "cookie", "cookies",
        "credential", "credentials", "credentials_profile_name", "hf_token", "password",
        "private_key", "secret", "secret_key", "service_account", "service_account_key", "token",
        "username",
    }
)  # fmt: skip
"""Names of settings and client arguments that hold credentials."""

WORDS: Final = frozenset({"auth", "cookie", "secret", "token", "username"})
"""Those CREDENTIALS that may be anything else in the data of a program, such as a game's secret."""

TRANSPORT: Final = frozenset(
    {
        # how long to wait and how often to try
        "connect_timeout", "default_request_timeout", "max_retries", "num_retries", "read_timeout",
        "request_timeout", "retries", "retry", "retry_config", "stream_chunk_timeout",
        "stream_timeout", "timeout", "timeout_seconds",
        # how bytes travel
        "async_http_client", "cert", "client_cleanup", "event_hooks", "follow_redirects",
        "get_asession_fn", "get_session_fn", "http_async_client", "http_client",
        "http_socket_options", "limits", "mounts", "proxies", "proxy", "proxy_url", "reuse_client",
        "ssl_context", "ssl_verify", "transport", "trust_env", "user_agent", "verify",
        # where credentials come from
        "api_key_provider", "azure_ad_async_token_provider", "azure_ad_token_provider",
        "credentials_provider", "token_provider",
        # what watches the call, and how many run at once
        "cache", "callback_manager", "callbacks", "keep_alive", "max_concurrency",
        "max_concurrent_requests", "rate_limiter", "request_parallelism", "verbose",
    }
)  # fmt: skip
"""Names of settings of how a call is made; so is any name that ends in ``_proxy``."""

CREDENTIAL_HEADERS: Final = frozenset(
    {
        "api-key", "authorization", "cookie", "helicone-auth", "ocp-apim-subscription-key",
        "proxy-authorization", "x-amz-security-token", "x-api-key", "x-auth-token",
        "x-goog-api-key", "x-portkey-api-key",
    }
)  # fmt: skip
"""Headers that hold credentials, in lower case."""

CREDENTIAL_QUERY: Final = frozenset(
    {
        "access_token", "api-key", "api_key", "apikey", "auth", "auth_token", "bearer",
        "client_secret", "code", "jwt", "key", "password", "secret", "sig", "signature",
        "subscription-key", "token", "x-amz-algorithm", "x-amz-credential", "x-amz-date",
        "x-amz-expires", "x-amz-security-token", "x-amz-signature", "x-amz-signedheaders",
    }
)  # fmt: skip
"""Fields of a URL's query that hold credentials or sign the URL, in lower case."""

TRANSPORT_HEADERS: Final = frozenset(
    {
        # how bytes travel
        "accept-encoding", "accept-language", "cache-control", "connection", "content-length",
        "content-type", "date", "expect", "forwarded", "host", "http-referer", "keep-alive",
        "origin", "originator", "pragma", "priority", "proxy-connection", "referer", "te",
        "trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-amz-user-agent",
        "x-title",
        # what is new for each call
        "b3", "baggage", "idempotency-key", "newrelic", "request-id", "sentry-trace", "traceparent",
        "tracestate", "uber-trace-id", "x-amz-content-sha256", "x-amz-date", "x-amzn-trace-id",
        "x-claude-code-session-id", "x-client-request-id", "x-cloud-trace-context",
        "x-correlation-id",
        "x-goog-api-client", "x-idempotency-key", "x-ms-client-request-id", "x-request-id",
        "x-request-timeout", "x-retry-count", "x-trace-id",
    }
)  # fmt: skip
"""Headers of how a request travels or is traced, in lower case."""

TRANSPORT_HEADER_PREFIXES: Final = (
    "amz-sdk-", "cf-", "sec-", "x-b3-", "x-datadog-", "x-dynatrace", "x-fern-", "x-forwarded-",
    "x-instana-", "x-langsmith-", "x-stainless-",
)  # fmt: skip
"""Beginnings of the names of further transport headers."""

ROUTING_HINTS: Final = frozenset(
    {
        "client_request_id", "idempotency_key", "prompt_cache_key", "prompt_cache_retention",
        "safety_identifier",
    }
)  # fmt: skip
"""Fields of a provider's request that only route it or bill it. They are left out of the key in
recognized provider requests, never for functions."""


def as_sent(params: Mapping[str, Any], *, streams: bool = False) -> Mapping[str, Any]:
    """The *params* of a request to a provider without those that do not say what is asked: routing
    hints, and ``stream`` if it is false, which is the same as none except where a provider
    *streams* unless it is told not to."""
    told = params.get("stream") is False and not streams
    if not told and ROUTING_HINTS.isdisjoint(params):
        return params
    return {
        name: value
        for name, value in params.items()
        if name not in ROUTING_HINTS and not (told and name == "stream")
    }


@lru_cache(maxsize=512)
def header_kind(name: str) -> Kind:
    """The kind of the header *name*; never opaque."""
    name = name.lower()
    if name in CREDENTIAL_HEADERS:
        return "credential"
    if name in TRANSPORT_HEADERS or name.startswith(TRANSPORT_HEADER_PREFIXES):
        return "transport"
    return "identity"


def is_credential(name: str) -> bool:
    return name in CREDENTIALS or any(name.endswith(f"_{tail}") for tail in _OF_A_PROVIDER)


def plain_name(name: str) -> str:
    return name.lstrip("_").replace("-", "_").lower()
