"""Which headers of a request can change its answer, and which of an answer are worth keeping."""

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Final

__all__ = ["AGE", "MARK", "answer_changing", "is_per_call", "stored_headers"]

MARK: Final = "x-llm-cache-mem"
"""The header that tells where an answer came from: "hit", "coalesced" (a call that another caller
made) or "miss"."""
AGE: Final = "age"

# How the bytes travel, who asks and who pays, and what is new for each call. Everything else
# counts: to leave out a header that changes answers would give wrong ones, to count one that does
# not is only a miss.
_TRANSPORT: Final = frozenset(
    {
        "accept-encoding", "accept-language", "cache-control", "connection", "content-length",
        "content-type", "date", "expect",
        "forwarded", "host", "http-referer", "keep-alive", "origin", "pragma", "priority",
        "proxy-connection", "referer", "te", "trailer",
        "transfer-encoding", "upgrade", "user-agent", "via",
    }
)  # fmt: skip
_IDENTITY: Final = re.compile(
    r"auth|secret|passw|credential|cookie|signature|(^|[-_])(api|access|session|virtual|private|subscription)?[-_]?(key|token)s?$"
    r"|organi[sz]ation|(^|-)project$|user-project|account|tenant|title$|originator|(^|-)(user|client|session|conversation)(-(id|name))?$"
)
_PER_CALL: Final = re.compile(
    r"^x-stainless-|^x-fern-|^amz-sdk-|^x-goog-api-client$|^x-amz-(date|content-sha256)|^x-forwarded-|^sec-|^cf-|^sentry-|^x-datadog-|newrelic|dynatrace|instana"
    r"|^x-langsmith-|^b3$|^x-b3-|^uber-|trace|^baggage$|idempoten|(request|correlation|span|invocation|run|message|event)-?(id|ids)$|retry"
    r"|timeout|timestamp|attempt"
)
_PLAIN_ACCEPT: Final = frozenset({"*/*", "application/json", ""})
# These are known to hold no secret, so that the key function, and whoever explains a miss, may see
# their values.
_KNOWN: Final = re.compile(
    r"^(anthropic|openai)-(beta|version|.*-access)$|^api-version$|^accept$|^x-amzn-bedrock-|^extra-parameters$|-beta$|-version$"
)

# Of an answer: what SDKs and callers read of it that stays true when it is given again. What
# belongs to one exchange is dropped: its request ids, dates, cookies and rate limits, and how its
# bytes were framed.
_STORED: Final = re.compile(
    r"^content-type$|^openai-(model|version)$|^x-amzn-bedrock-(content-type|performanceconfig-latency)$|^x-ms-served-model$"
)


def is_per_call(name: str) -> bool:
    """Whether the header *name* is new for each call, or each try of one."""
    return _PER_CALL.search(name.lower()) is not None


def answer_changing(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those of a request's *headers* that can change its answer, by lower-case name.

    The value of a header that nobody here knows is given as a digest, since it may be a secret
    under a name of the caller's own.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        if not _counts(name):
            continue
        if name == "accept" and value.strip().lower() in _PLAIN_ACCEPT:
            continue
        found[name] = f"{found[name]}, {value}" if name in found else value
    return {
        name: value if _KNOWN.search(name) else _digest(value)
        for name, value in sorted(found.items())
    }


def _digest(value: str) -> str:
    return "sha256:" + sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def stored_headers(headers: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Those of a response's *headers* that are stored with it."""
    return [[name.lower(), value] for name, value in headers if _is_stored(name.lower())]


@lru_cache(maxsize=512)
def _counts(name: str) -> bool:
    return name not in _TRANSPORT and not _IDENTITY.search(name) and not _PER_CALL.search(name)


@lru_cache(maxsize=512)
def _is_stored(name: str) -> bool:
    return _STORED.search(name) is not None
