"""Which headers and query fields can change an answer, and which headers are stored with one."""

import re
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Final
from urllib.parse import parse_qsl

from llm_cache_mem.keys.identity import secret_digest
from llm_cache_mem.keys.names import CREDENTIAL_QUERY, header_kind

__all__ = [
    "AGE",
    "MARK",
    "SAVED_SECONDS",
    "SAVED_TOKENS",
    "SAVED_USD",
    "answer_changing",
    "answer_changing_query",
    "credentials_of",
    "stored_headers",
]

MARK: Final = "x-llm-cache-mem"
"""The header that tells where an answer came from: "hit", "coalesced" (a call that another caller
made) or "miss"."""
SAVED_USD: Final = "x-llm-cache-saved-usd"
SAVED_TOKENS: Final = "x-llm-cache-saved-tokens"
SAVED_SECONDS: Final = "x-llm-cache-saved-seconds"
"""The headers of a hit that say what the stored call cost, as far as that is known."""
AGE: Final = "age"

_PLAIN_ACCEPT: Final = frozenset({"*/*", "application/json", ""})
# Known to hold no secret, so that key functions and explanations may see their values.
_SHOWN_HEADERS: Final = frozenset(
    {
        "accept", "anthropic-beta", "anthropic-dangerous-direct-browser-access",
        "anthropic-version", "api-version", "extra-parameters", "openai-beta", "openai-version",
    }
)  # fmt: skip
_SHOWN_PREFIX: Final = "x-amzn-bedrock-"
_SHOWN_QUERY: Final = frozenset({"$alt", "alt", "api-version", "beta", "version"})

# Headers of a response that SDKs and callers read and that hold for a hit too. Request ids, dates,
# cookies, rate limits and the framing of the bytes belong to one exchange.
_STORED: Final = re.compile(
    r"^content-type$|^openai-(model|version)$|^x-amzn-bedrock-(content-type|performanceconfig-latency)$|^x-ms-served-model$"
)


def answer_changing(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those of a request's *headers* that can change its answer, by lower-case name.

    These are all but the credential and the transport headers of keys/identity.py. Only the values
    of known headers are shown: any other may hold a secret, so a digest stands for it.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        if header_kind(name) != "identity":
            continue
        if name == "accept" and value.strip().lower() in _PLAIN_ACCEPT:
            continue
        found[name] = f"{found[name]}, {value}" if name in found else value
    return {
        name: value if _is_shown(name) else secret_digest(value)
        for name, value in sorted(found.items())
    }


def answer_changing_query(query: str) -> list[list[str]]:
    """Those fields of a URL's *query* that can change the answer, as ``answer_changing``.

    The order of fields of one name counts, and no other.
    """
    if not query:
        return []
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return [
        [name, value if name.lower() in _SHOWN_QUERY else secret_digest(value)]
        for name, value in sorted(pairs, key=itemgetter(0))
        if name.lower() not in CREDENTIAL_QUERY
    ]


def credentials_of(headers: Iterable[tuple[str, str]], query: str) -> list[tuple[str, str]]:
    """The credentials in *headers* and in a URL's *query*."""
    found = [(name, value) for name, value in headers if header_kind(name) == "credential"]
    fields = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    found += [(f"?{name}", value) for name, value in fields if name.lower() in CREDENTIAL_QUERY]
    return sorted(found)


def stored_headers(headers: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Those of a response's *headers* that are stored with it."""
    return [[name.lower(), value] for name, value in headers if _is_stored(name.lower())]


def _is_shown(name: str) -> bool:
    return name in _SHOWN_HEADERS or name.startswith(_SHOWN_PREFIX)


@lru_cache(maxsize=512)
def _is_stored(name: str) -> bool:
    return _STORED.search(name) is not None
