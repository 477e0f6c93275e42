"""Clients: the objects of SDKs and HTTP libraries that send requests, told by where they are from
and by their URLs."""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

from llm_cache_mem.keys.names import is_credential, plain_name

__all__ = [
    "added_by_client",
    "endpoint_of",
    "gets_credential",
    "has_state",
    "is_client",
    "is_http_client",
    "is_of_program",
    "is_of_sdk",
    "is_transport",
    "settings_of_client",
    "without_user",
]

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
_HTTP_LIBRARIES: Final = frozenset({"aiohttp", "httpx", "httpx2", "requests"})
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
_USER_IN_URL: Final = r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*@(?=\S*$)"


def gets_credential(name: str, value: Any) -> bool:
    """Whether the setting *name* gets a credential when a request is sent: it is a function that
    returns one, or it is what an HTTP client changes its requests by."""
    name = plain_name(name)
    if name == "event_hooks":
        return isinstance(value, Mapping) and bool(value.get("request"))
    if name == "auth" and value is not None and _library(type(value)) in _TRANSPORT_LIBRARIES:
        return type(value).__name__ != "BasicAuth"
    named = is_credential(name) or name == "security" or name.endswith(_GETTERS)
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
            return without_user(str(url))
    return None


def settings_of_client(client: Any) -> Iterator[tuple[str, str]]:
    """What an SDK's client may have read from the environment, and sends."""
    url = endpoint_of(client)
    if url:
        yield "base_url", url
    for holder in (client, _attribute(client, "_client")):
        for name in ("organization", "project"):
            value = _attribute(holder, name)
            if isinstance(value, str):
                yield name, value


def added_by_client(client: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The "headers" and the "query" that *client*, or that which it sends its requests by, was made
    to add to each of them; those of an HTTP library's client include its defaults."""
    for holder in (client, getattr(client, "__dict__", {}).get("_client")):
        if is_http_client(holder):
            found = _attribute(holder, "headers"), _attribute(holder, "params")
        else:
            state = getattr(holder, "__dict__", None) or {}
            found = state.get("_custom_headers"), state.get("_custom_query")
        for kind, items in zip(("headers", "query"), found, strict=True):
            if items and isinstance(items, Mapping):
                yield kind, items


def is_http_client(value: Any) -> bool:
    """Whether *value* is the client or session of an HTTP library."""
    kind: Any = type(value)
    return _is_http_class(kind)


@lru_cache(maxsize=512)
def _is_http_class(kind: Any) -> bool:
    return _library(kind) in _HTTP_LIBRARIES and kind.__name__.endswith(("Client", "Session"))


def _is_sdk_client(value: Any) -> bool:
    """Whether *value* is a client, or a resource of one, of a known SDK."""
    kind = type(value)
    if _library(kind) not in _SDKS or has_state(kind) or isinstance(value, (type, Enum)):
        return False
    named = "Client" in kind.__name__ or hasattr(value, "sdk_configuration")
    return named or endpoint_of(value) is not None


def is_client(name: str, value: Any) -> bool:
    if isinstance(value, (str, int, float, Mapping, list, tuple)):
        return False
    named = plain_name(name) in _CLIENTS and endpoint_of(value) is not None
    return named or _is_sdk_client(value)


def is_transport(value: Any) -> bool:
    """Whether *value* is an object of how calls are made, by the library that it is from."""
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in _SDKS | _TRANSPORT_LIBRARIES
    kind = type(value)
    library = _library(kind)
    return (
        library in _TRANSPORT_LIBRARIES and kind.__name__ not in ("URL", "Headers")
    ) or _is_sdk_client(value)


def is_of_program(kind: type) -> bool:
    """Whether *kind* is a class of a program, and derived from none of an SDK or a framework."""
    roots = {_library(base) for base in kind.__mro__}
    return roots.isdisjoint(_SDKS) and not any(root.startswith(_FRAMEWORKS) for root in roots)


def has_state(kind: type) -> bool:
    """Whether the objects of *kind* are their fields: pydantic models and dataclasses."""
    return hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__dataclass_fields__")


def without_user(text: str) -> str:
    return re.sub(_USER_IN_URL, r"\1", text) if "@" in text else text


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001  # a property of a foreign class
        return None
