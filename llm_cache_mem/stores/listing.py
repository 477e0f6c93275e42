"""Entries as plain dicts: what listings in a terminal, in JSON and on the gateway's page show."""

import json
import math
from typing import Any, NamedTuple

from llm_cache_mem.accounting.counts import EntryHits
from llm_cache_mem.keys.digest import KeyParts
from llm_cache_mem.keys.functions import is_from_user
from llm_cache_mem.responses.usage import Usage
from llm_cache_mem.values.entry import Entry

__all__ = ["Found", "beginning", "describe", "finite", "holds"]


class Found(NamedTuple):
    """An entry with its key, and that key taken apart. *hidden_by* as in Line. *hits* is None where
    the store does not count them, or was not asked."""

    key: str
    parts: KeyParts
    entry: Entry
    hidden_by: str = ""
    hits: EntryHits | None = None


def describe(found: Found, now: float) -> dict[str, Any]:
    """All about an entry but its value and its request. Times are Unix seconds; None is unknown,
    and for *expires_at* never."""
    entry, parts, hits = found.entry, found.parts, found.hits
    return {
        "key": found.key,
        "namespace": parts.namespace,
        "kind": parts.kind,
        "digest": parts.digest,
        "sample": parts.sample or 0,
        "model": entry.model,
        "stored_at": entry.stored_at,
        "expires_at": finite(entry.expires_at),
        "expired": entry.is_expired(now),
        "bytes": entry.size,
        "usage": None if entry.usage is None else Usage(*entry.usage)._asdict(),
        "cost_usd": finite(entry.cost_usd),
        "seconds": finite(entry.seconds),
        "hits": None if hits is None else hits.hits,
        "last_hit_at": hits.last if hits is not None and hits.hits else None,
        "depends_on": [" ".join(name.split("\n")) for name in entry.depends_on],
    }


def holds(found: Found, text: str) -> bool:
    """Whether *text* is in the key, the model or the stored request, whatever its case."""
    wanted, request = text.lower(), found.entry.request or b""
    return (
        wanted in found.key.lower()
        or wanted in (found.entry.model or "").lower()
        or wanted in request.decode("utf-8", "replace").lower()
    )


def beginning(entry: Entry, most: int = 60) -> str:
    """The beginning of the last user text of the request stored with *entry*, on one line; empty
    without one."""
    request = None if entry.request is None else json.loads(entry.request)
    messages = request.get("messages") if isinstance(request, dict) else None
    asked = [messages] if isinstance(messages, str) else filter(is_from_user, messages or ())
    content: Any = ""
    for message in asked:
        content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    text = " ".join(str(content or "").split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def finite(number: float | None) -> float | None:
    """*number*, or None where it is infinite or not a number, which JSON cannot say."""
    return number if number is not None and math.isfinite(number) else None
