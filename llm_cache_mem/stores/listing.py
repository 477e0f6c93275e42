"""Entries as plain dicts: what listings in a terminal, in JSON and on the gateway's page show."""

import math
from typing import Any, NamedTuple

from llm_cache_mem.keys.digest import KeyParts
from llm_cache_mem.responses.usage import Usage
from llm_cache_mem.values.entry import Entry

__all__ = ["Found", "describe", "finite"]


class Found(NamedTuple):
    """An entry with its key, and that key taken apart. *hidden_by* as in Line."""

    key: str
    parts: KeyParts
    entry: Entry
    hidden_by: str = ""


def describe(found: Found, now: float) -> dict[str, Any]:
    """All about an entry but its value and its request. Times are Unix seconds; None is unknown,
    and for *expires_at* never."""
    entry, parts = found.entry, found.parts
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
        "depends_on": [" ".join(name.split("\n")) for name in entry.depends_on],
    }


def finite(number: float | None) -> float | None:
    """*number*, or None where it is infinite or not a number, which JSON cannot say."""
    return number if number is not None and math.isfinite(number) else None
