"""Keys: two requests share one exactly when they would be the same JSON on the wire."""

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from types import ModuleType
from typing import Any, NamedTuple

from llm_cache_mem._util.compiled import speedups
from llm_cache_mem.keys.arguments import exact_request, exact_value
from llm_cache_mem.keys.canonical import MAX_DEPTH, Walk, escaped, plain_request, text_of
from llm_cache_mem.keys.functions import ignoring, last_turn, masking
from llm_cache_mem.keys.memo import Memo
from llm_cache_mem.keys.wire_form import Refused

__all__ = [
    "DEFAULT_IGNORE",
    "MAX_DEPTH",
    "SCHEMA",
    "KeyParts",
    "canonical",
    "canonical_json",
    "digest",
    "digest_of",
    "forget",
    "ignoring",
    "last_turn",
    "masking",
    "parse",
    "prefix",
]

SCHEMA = 1
"""The version of the canonical form, in front of every key. A change of form is a new number."""

DEFAULT_IGNORE = frozenset(
    {
        # Who pays for the call, not what is asked. Tenants that must not share answers have a
        # namespace each.
        "api_key",
        "auth_token",
        "azure_ad_token",
        # How long to wait and how often to try: the request is the same every time.
        "timeout",
        "request_timeout",
        "stream_timeout",
        "max_retries",
        "num_retries",
        # A header that is new for every call by design.
        "idempotency_key",
        # Not here: extra_headers (a beta header changes answers), extra_body, extra_query,
        # base_url, api_version, stream, user, metadata, seed, service_tier: they reach the
        # provider. ignoring("user") leaves out what an application knows better.
    }
)


def _nothing(slot: int) -> None:
    """Requests are added to their memo as they come, not by their prints."""


_requests = Memo(_nothing, lambda slot, seen: seen[1])
"""By fingerprint: our own copy of a plain request, its size, and its digest."""


def forget() -> None:
    """Forget every digest worked out so far; keys stay as they are. For benchmarks, and to get that
    memory back."""
    _requests.clear()
    escaped.clear()


def digest(messages: Any, params: Mapping[str, Any], *, exact: bool = False) -> str:
    """The hex SHA-256 of the request's canonical text; any thread. Raises RequestNotCacheable.

    *exact*: whether these are the arguments of a program's own function, see ``exact_request``.
    """
    if speedups is not None and type(params) is dict and "messages" not in params:
        request = {"messages": messages, **params}
        text = speedups.text_or_print(request)
        if type(text) is bytes:
            return sha256(text).hexdigest()
        found = None if text is NotImplemented else _recognized(speedups, text, request)
        if found is not None:
            return found
    if exact:
        messages, params = exact_request(messages, params)
    return sha256(canonical(messages, params).encode()).hexdigest()


def _recognized(compiled: ModuleType, slot: int, request: dict[str, Any]) -> str | None:
    """The digest of a large plain request with the print *slot*; None for one that is to be
    refused.

    One seen before is recognised by comparing all of it, by values and types, with our own copy: it
    need not be written out again.
    """
    seen = _requests.get(slot)
    if seen is not None and compiled.same(seen[0], request):
        return seen[2]  # type: ignore[no-any-return]  # put there below
    seen = compiled.snapshot(request)
    text = seen if seen is NotImplemented else compiled.canonical(seen[0])
    if text is NotImplemented:
        return None
    made = sha256(text).hexdigest()
    _requests.keep(slot, (*seen, made))
    return made


def digest_of(obj: Any, *, exact: bool = False) -> str:
    """The same for what a key function returned: ``digest_of({"messages": m, **params}) ==
    digest(m, params)``."""
    if type(obj) is dict and "messages" in obj:
        params = obj.copy()
        return digest(params.pop("messages"), params, exact=exact)
    if exact:
        obj = exact_value(obj)
    walk = Walk()
    try:
        tree = walk.plain(obj)
    except Refused as refused:
        raise refused.error() from None
    return sha256(text_of(walk, tree).encode()).hexdigest()


