"""Identity: which settings of a model, a client or a tool are part of a request.

Each setting is one of four kinds:

- *credential*: an API key, a bearer token, a cookie. Never in a key and never stored. Credentials
  are found by exact name, and only where credentials live: among the settings of an object, among
  the arguments of its client, and among headers. A property called ``password`` in a JSON schema
  is not one.
- *transport*: timeouts, retries, proxies, HTTP clients, callbacks, token providers. They decide how
  a call is made and not what it returns, so they are not in the key.
- *identity*: everything else. It is in the key as plain data; a secret-typed value that is not a
  credential is in it as a digest.
- *opaque*: an object without a wire form that may change the answer, such as a local pipeline. No
  key can be made of it, so the call goes uncached unless the user names the object.

Where a rule is in doubt, the setting counts: the price of that is a miss, not a wrong answer.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import PurePath
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple

from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.wire_form import Refused, is_absent, tagged

__all__ = [
    "CREDENTIALS",
    "CREDENTIAL_HEADERS",
    "CREDENTIAL_QUERY",
    "ROUTING_HINTS",
    "TRANSPORT",
    "TRANSPORT_HEADERS",
    "TRANSPORT_HEADER_PREFIXES",
    "Identity",
    "Kind",
    "Opaque",
    "as_sent",
    "describe",
    "endpoint_of",
    "gets_credential",
    "header_kind",
    "is_of_sdk",
    "kind_of",
    "secret_digest",
    "settings_of",
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

_HEADERS: Final = frozenset(
    {"additional_headers", "custom_headers", "default_headers", "extra_headers", "headers"}
)
_CLIENT_ARGUMENTS: Final = frozenset(
    {
        "async_client_kwargs", "client_args", "client_kwargs", "client_options",
        "http_client_kwargs", "sync_client_kwargs",
    }
)  # fmt: skip
"""Settings whose items are settings in their turn."""
_TRANSPORT_LIBRARIES: Final = frozenset(
    {"_thread", "aiohttp", "asyncio", "boto3", "botocore", "concurrent", "httpcore", "httpx"}
    | {"httpx2", "logging", "requests", "ssl", "tenacity", "threading", "urllib3"}
)
_CLIENTS: Final = frozenset(
    {
        "aclient", "api_client", "async_client", "bedrock_client", "client", "root_async_client",
        "root_client", "sync_client",
    }
)  # fmt: skip
"""Names of settings that hold clients. What says where it sends requests is one."""
_SDKS: Final = frozenset(
    {
        "aiobotocore", "anthropic", "azure", "boto3", "botocore", "cerebras", "cohere", "fireworks",
        "google", "groq", "huggingface_hub", "mistralai", "ollama", "openai", "openrouter",
        "perplexity", "together", "vertexai", "xai_sdk",
    }
)  # fmt: skip
"""Packages whose client objects do nothing but send requests."""
_FRAMEWORKS: Final = ("langchain", "llama_index")
_BASES: Final = frozenset({"abc", "builtins", "pydantic", "typing"})
_GETTERS: Final = ("_auth", "_key_provider", "_token_provider", "credentials_provider")
_MODEL_NAMES: Final = frozenset(
    {"model", "model_id", "model_name", "model_path", "repo_id", "tokenizer", "tokenizer_name"}
)
_LOCAL_PATH: Final = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")
_USER_IN_URL: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*@(?=\S*$)")
_MAX_DEPTH: Final = 16
_DROPPED: Final = object()


class Opaque(Exception):
    """An object of which nothing stable can be said. *steps* lead to it, from the inside out."""

    def __init__(self, value: object) -> None:
        super().__init__(type(value).__name__)
        self.type_name = type(value).__name__
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return ".".join(reversed(self.steps))


class Identity(NamedTuple):
    """The *settings* that are part of a request, as data that keys can be made of; *opaque* names
    those of which none can be made, with the type of each."""

    settings: dict[str, Any]
    opaque: Mapping[str, str]

    def require_known(self) -> dict[str, Any]:
        """The settings; RequestNotCacheable if any setting is opaque."""
        for path, type_name in self.opaque.items():
            raise RequestNotCacheable(
                path, f"this {type_name} has no wire form; name it: identity="
            )
        return self.settings


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


Unknown = Callable[[Any], Any]


def _refuse(value: Any) -> Any:
    raise Opaque(value)


def describe(
    settings: Iterable[tuple[str, Any]],
    *,
    transport: Collection[str] = (),
    unknown: Unknown = _refuse,
) -> Identity:
    """What of *settings*, pairs of name and value, is part of a request.

    Args:
        settings: The settings of one object, as ``settings_of`` lists them.
        transport: Further names that are transport where these settings come from.
        unknown: What to do with an object that has no wire form: return plain data that stands for
            it, or raise Opaque.
    """
    reader = _Reader(transport, unknown)
    found: dict[str, Any] = {}
    opaque: dict[str, str] = {}
    clients: dict[str, Any] = {}
    for name, value in settings:
        try:
            plain = reader.setting(name, value, _MAX_DEPTH)
        except Opaque as exc:
            exc.steps.append(name)
            opaque[exc.path] = exc.type_name
            continue
        if plain is not _DROPPED:
            found[name] = plain
        elif _is_client(name, value):
            clients[name] = value
    said: dict[str, str] = {}  # clients of one model mostly say the same
    for name, client in clients.items():
        for setting, text in _settings_of_client(client):
            if said.setdefault(setting, text) != text:
                said[f"{name}.{setting}"] = text
    found.update({f"client.{name}" if name in found else name: said[name] for name in said})
    return Identity(found, opaque)


def kind_of(name: str, value: Any, *, transport: Collection[str] = ()) -> Kind:
    """The kind of the setting *name* with *value*."""
    if _is_credential(_plain_name(name)):
        return "credential"
    try:
        plain = _Reader(transport, _refuse).setting(name, value, _MAX_DEPTH)
    except Opaque:
        return "opaque"
    return "transport" if plain is _DROPPED else "identity"


@lru_cache(maxsize=512)
def header_kind(name: str) -> Kind:
    """The kind of the header *name*; never opaque."""
    name = name.lower()
    if name in CREDENTIAL_HEADERS:
        return "credential"
    if name in TRANSPORT_HEADERS or name.startswith(TRANSPORT_HEADER_PREFIXES):
        return "transport"
    return "identity"


def gets_credential(name: str, value: Any) -> bool:
    """Whether the setting *name* gets a credential when a request is sent: it is a function that
    returns one, or it is what an HTTP client changes its requests by."""
    name = _plain_name(name)
    if name == "event_hooks":
        return isinstance(value, Mapping) and bool(value.get("request"))
    if name == "auth" and value is not None and _library(type(value)) in _TRANSPORT_LIBRARIES:
        return type(value).__name__ != "BasicAuth"
    named = _is_credential(name) or name == "security" or name.endswith(_GETTERS)
    return named and callable(value) and not isinstance(value, type)


@lru_cache(maxsize=512)
def _is_known(kind: Any) -> bool:
    roots = {_library(base) for base in kind.__mro__} - _BASES - _TRANSPORT_LIBRARIES
    return roots <= _SDKS or all(root.startswith(_FRAMEWORKS) for root in roots)


def is_of_sdk(owner: Any) -> bool:
    """Whether *owner* is wholly of a known SDK or framework: a client, a resource of one, or a
    chat model; not of a class that a program has derived from one."""
    kind: Any = type(owner)
    if not _is_known(kind):
        return False
    client = _attribute(owner, "_client")
    kind = type(client)
    return client is None or _is_known(kind)


def settings_of(obj: Any) -> Iterator[tuple[str, Any]]:
    """The name and value of all state of *obj*, a pydantic model or another object with attributes:
    fields, extra fields and private attributes, but not cached properties, which follow from the
    rest."""
    cls = type(obj)
    for holder in ("__dict__", "__pydantic_extra__", "__pydantic_private__"):
        for name, value in dict(getattr(obj, holder, None) or {}).items():
            if not isinstance(getattr(cls, name, None), cached_property):
                yield name, value


def secret_digest(text: str | bytes) -> str:
    """The digest of a secret in a request."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return "sha256:" + sha256(data).hexdigest()[:32]


