"""Where the answer of each endpoint holds what was asked for: a JSON object without it is empty."""

import re
from functools import lru_cache
from typing import Any, Final

__all__ = ["is_hollow"]

_PAYLOADS: Final = (
    (r"(chat|fim|agents)/completions", "choices"),
    (r"completions", "choices content"),
    (r"responses", "output"),
    (r"messages", "content"),
    (r"[^/]+(?::|%3A)generateContent", "candidates response"),
    (r"model/[^/]+/converse", "output"),
    (r"v[12]/chat", "message text output choices response responses search_queries tool_calls"),
    (r"embeddings|api/embed|v[12]/embed", "data embeddings embedding results"),
    (r"[^/]+(?::|%3A)(embedContent|batchEmbedContents)", "embedding embeddings"),
    (r"moderations|classifications", "results"),
    (r"rerank", "results data"),
    (r"(responses/input|messages/count)_tokens", "input_tokens"),
    (r"[^/]+(?::|%3A)countTokens", "totalTokens"),
    (r"model/[^/]+/count-tokens", "inputTokens"),
)
"""Endings of paths, the first that fits, with the fields of which an answer has at least one.
Others, such as Bedrock's ``invoke``, answer in the form of each model; ``/api/chat`` is also that
of many applications."""
_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})
_PATH: Final = re.compile(
    "|".join(rf"(?P<_{n}>(?:^|/)(?:{path})/?$)" for n, (path, _) in enumerate(_PAYLOADS))
)


def is_hollow(path: str, answer: Any) -> bool:
    """Whether *answer* is JSON without that which the endpoint at *path* answers with: an object
    whose fields for it are absent or empty, or bare text or a number. (Some answer with a list.)"""
    fields = _fields(path)
    if not fields or isinstance(answer, list):
        return False
    if not isinstance(answer, dict):
        return True
    return all(_is_nothing(name, answer.get(name)) for name in fields)


def _is_nothing(name: str, payload: Any) -> bool:
    if name == "results":  # of documents, none may be relevant
        return payload is None
    return all(part in _NOTHING for part in (payload if isinstance(payload, list) else (payload,)))


@lru_cache(maxsize=1024)
def _fields(path: str) -> tuple[str, ...]:
    found = _PATH.search(path)
    return () if found is None else tuple(_PAYLOADS[int(str(found.lastgroup)[1:])][1].split())
