"""Rewrite a stored response so that it reports no tokens, for layers whose hits bill nothing."""

import json
from typing import Any, Final

from llm_cache_mem.http.answer import StoredResponse

__all__ = ["without_usage"]

_USAGE: Final = frozenset({"usage", "usageMetadata", "usage_metadata", "billed_units", "tokens"})
# Ollama reports its counts beside the answer.
_COUNTS: Final = frozenset({"prompt_eval_count", "eval_count"})
# What usage is inside of: a message that begins, the end of a response, Groq's extension, Cohere's.
_AROUND: Final = frozenset({"message", "response", "x_groq", "meta", "delta", "metadata"})


def without_usage(response: StoredResponse) -> list[bytes]:
    """The chunks of *response*, with zeros for its tokens. Amazon's binary event streams stay as
    they are."""
    body = b"".join(response.chunks)
    whole = _rewritten(body)
    if whole is not None:
        return [whole]
    lines = body.splitlines(keepends=True)
    changed = [_line(line) for line in lines]
    if changed == lines:
        return response.chunks
    return [b"".join(changed)]


def _line(line: bytes) -> bytes:
    """A line of a stream of server-sent events, or of JSON values."""
    start = b"data:" if line.startswith(b"data:") else b""
    rest = line[len(start) :]
    text = rest.strip()
    if not text.startswith(b"{"):
        return line
    made = _rewritten(text)
    return line if made is None else start + rest.replace(text, made)


def _rewritten(text: bytes) -> bytes | None:
    """*text* without its usage, as JSON; None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return text
    return json.dumps(_without(value), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _without(value: dict[str, Any]) -> dict[str, Any]:
    made = dict(value)
    for name, part in value.items():
        if name in _USAGE and isinstance(part, dict):
            made[name] = _zero(part)
        elif name in _COUNTS and isinstance(part, int):
            made[name] = 0
        elif name in _AROUND and isinstance(part, dict):
            made[name] = _without(part)
    return made


def _zero(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _zero(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_zero(part) for part in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value)(0) if is_number else value
