"""Where the answer of each endpoint holds what was asked for: a JSON object without it is empty."""

import re
from functools import lru_cache
from typing import Any, Final

__all__ = ["is_hollow"]

_PAYLOADS: Final = (
    (r"(chat/|fim/|agents/)?completions", "choices"),
    (r"responses", "output"),
    (r"messages", "content"),
    (r"[^/]+(?::|%3A)generateContent", "candidates promptFeedback"),
    (r"model/[^/]+/converse", "output"),
    (r"v[12]/chat", "message text output choices response"),
    (r"embeddings|api/embed|v[12]/embed", "data embeddings embedding"),
    (r"[^/]+(?::|%3A)(embedContent|batchEmbedContents)", "embedding embeddings"),
    (r"moderations|classifications", "results"),
    (r"rerank", "results data"),
    (r"(responses/input|messages/count)_tokens", "input_tokens"),
    (r"[^/]+(?::|%3A)countTokens", "totalTokens"),
    (r"model/[^/]+/count-tokens", "inputTokens"),
)
"""Endings of paths, with the fields of which an answer has at least one. Others, such as Bedrock's
``invoke``, answer in the form of each model; ``/api/chat`` is also that of many applications."""
_PATH: Final = re.compile(
    "|".join(rf"(?P<_{n}>(?:^|/)(?:{path})/?$)" for n, (path, _) in enumerate(_PAYLOADS))
)


def is_hollow(path: str, answer: Any) -> bool:
    """Whether *answer* is a JSON object without that which the endpoint at *path* answers with."""
    if not isinstance(answer, dict):
        return False
    fields = _fields(path)
    return bool(fields) and all(answer.get(name) is None for name in fields)


@lru_cache(maxsize=1024)
def _fields(path: str) -> tuple[str, ...]:
    found = _PATH.search(path)
    return () if found is None else tuple(_PAYLOADS[int(str(found.lastgroup)[1:])][1].split())