def endpoint_of(client: Any) -> str | None:
    """The URL that *client*, an SDK's client or one of its resources, sends requests to; None if it
    does not say."""
    inner = _attribute(client, "_client")
    for holder, name in (
        (client, "base_url"),
        (inner, "base_url"),
        (_attribute(inner, "_client"), "base_url"),
        (_attribute(client, "meta"), "endpoint_url"),
        (_attribute(client, "_client_wrapper"), "_base_url"),
        (_attribute(client, "sdk_configuration"), "server_url"),
        (_attribute(_attribute(client, "_api_client"), "_http_options"), "base_url"),
    ):
        url = _attribute(holder, name)
        if isinstance(url, str) or type(url).__name__ == "URL":
            return _without_user(str(url))
    return None


def _settings_of_client(client: Any) -> Iterator[tuple[str, str]]:
    """What an SDK's client may have read from the environment, and sends."""
    url = endpoint_of(client)
    if url is not None:
        yield "base_url", url
    for holder in (client, _attribute(client, "_client")):
        for name in ("organization", "project"):
            value = _attribute(holder, name)
            if isinstance(value, str):
                yield name, value


class _Reader:
    """Reads settings, level by level, into plain data."""

    def __init__(self, transport: Collection[str], unknown: Unknown) -> None:
        self._transport = transport
        self._unknown = unknown

    def setting(self, name: str, value: Any, depth: int) -> Any:
        """*value* as plain data; _DROPPED if it is no part of a request. Raises Opaque."""
        plain = _plain_name(name)
        if value is None or is_absent(type(value)) or _is_credential(plain) or plain in TRANSPORT:
            return _DROPPED
        if plain in self._transport or name in self._transport or plain.endswith("_proxy"):
            return _DROPPED
        if _is_transport(value) or _is_client(plain, value):
            return _DROPPED
        if isinstance(value, Mapping):
            if plain in _HEADERS:
                return _headers(value) or _DROPPED
            if plain in _CLIENT_ARGUMENTS:
                return self._settings(value.items(), depth)
        if plain in _MODEL_NAMES and _is_local(value):  # other files may stand there tomorrow
            raise Opaque(value)
        return self.value(value, depth)

    def value(self, value: Any, depth: int) -> Any:
        """*value* as plain data; raises Opaque."""
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return _without_user(str.__str__(value))
        if hasattr(value, "get_secret_value"):
            return _secret(value)
        if depth == 0:
            raise Opaque(value)
        if isinstance(value, Mapping):
            return {name: self._item(str(name), item, depth) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._item(f"[{i}]", item, depth) for i, item in enumerate(value)]
        if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
            return sorted(value)
        return self._object(value, depth)

    def _item(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, str) and value and _is_credential(_plain_name(name)):
            return secret_digest(value)  # it may tell two requests apart, and must not be stored
        try:
            return self.value(value, depth - 1)
        except Opaque as exc:
            exc.steps.append(name)
            raise

    def _settings(self, settings: Iterable[tuple[str, Any]], depth: int) -> dict[str, Any]:
        found = {}
        for name, item in settings:
            try:
                plain = self.setting(str(name), item, depth - 1)
            except Opaque as exc:
                exc.steps.append(str(name))
                raise
            if plain is not _DROPPED:
                found[name] = plain
        return found

    def _object(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, PurePath) or kind.__name__ in ("URL", "AnyUrl", "HttpUrl"):
            return _without_user(str(value))
        try:
            if tagged(value, kind) is not None:  # a date, bytes, a model class: the key has a form
                return value
        except Refused:
            raise Opaque(value) from None
        if isinstance(value, type) or not _has_state(kind):
            return self._unknown(value)
        name = f"{kind.__module__}:{kind.__qualname__}"
        return {"class": name, **self._settings(settings_of(value), depth)}