def canonical(messages: Any, params: Mapping[str, Any]) -> str:
    """The text that ``digest`` hashes: ``json.dumps({"messages": messages, **params},
    sort_keys=True)`` for plain JSON."""
    walk = Walk()
    own_messages, own_params = plain_request(walk, messages, params)
    return text_of(walk, {"messages": own_messages, **own_params})


def canonical_json(messages: Any, params: Mapping[str, Any], *, exact: bool = False) -> str:
    """The same as JSON whatever the request holds: without the prefix of those with values that
    JSON has no form for."""
    if exact:
        messages, params = exact_request(messages, params)
    text = canonical(messages, params)
    return text[text.index("{") :]


class KeyParts(NamedTuple):
    """A stored key taken apart. *namespace* is ``~`` and a hash where the name was too long to
    stand in the key."""

    schema: int
    namespace: str
    kind: str
    digest: str
    sample: int | None


_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
# + schema, kind, digest and sample: below the 250 bytes that memcached allows
_LONGEST_NAMESPACE = 110
_LONGEST_KIND = 40


@lru_cache(maxsize=1024)
def prefix(namespace: str, kind: str | None = None) -> str:
    """What every key of *namespace* (and *kind*) begins with, and no other key; at most 155 ASCII
    characters, none special to a glob."""
    if not isinstance(namespace, str):
        raise TypeError(f"namespace must be a str, not {type(namespace).__name__}")
    name = "".join(
        chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02X}" for byte in namespace.encode()
    )
    if len(name) > _LONGEST_NAMESPACE:
        name = "~" + sha256(name.encode()).hexdigest()  # a plain name never holds a ~
    if kind is None:
        return f"{SCHEMA}:{name}:"
    if not kind or len(kind) > _LONGEST_KIND or not _PLAIN_BYTES.issuperset(kind.encode()):
        raise ValueError(
            f"kind must be 1 to {_LONGEST_KIND} of letters, digits, '-', '_' and '.': {kind!r}"
        )
    return f"{SCHEMA}:{name}:{kind}:"


def namespace_prefix(key: str) -> str:
    """What the stored *key* has in common with all of its namespace: ``prefix(namespace)``."""
    return key[: key.index(":", key.index(":") + 1) + 1]


@lru_cache(maxsize=1)  # compiled when first used
def _stored() -> re.Pattern[str]:
    return re.compile(
        r"([0-9]{1,6}):((?:[\w.-]|%[0-9A-F]{2})*|~[0-9a-f]{64}):([\w.-]+)"
        r":([0-9a-f]{64})(?:\.([0-9]{1,20}))?",
        re.ASCII,
    )


def parse(key: str) -> KeyParts:
    """Take a stored key apart; ValueError for one that is not ours."""
    found = _stored().fullmatch(key)
    if found is None:
        raise ValueError("not a key of this library")
    schema, name, kind, hexdigest, sample = found.groups()
    return KeyParts(
        int(schema), _unquote(name), kind, hexdigest, None if sample is None else int(sample)
    )


def place_of(key: str) -> tuple[str, str]:
    """The namespace of a stored *key*, and the layer through which it came: the first word of its
    kind, or ``core`` for calls of LLMCache itself."""
    return _place(key.rpartition(":")[0])


@lru_cache(maxsize=1024)
def _place(prefix: str) -> tuple[str, str]:
    name, _, kind = prefix.partition(":")[2].partition(":")
    layer = kind.partition(".")[0]
    layer = next((known for known in _LAYERS if layer.startswith(known)), layer)
    return _unquote(name), "core" if layer in ("value", "stream", "") else layer


_LAYERS = ("langchain", "tool")


def _unquote(name: str) -> str:
    if "%" not in name:
        return name
    first, *rest = name.split("%")
    return (
        first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
    ).decode()