def _is_local(model: Any) -> bool:
    return isinstance(model, (str, PurePath)) and _LOCAL_PATH.match(str(model)) is not None


def _has_state(kind: type) -> bool:
    """Whether the objects of *kind* are their fields: pydantic models and dataclasses."""
    return hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__dataclass_fields__")


def _headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Those that may change an answer, by lower-case name. Any of them may be a secret under a name
    of the user's own, so there is a digest in place of the value."""
    return {
        name.lower(): secret_digest(_header_text(value))
        for name, value in sorted((str(name), value) for name, value in headers.items())
        if header_kind(name) == "identity" and value is not None and not is_absent(type(value))
    }


def _header_text(value: Any) -> str | bytes:
    if isinstance(value, (str, bytes)):
        return value
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()  # type: ignore[no-any-return]  # a str or bytes
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise Opaque(value)


def _secret(value: Any) -> str:
    text = value.get_secret_value()
    if not isinstance(text, (str, bytes)):
        raise Opaque(value)
    return secret_digest(text)


def _is_credential(name: str) -> bool:
    return name in CREDENTIALS or any(name.endswith(f"_{tail}") for tail in _OF_A_PROVIDER)


def _is_sdk_client(value: Any) -> bool:
    """Whether *value* is a client, or a resource of one, of a known SDK."""
    kind = type(value)
    if _library(kind) not in _SDKS or _has_state(kind) or isinstance(value, (type, Enum)):
        return False
    named = "Client" in kind.__name__ or hasattr(value, "sdk_configuration")
    return named or endpoint_of(value) is not None


def _is_client(name: str, value: Any) -> bool:
    if isinstance(value, (str, int, float, Mapping, list, tuple)):
        return False
    named = _plain_name(name) in _CLIENTS and endpoint_of(value) is not None
    return named or _is_sdk_client(value)


def _is_transport(value: Any) -> bool:
    """Whether *value* is an object of how calls are made, by the library that it is from."""
    kind = type(value)
    library = _library(kind)
    return (
        isinstance(value, ModuleType)
        or (library in _TRANSPORT_LIBRARIES and kind.__name__ not in ("URL", "Headers"))
        or _is_sdk_client(value)
    )


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _plain_name(name: str) -> str:
    return name.lstrip("_").replace("-", "_").lower()


def _without_user(text: str) -> str:
    return _USER_IN_URL.sub(r"\1", text) if "@" in text else text


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001  # a property of a foreign class
        return None
